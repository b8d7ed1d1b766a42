"""Decoding: WAV, FLAC, Ogg (Vorbis, Opus) and MP3 at any rate and channel count -> 16 kHz mono float32.

Decoding is libsndfile's (soundfile), resampling torchaudio's; both run in blocks, so that memory does not depend on the
length of a recording. Times are mapped to samples in one way only: output sample k lies at k / 16,000 s, and a
range [offset, offset + duration) covers the samples round(16,000 * offset) up to ceil(16,000 * (offset + duration)),
where the end is clipped to that of the recording.

A recording is named by its path or its address inside an archive (`lst.audio.containers`).
"""

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lst.audio.containers import container_of, open_bytes
from lst.audio.errors import AudioError
from lst.audio.resample import Ratio
from lst.constants import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np

EXTENSIONS = (".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
"""File names that are taken for audio, in any case."""

_BLOCK_VALUES = 1 << 18
"""Samples (frames x channels) decoded at a time: 1 MB."""

_VORBIS_LAST_PAGE = 255 * 4096
"""Frames that the last page of an Ogg Vorbis stream can hold: 255 packets of half the longest window."""

_MP3_FRAME = 1152

_stderr_lock = threading.Lock()


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a recording says. `frames` counts samples per channel at `sample_rate`."""

    sample_rate: int
    channels: int
    frames: int
    format: str
    subtype: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate

    @property
    def samples(self) -> int:
        """Length in samples at 16 kHz."""
        return Ratio.of(self.sample_rate, SAMPLE_RATE).output_length(self.frames)


def probe(path: Path | str) -> AudioInfo:
    """Read the header only. Raises AudioError (audio-missing, audio-unreadable, audio-empty)."""
    with _open(path) as file:
        return _info(path, file)


def read_audio(path: Path | str, *, offset_s: float = 0.0, duration_s: float | None = None) -> "np.ndarray":
    """A recording, or a part of it, as (n,) float32 at 16 kHz, mono (the mean of the channels), about -1 ... 1.

    A part equals the same slice of the whole (to float32 rounding). Raises AudioError if the recording is missing,
    unreadable, empty, truncated, holds NaN or infinity, or if the part begins at or after its end.
    """
    import numpy as np

    chunks = list(stream_audio(path, offset_s=offset_s, duration_s=duration_s))
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def stream_audio(
    path: Path | str, *, chunk_s: float = 30.0, offset_s: float = 0.0, duration_s: float | None = None
) -> Iterator["np.ndarray"]:
    """The samples of `read_audio` in pieces of `chunk_s` seconds (the last one shorter), in bounded memory.

    Yields (n,) float32 arrays. The samples do not depend on `chunk_s`.
    """
    with _open(path) as file:
        info = _info(path, file)
        ratio = Ratio.of(info.sample_rate, SAMPLE_RATE)
        start, stop = sample_range(info, offset_s, duration_s)
        if start >= stop:
            raise AudioError(
                f"{path}: {offset_s} s is not inside the recording, which is {info.duration_s:.2f} s long.",
                reason="outside-audio",
            )
        pieces = _resampled(path, file, info, ratio, start, stop, chunk_s)
        yield from _rechunk(pieces, max(1, round(chunk_s * SAMPLE_RATE)))


def sample_range(info: AudioInfo, offset_s: float = 0.0, duration_s: float | None = None) -> tuple[int, int]:
    """The half-open range of 16 kHz samples that [offset, offset + duration) covers, clipped to the recording."""
    start = round(offset_s * SAMPLE_RATE)
    if duration_s is None:
        return start, info.samples
    # 1e-4 samples: less than any fraction that occurs, more than the rounding of a time in seconds.
    return start, min(info.samples, math.ceil((offset_s + duration_s) * SAMPLE_RATE - 1e-4))


def native_blocks(path: Path | str, start: int = 0, stop: int | None = None) -> Iterator["np.ndarray"]:
    """Decode frames [start, stop) at the recording's own rate: (n, channels) float32 blocks of about 1 MB.

    Raises AudioError: not-finite for NaN or infinity, audio-truncated if there are fewer frames than the header says.
    """
    with _open(path) as file:
        info = _info(path, file)
        yield from _blocks(path, file, info, start, info.frames if stop is None else min(stop, info.frames))


@contextmanager
def _decoding(path: Path | str) -> Iterator[None]:
    """Whatever libsndfile dislikes becomes an AudioError."""
    import soundfile

    try:
        yield
    # TypeError: soundfile takes some extensions for headerless formats, and then asks for a rate.
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        # `error_string` leaves out soundfile's prefix, which may hold the address of an object in memory.
        text = (getattr(error, "error_string", "") or _plain(error)).strip().rstrip(".")
        raise AudioError(f"{path} cannot be decoded ({text}).", reason="audio-unreadable") from error


def _plain(error: Exception) -> str:
    code = getattr(error, "code", None)
    return str(error) if code is None else f"libsndfile error {code}"


@cache
def _sequential_file() -> Any:
    import soundfile

    class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
        """Reads on without seeking: soundfile seeks after every read to where it is, which throws MP3 decoding off."""

        def seekable(self) -> bool:
            return False

    return SequentialFile


@contextmanager
def _open(path: Path | str) -> Iterator[Any]:
    address = str(path)
    container = Path(container_of(address))
    if not container.is_file():
        what = "is not a regular file" if container.exists() else "does not exist"
        raise AudioError(f"{container} {what}.", reason="audio-missing")
    if container.stat().st_size == 0:
        raise AudioError(f"{container} is empty (0 bytes).", reason="audio-empty")

    with _decoding(path):
        file = _sequential_file()(open_bytes(address))
    with file:
        yield file


def _info(path: Path | str, file: Any) -> AudioInfo:
    if file.frames <= 0:
        raise AudioError(f"{path} holds no samples.", reason="audio-empty")
    if file.frames >= 1 << 60:
        raise AudioError(f"{path} does not tell its length: it is damaged or cut off.", reason="audio-unreadable")
    return AudioInfo(file.samplerate, file.channels, file.frames, file.format, file.subtype)


def _blocks(path: Path | str, file: Any, info: AudioInfo, start: int, stop: int) -> Iterator["np.ndarray"]:
    import numpy as np

    size = max(1, _BLOCK_VALUES // info.channels)
    position = _go_to(path, file, info, start, size)
    while position < stop:
        block = _read(path, file, info, position, min(size, stop - position))
        if not np.isfinite(block).all():
            raise AudioError(f"{path} holds NaN or infinite samples.", reason="not-finite")
        position += len(block)
        yield block


def _read(path: Path | str, file: Any, info: AudioInfo, position: int, count: int) -> "np.ndarray":
    with _decoding(path):
        block: np.ndarray = file.read(count, dtype="float32", always_2d=True)
    if len(block) == 0:
        raise AudioError(
            f"{path} ends after {position} of {info.frames} frames: it is cut off or damaged.", reason="audio-truncated"
        )
    return block


def _go_to(path: Path | str, file: Any, info: AudioInfo, start: int, size: int) -> int:
    """Make `start` the next frame to be read, and return it.

    Decoders with a memory are not right at once where a seek lands, so they are started earlier:

    - MP3 borrows bits from up to a dozen frames back;
    - Opus predicts from what it decoded: after a seek it is off by up to 0.002 of full scale, and agrees with the
      decoding of the whole, to the last bit, after 10 s at most (measured);
    - Vorbis is exact, but libsndfile lands at a wrong place within the last page of a stream: it is entered before.

    libsndfile is also wrong when it seeks after reading, which is why every range is read from a newly opened file.
    """
    if info.subtype == "OPUS":
        position = max(0, start - 10 * info.sample_rate)
    elif info.subtype == "VORBIS":
        position = min(start, max(0, info.frames - 2 * _VORBIS_LAST_PAGE))
    elif info.subtype.startswith("MPEG"):
        position = max(0, start - 32 * _MP3_FRAME)
    else:
        position = start
    with _quiet_decoder() if info.subtype.startswith("MPEG") and position else nullcontext():
        if position:
            with _decoding(path):
                file.seek(position)
        while position < start:
            position += len(_read(path, file, info, position, min(size, start - position)))
    return start


@contextmanager
def _quiet_decoder() -> Iterator[None]:
    """Silence libmpg123, which prints a line for every frame that it cannot decode yet after a seek.

    It writes to the file descriptor, so that is what must be diverted: for the moment of the seek, by one thread at a
    time.
    """
    with _stderr_lock, open(os.devnull, "w") as nowhere:
        saved = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _resampled(
    path: Path | str, file: Any, info: AudioInfo, ratio: Ratio, start: int, stop: int, chunk_s: float
) -> Iterator["np.ndarray"]:
    """16 kHz mono samples [start, stop) in pieces of any size."""
    import numpy as np

    if info.sample_rate == SAMPLE_RATE:
        for block in _blocks(path, file, info, start, stop):
            yield to_mono(block)
        return

    first, last = start // ratio.new, -(-stop // ratio.new)  # blocks of output
    step = max(1, round(min(chunk_s, 30.0) * info.sample_rate / ratio.orig))
    begin, end = (first - ratio.margin) * ratio.orig, (last + ratio.margin) * ratio.orig
    source = _padded(path, file, info, begin, end)
    keep = 2 * ratio.margin * ratio.orig
    pending = np.zeros(0, dtype=np.float32)
    skip = start - first * ratio.new
    left = stop - start
    while left > 0:
        blocks = min(step, last - first)
        needed = blocks * ratio.orig + keep
        parts = [pending]
        have = len(pending)
        while have < needed:
            part = next(source)
            parts.append(part)
            have += len(part)
        window = np.concatenate(parts)
        piece = ratio.resample(np.ascontiguousarray(window[:needed]))[skip : skip + left]
        pending = window[blocks * ratio.orig :]
        first += blocks
        skip = 0
        left -= len(piece)
        yield piece


def _padded(path: Path | str, file: Any, info: AudioInfo, begin: int, end: int) -> Iterator["np.ndarray"]:
    """Mono frames [begin, end), with zeros before the recording and after it."""
    import numpy as np

    if begin < 0:
        yield np.zeros(min(-begin, end - begin), dtype=np.float32)
    for block in _blocks(path, file, info, max(0, begin), min(end, info.frames)):
        yield to_mono(block)
    if end > info.frames:
        yield np.zeros(end - max(begin, info.frames), dtype=np.float32)


def to_mono(block: "np.ndarray") -> "np.ndarray":
    """(n, channels) -> (n,): the mean of the channels, in float32."""
    import numpy as np

    if block.shape[1] == 1:
        return block[:, 0]
    return block.mean(axis=1, dtype=np.float32)  # type: ignore[no-any-return]


def _rechunk(pieces: Iterator["np.ndarray"], size: int) -> Iterator["np.ndarray"]:
    import numpy as np

    waiting: list[np.ndarray] = []
    have = 0
    for piece in pieces:
        while have + len(piece) >= size:
            cut = size - have
            yield np.concatenate([*waiting, piece[:cut]])
            waiting, have, piece = [], 0, piece[cut:]
        if len(piece):
            waiting.append(piece)
            have += len(piece)
    if have:
        yield np.concatenate(waiting)
