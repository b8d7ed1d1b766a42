"""People's Speech: Parquet shards as Hugging Face serves them, or JSON lines with tar archives or extracted folders."""

import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lst.audio.containers import parquet_address, tar_address
from lst.audio.corpora.base import CorpusReader, Utterance, first_file, walk
from lst.audio.text import decode
from lst.errors import LstError

TEXT_COLUMNS = ("text", "transcript", "sentence")

LONGEST_RECORD = 1 << 28
"""Bytes of a line of JSON: it lists all the utterances of a recording, hours of them."""


def read_peoples_speech(src: Path) -> Iterator[Utterance]:
    """Two layouts, also mixed:

    - `clean/train-00000-of-00804.parquet` with columns `id`, `audio` (struct of bytes, path), `duration_ms`, `text`;
    - `train/clean.json`, a JSON object a line, `{"identifier": ..., "training_data": {"duration_ms": [...],
      "label": [...], "name": [...]}}`, where a name is a FLAC in the folder `train/clean/` or in one of its tars.
      A list without its folder is passed over: `clean_000000.json` repeats the first tar's part of `clean.json`.
    """
    for directory, files in walk(src):
        for name in files:
            if name.endswith(".parquet"):
                yield from _read_parquet(directory / name)
            elif name.endswith((".json", ".jsonl")) and _is_manifest(directory / name):
                if not (directory / name).with_suffix("").is_dir():
                    continue
                yield from _read_manifest(directory / name)


def _read_parquet(path: Path) -> Iterator[Utterance]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        yield Utterance(str(path), problem=("audio-unreadable", f"{path.name} is not a Parquet file ({error})"))
        return
    names = file.schema_arrow.names
    text = next((name for name in TEXT_COLUMNS if name in names), None)
    if "audio" not in names or text is None:
        raise LstError(f"{path} has the columns {', '.join(names)}.", hint="`audio` and `text` are needed.")
    columns = [text, *(["speaker_id"] if "speaker_id" in names else [])]
    row = 0
    for batch in file.iter_batches(batch_size=4096, columns=columns):
        for entry in batch.to_pylist():
            speaker = entry.get("speaker_id")
            yield Utterance(parquet_address(str(path), row), entry[text] or "", "" if speaker is None else str(speaker))
            row += 1


def _is_manifest(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"training_data"' in file.read(1 << 20)


def _read_manifest(path: Path) -> Iterator[Utterance]:
    folder = path.with_suffix("")
    members = _index(sorted(folder.glob("*.tar")))
    with path.open("rb") as file:
        for number, raw in enumerate(iter(partial(file.readline, LONGEST_RECORD), b""), 1):
            line, problem = decode(raw, f"{path.name}, line {number}")
            if not line.strip():
                continue
            try:
                data = json.loads(line)["training_data"]
                entries = list(zip(data["name"], data["label"], strict=True))
            except (ValueError, KeyError, TypeError) as error:
                detail = f"{path.name}, line {number}: {type(error).__name__}: {error}"
                yield Utterance(str(folder / f"line-{number}"), problem=("bad-line", detail))
                continue
            for name, text in entries:
                yield Utterance(_locate(folder, str(name), members), str(text or ""), problem=problem)


def _index(tars: list[Path]) -> dict[str, str]:
    """Address by member name, from the headers of all archives."""
    members: dict[str, str] = {}
    for tar in tars:
        try:
            with tarfile.open(tar, "r:") as archive:
                for member in archive:
                    if member.isfile():
                        name = member.name.removeprefix("./")
                        members.setdefault(name, tar_address(str(tar), member.offset_data, member.size, name))
                    archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
        except (tarfile.TarError, OSError):
            # What was listed before the damage can be read; the rest is found missing, row by row.
            continue
    return members


def _locate(folder: Path, name: str, members: dict[str, str]) -> str:
    name = name.removeprefix("./")
    path = folder / name
    if name in members and not path.is_file():
        return members[name]
    return str(path)


def _detect(src: Path) -> bool:
    if first_file(src, lambda name: name.endswith(".parquet"), directories=200):
        return True
    found: Any = first_file(src, lambda name: name.endswith((".json", ".jsonl")), directories=50)
    return found is not None and _is_manifest(found)


PEOPLES_SPEECH = CorpusReader(
    name="peoples-speech",
    corpus="People's Speech",
    detect=_detect,
    read=read_peoples_speech,
    language="en",
    licence="CC BY 4.0 and CC BY-SA 4.0, by subset",
    source="https://mlcommons.org/datasets/peoples-speech",
    expects="SUBSET/*.parquet (columns audio, text), or SPLIT/SUBSET.json and SPLIT/SUBSET/*.tar or *.flac",
)
