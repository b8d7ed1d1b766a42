"""What an ingestion will do, before any audio is decoded: the list of utterances, their ids and their hashes.

1. The corpus reader lists utterances (transcripts are parsed, no audio is opened); they are spooled to a temporary
   file, so that memory does not grow with the corpus.
2. The root of all recordings is settled: the source folder, or where a table points elsewhere the folder that holds
   them all.
3. Every utterance gets its id and the SHA-256 of its recording; repeated ids and missing files are marked.

The digest over the result stands for the source in the content id of the manifest. It covers relative names, times,
texts and hashes, and no location: a copied or moved corpus has the same one, an edited transcript another.
"""

import hashlib
import json
import math
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from lst.audio.containers import readable_name
from lst.audio.corpora import Utterance
from lst.audio.errors import AudioError
from lst.audio.hashes import FileHashes
from lst.audio.text import Problem
from lst.manifest import Progress, canonical_json

_SPOOL_BYTES = 64 << 20
_BATCH = 512


@dataclass(frozen=True)
class PlannedUtterance:
    """An utterance with its id (the part before `#`) and the hash of its recording.

    `address` is relative to the root. `problem`: why it will be rejected without being opened.
    """

    stem: str
    address: str
    sha256: str
    text: str
    speaker: str
    language: str
    offset_s: float
    duration_s: float | None
    problem: Problem | None

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its recording."""
        return self.offset_s == 0 and self.duration_s is None

    @property
    def id(self) -> str:
        """`corpus/relative-path#0` for a whole recording, `#START-END` in milliseconds for a part."""
        if self.is_whole:
            return f"{self.stem}#0"
        end = "end" if self.duration_s is None else round((self.offset_s + self.duration_s) * 1000)
        return f"{self.stem}#{round(self.offset_s * 1000)}-{end}"


@dataclass(frozen=True)
class PlanSlice:
    """A run of utterances in a plan file: what one shard is made from."""

    file: str
    offset: int
    count: int

    def read(self) -> Iterator[PlannedUtterance]:
        """The utterances, in order."""
        with open(self.file, "rb") as plan:
            plan.seek(self.offset)
            for line in islice(plan, self.count):
                values = json.loads(line)
                problem = values.pop("problem")
                yield PlannedUtterance(**values, problem=None if problem is None else (problem[0], problem[1]))


class Plan:
    """The utterances of a source, spooled. A context manager: leaving it removes the spool."""

    def __init__(
        self,
        utterances: Iterable[Utterance],
        src: Path,
        *,
        name: str,
        language: str,
        progress: Progress | None = None,
    ) -> None:
        """`name` begins the ids; `language` is that of utterances which do not say. `progress` is told of hashing.

        Sets `root`, `digest`, `count`, `folders` (those directly below the root) and `hashed` (recordings read for it).
        """
        self.count = 0
        self.folders: set[str] = set()
        self._offsets = array("Q")
        self._weights = array("Q")
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115
        digest = hashlib.sha256()
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as listed, FileHashes() as hashes:
            self.root, total = _list(utterances, src, listed)
            self.hashed = position = 0
            for planned, weight in _identify(listed, self.root, hashes, name=name, language=language):
                line = canonical_json(asdict(planned)).encode() + b"\n"
                digest.update(line)
                self._spool.write(line)
                self._offsets.append(position)
                self._weights.append(weight)
                self.folders.add(planned.address.split("/", 1)[0])
                position += len(line)
                self.count += 1
                if self.count % _BATCH == 0 or self.count == total:
                    if hashes.computed > self.hashed and progress is not None:
                        progress(self.count, total, "hashed")
                    self.hashed = hashes.computed
        self.digest = digest.hexdigest()

    def __enter__(self) -> "Plan":
        return self

    def __exit__(self, *exception: object) -> None:
        self._spool.close()

    def save(self, path: Path) -> None:
        """Write the plan to a file that workers read."""
        import shutil

        self._spool.seek(0)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            shutil.copyfileobj(self._spool, file, 1 << 20)
        temporary.replace(path)

    def slices(self, path: Path) -> Sequence[PlanSlice]:
        """The plan saved at `path`, divided into shards by number and bytes of recordings, never by workers."""
        most_rows = min(max(-(-self.count // 64), 64), 4096)
        most_bytes = min(max(sum(self._weights) // 64, 1 << 20), 2 << 30)
        slices: list[PlanSlice] = []
        first = weight = 0
        for index in range(self.count):
            if index > first and (index - first >= most_rows or weight + self._weights[index] > most_bytes):
                slices.append(PlanSlice(str(path), self._offsets[first], index - first))
                first, weight = index, 0
            weight += self._weights[index]
        if self.count:
            slices.append(PlanSlice(str(path), self._offsets[first], self.count - first))
        return slices


def _list(utterances: Iterable[Utterance], src: Path, spool: IO[bytes]) -> tuple[Path, int]:
    """Spool the utterances; returns the folder that all recordings lie in, and how many utterances there are."""
    home = os.path.abspath(src if src.is_dir() else src.parent)
    common: str | None = None
    inside = True
    count = 0
    for utterance in utterances:
        count += 1
        values = asdict(utterance)
        values["audio"] = os.path.abspath(utterance.audio)
        # Surrogates (names and texts that are not Unicode) survive as JSON escapes.
        spool.write(json.dumps(values).encode() + b"\n")
        if not values["audio"].startswith(home.rstrip(os.sep) + os.sep):
            inside = False
        directory = os.path.dirname(values["audio"])
        common = directory if common is None else os.path.commonpath([common, directory])
    return Path(home if inside or common is None else common), count


def _identify(
    spool: IO[bytes], root: Path, hashes: FileHashes, *, name: str, language: str
) -> Iterator[tuple[PlannedUtterance, int]]:
    """The listed utterances with ids and hashes, and the bytes of audio that each one adds."""
    spool.seek(0)
    seen: set[bytes] = set()
    previous = ""
    while lines := list(islice(spool, _BATCH)):
        batch: list[dict[str, Any]] = [json.loads(line) for line in lines]
        for values in batch:
            _check_values(values)
        found = hashes.of(values["audio"] for values in batch if values["problem"] is None)
        for values in batch:
            address = values["audio"]
            result = found.get(address) if values["problem"] is None else None
            if isinstance(result, AudioError):
                values["problem"] = (result.reason, _relative(result.message, root))
            sha256, size = result if isinstance(result, tuple) else ("", 0)
            relative = os.path.relpath(address, root).replace(os.sep, "/")
            planned = PlannedUtterance(
                stem=f"{name}/{readable_name(relative)}",
                address=relative,
                sha256=sha256,
                text=values["text"],
                speaker=values["speaker"],
                language=values["language"] or language,
                offset_s=float(values["offset_s"]),
                duration_s=values["duration_s"],
                problem=values["problem"],
            )
            mark = hashlib.blake2b(planned.id.encode(), digest_size=16).digest()
            if mark in seen and planned.problem is None:
                planned = PlannedUtterance(**{**vars(planned), "problem": ("duplicate-id", "listed before")})
            seen.add(mark)
            yield planned, 0 if address == previous else size
            previous = address


def _check_values(values: dict[str, Any]) -> None:
    """Replace what cannot be written as UTF-8 and times that are none, and mark the utterance."""
    offset, duration = values["offset_s"], values["duration_s"]
    if not (0 <= offset < math.inf and (duration is None or 0 <= duration < math.inf)):
        detail = f"from {offset} s, for {duration} s"
        values.update(offset_s=0.0, duration_s=None, problem=values["problem"] or ("outside-audio", detail))
    for key in ("audio", "text", "speaker", "language"):
        try:
            values[key].encode()
        except UnicodeEncodeError:
            values[key] = values[key].encode("utf-8", "backslashreplace").decode()
            what = "the file name" if key == "audio" else f"the {key}"
            values["problem"] = values["problem"] or ("invalid-utf8", f"{what} is not valid Unicode")


def _relative(message: str, root: Path) -> str:
    """A message without the root: what a manifest says must not depend on where the corpus lies."""
    return message.replace(f"{root}{os.sep}", "")
