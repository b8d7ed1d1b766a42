"""`lst make-benchmark`: a benchmark of text, spoken. Prompt and endings separately, by one voice or several.

The output is `lst.spoken/1`: `items.jsonl` in lst's own layout with its sound files and card, which `lst eval` reads
like any other benchmark. Every text is spoken once per voice; the sounds are kept in the user's cache by voice and
text, so that a killed run goes on and another benchmark does not speak the same sentence again.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import Field

from lst.audio.voices import Voice, open_voice
from lst.config import StageConfig
from lst.constants import SAMPLE_RATE
from lst.errors import LstError
from lst.evaluate.benchmark import CARD_FILE, BenchmarkConfig, read_benchmark
from lst.evaluate.data import cache_home
from lst.evaluate.readers import SourceItem
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    Rejection,
    StageSpec,
    build_directory,
    sha256_bytes,
    sha256_json,
    write_atomic,
    write_json,
)

VERSION = 1
ITEMS_FILE = "items.jsonl"
BATCH = 32
"""Texts given to a program at a time: what a kill can cost."""


class MakeBenchmarkConfig(StageConfig):
    """Who speaks what."""

    kind: str = Field("auto", description="benchmark that the text is; auto: as its card or layout says")
    voices: list[str] = Field(min_length=1, description="ENGINE:NAME, see lst.audio.voices")
    rotate: bool = Field(False, description="one voice per item, by a hash of its id, instead of every voice")
    items: int | None = Field(None, ge=1, description="at most so many items, chosen by a hash of seed and id")
    seed: int = Field(0, ge=0, description="of the choice of items")


def make_benchmark(
    src: Path,
    out: Path,
    config: MakeBenchmarkConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
) -> Manifest:
    """Speak the text benchmark at `src` and commit it at `out` as `lst.spoken/1`. `workers`: programs at a time.

    A text that cannot be spoken rejects its items. Raises LstError if `src` has no text, or a voice is missing.
    """
    voices = [open_voice(spec) for spec in config.voices]
    if len({voice.label for voice in voices}) != len(voices):
        raise LstError("Two voices have the same name.", hint="Rename one of the voice files.")
    source, kind, about = read_benchmark(src, BenchmarkConfig(kind=config.kind))
    items = [item for item in source.items if item.choices_text and (item.context_text or not item.has_context)]
    if not items:
        raise LstError(f"{src} has no item whose prompt and endings are text.", hint="Give a text benchmark.")
    items.sort(key=lambda item: sha256_bytes(f"{config.seed}/{item.id}".encode()))
    items = items[: config.items]
    readings = [(item, voice) for item in items for voice in (_one(item, voices) if config.rotate else voices)]
    settings = config.as_json() | {"kind": kind, "voices": [voice.label for voice in voices]}
    spec = StageSpec(
        schema="lst.spoken/1",
        stage="make-benchmark",
        version=VERSION,
        config=settings,
        provenance=[about],
        files={
            "items": sha256_json([vars(item) for item in items]),
            "voices": sha256_json([voice.identity for voice in voices]),
        },
    )

    def make(directory: Path) -> DirectoryResult:
        wanted = list(dict.fromkeys((voice, text) for item, voice in readings for text in _texts(item)))
        silent = _speak_all(wanted, workers, progress)
        return _write(directory, readings, silent, about | {"kind": kind})

    return build_directory(out, spec, make, force=force)


def _one(item: SourceItem, voices: Sequence[Voice]) -> list[Voice]:
    return [voices[int(sha256_bytes(item.id.encode())[:8], 16) % len(voices)]]


def _texts(item: SourceItem) -> list[str]:
    return [*([item.context_text] if item.has_context else []), *item.choices_text]


def _speak_all(
    wanted: Sequence[tuple[Voice, str]], workers: int, progress: Progress | None
) -> dict[tuple[Voice, str], str]:
    """Put every (voice, text) into the cache; those that failed, with the reason."""
    report = progress or (lambda *_: None)
    left = [pair for pair in wanted if not sound_file(*pair).is_file()]
    tasks: list[tuple[Voice, list[str]]] = []
    for voice in dict.fromkeys(voice for voice, _ in left):
        texts = [text for other, text in left if other == voice]
        tasks += [(voice, texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    failed: dict[tuple[Voice, str], str] = {}
    done = len(wanted) - len(left)
    report(done, len(wanted), "texts")
    with ThreadPoolExecutor(workers) as pool:
        for (voice, texts), bad in zip(tasks, pool.map(_speak_batch, tasks), strict=True):
            failed |= {(voice, text): why for text, why in bad.items()}
            done += len(texts)
            report(done, len(wanted), "texts")
    return failed


def _speak_batch(task: tuple[Voice, list[str]]) -> dict[str, str]:
    """Speak a batch into the cache; if it fails as a whole, text by text, to know which one it was."""
    voice, texts = task
    try:
        _keep(voice, texts)
    except LstError as error:
        if len(texts) == 1:
            return {texts[0]: error.message}
        return {text: why for single in texts for text, why in _speak_batch((voice, [single])).items()}
    return {}


def _keep(voice: Voice, texts: list[str]) -> None:
    import io

    import soundfile

    for text, samples in zip(texts, voice.speak(texts), strict=True):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC")
        path = sound_file(voice, text)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())


def sound_file(voice: Voice, text: str) -> Path:
    """Where the sound of a text by a voice is kept: FLAC, 16 kHz mono."""
    key = sha256_json([VERSION, voice.identity, text])
    return cache_home() / "spoken" / key[:2] / f"{key}.flac"


def _write(
    directory: Path,
    readings: Sequence[tuple[SourceItem, Voice]],
    silent: dict[tuple[Voice, str], str],
    card: dict[str, str],
) -> DirectoryResult:
    """Copy the sounds, and write the items and their card."""
    rows: list[dict[str, Any]] = []
    rejected: list[Rejection] = []
    names: dict[tuple[Voice, str], str] = {}
    several = len({voice for _, voice in readings}) > 1
    seconds = 0.0
    for item, voice in readings:
        name = f"{item.id}/{voice.label}" if several else item.id
        bad = next((text for text in _texts(item) if (voice, text) in silent), None)
        if bad is not None:
            rejected.append(Rejection(name, "not-spoken", silent[voice, bad]))
            continue
        for text in _texts(item):
            if (voice, text) not in names:
                names[voice, text] = f"audio/{voice.label}/{sha256_bytes(text.encode())[:20]}.flac"
                seconds += _copy(sound_file(voice, text), directory / names[voice, text])
        row: dict[str, Any] = {"id": name, "group": item.group or item.id, "category": item.category}
        if item.has_context:
            row |= {"context": item.context_text, "context_audio": names[voice, item.context_text]}
        row |= {"choices": list(item.choices_text), "label": item.label}
        rows.append(row | {"choices_audio": [names[voice, text] for text in item.choices_text]})
    if not rows:
        raise LstError(f"No item could be spoken (first: {rejected[0].id}: {rejected[0].detail})")
    write_atomic(directory / ITEMS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    voices = ", ".join(dict.fromkeys(voice.label for _, voice in readings))
    write_json(directory / CARD_FILE, card | {"source": f"{card['source']}; spoken by {voices}"})
    files = [ITEMS_FILE, CARD_FILE, *sorted(set(names.values()))]
    totals = {"items": len(rows), "sounds": len(names), "hours": round(seconds / 3600, 6)}
    return DirectoryResult(files, totals=totals, rejected=rejected)


def _copy(source: Path, target: Path) -> float:
    """Copy a sound of the cache; returns its length in seconds."""
    import soundfile

    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, source.read_bytes())
    return float(soundfile.info(target).duration)
