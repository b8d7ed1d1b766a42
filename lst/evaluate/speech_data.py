"""Utterances with transcripts for `lst eval asr|tts`: a manifest that has them, or a corpus that ingest reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lst.errors import LstError
from lst.evaluate.data import cache_home, tokenizer_of
from lst.manifest import Manifest, Progress, iter_rows, load_manifest, open_input, parse_schema, sha256_bytes

Split = Literal["auto", "all", "train", "valid"]
WITH_UNITS = ("lst.units", "lst.aligned", "lst.pairs")


def speech_for(
    model: Manifest,
    data: Path,
    *,
    tokenizer: str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """`data` as a manifest of units and texts: as it is, or made once in the user's cache with the model's tokenizer.

    Raises LstError if it is neither a manifest of speech nor a corpus, or if the model's tokenizer is not here.
    """
    from lst.audio.stage import IngestConfig, ingest, ingest_spec
    from lst.units.stage import TokenizeAudioConfig, tokenize_audio, tokenize_audio_spec

    home = cache_home() / "speech"
    if (data / "manifest.json").is_file():
        audio = load_manifest(data)
        if parse_schema(audio.schema)[0] in WITH_UNITS:
            return audio
        if parse_schema(audio.schema)[0] != "lst.audio":
            raise LstError(
                f"{data} holds {audio.schema}: there is no speech in it.", hint="Give units, pairs, audio or a corpus."
            )
    else:
        settings = IngestConfig(require_text=True)
        out = home / f"{data.resolve().name}-{ingest_spec(data, settings).id[:16]}"
        out.parent.mkdir(parents=True, exist_ok=True)
        audio = ingest(data, out, settings, workers=workers, progress=progress)
    config = TokenizeAudioConfig(tokenizer=tokenizer or tokenizer_of(model))
    out = home / f"units-{tokenize_audio_spec(audio, config).id[:16]}"
    out.parent.mkdir(parents=True, exist_ok=True)
    return tokenize_audio(audio, out, config, workers=workers, progress=progress)


@dataclass(frozen=True)
class Spoken:
    """An utterance: its units (empty where only the text is known) and what is said."""

    id: str
    text: str
    units: list[int] = field(default_factory=list)


def utterances(data: Manifest, *, split: Split = "auto", rows: int | None = None, seed: int = 0) -> list[Spoken]:
    """Utterances of `data` that have a text; at most `rows`, chosen by a hash of seed and id, whatever their order.

    `split`: only these rows, where the manifest has splits; auto: the held-out ones if it has. Raises LstError if
    nothing is left.
    """
    has_split = parse_schema(data.schema)[0] == "lst.pairs"
    found: list[Spoken] = []
    held_out: list[Spoken] = []
    without_text = 0
    for row in iter_rows(data):
        if not (row["text"] or "").strip():
            without_text += 1
            continue
        one = Spoken(row["id"], row["text"], list(row["units"]))
        if not has_split or split in ("auto", "all", row["split"]):
            found.append(one)
        if has_split and row["split"] == "valid":
            held_out.append(one)
    if split == "auto" and held_out:
        found = held_out
    if not found:
        why = f"none of its {without_text} rows has a text" if without_text else f"it has no row of split {split}"
        raise LstError(f"There is nothing to compare in {data.path}: {why}.", hint="Give recordings with transcripts.")
    found.sort(key=lambda one: sha256_bytes(f"{seed}/{one.id}".encode()))
    return found[:rows]


def recordings_of(data: Manifest, ids: list[str]) -> list[Any] | None:
    """16 kHz samples (n,) of the rows `ids`, found through the lineage of `data`; None if the audio is not there."""
    from lst.audio import AudioError, open_row_audio

    try:
        audio = _audio_behind(data)
        wanted = set(ids)
        rows = {row["id"]: row for row in iter_rows(audio) if row["id"] in wanted}
        return [open_row_audio(audio, rows[name]) for name in ids]
    except (LstError, AudioError, KeyError):
        return None


def _audio_behind(data: Manifest) -> Manifest:
    """The `lst.audio` that a manifest of speech was made from."""
    while parse_schema(data.schema)[0] != "lst.audio":
        role = next((role for role in ("audio", "units", "aligned") if role in data.inputs), "audio")
        data = open_input(data, role)
    return data
