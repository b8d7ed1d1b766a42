"""The English acoustic model inside the `pocketsphinx` package, evaluated in numpy.

Features come from pocketsphinx itself. Its phonetically tied mixtures (one codebook of 128 Gaussians a stream and
base phone, 5,126 tied triphone states weighting them) are two matrix products here, about ten times faster than the
search of `Decoder.set_align_text`, and every state's likelihood can be had, which that search does not tell.
"""

import struct
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lst.errors import LstError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

MODEL_FRAME_RATE = 100
"""Acoustic frames per second: hop 160 samples at 16 kHz."""

_LOG_BASE = np.log(1.0001) * 1024  # sphinx stores log probabilities as bytes in this unit, negated
_POSITIONS = {"b": 0, "e": 1, "s": 2, "i": 3}  # word begin, end, single, internal: order in the model definition
_VARIANCE_FLOOR = 1e-4


@dataclass(frozen=True)
class AcousticModel:
    """Tied-mixture HMMs with three states a phone.

    phones: the P base phones, codebook order; senones (tied states) are numbered 0 .. S-1.
    states: (N, 3) senones of each of the N phones, base phones first, then triphones.
    transitions: (P, 3, 4) log probabilities from each state to each state, and out of the phone.
    """

    phones: tuple[str, ...]
    states: npt.NDArray[np.uint16]
    transitions: Floats
    codebook_senones: tuple[npt.NDArray[np.int64], ...]
    _triphones: dict[tuple[int, int, int, int], int]
    _fillers: frozenset[int]
    _projection: tuple[Floats, ...]
    _weights: tuple[tuple[Floats, ...], ...]

    @property
    def silence(self) -> int:
        """Index of the silence phone."""
        return self.phones.index("SIL")

    @property
    def num_senones(self) -> int:
        """S, the number of tied states."""
        return sum(map(len, self.codebook_senones))

    def triphone(self, phone: int, left: int, right: int, position: str) -> int:
        """The model of `phone` between two phones at a position in its word (b, e, s, i), or the nearest there is."""
        wanted = _POSITIONS[position]
        order = [wanted, *(value for value in range(4) if value != wanted)]
        left, right = (self.silence if context in self._fillers else context for context in (left, right))
        contexts = [(left, right)]
        outer = (self.silence if position in "bs" else left, self.silence if position in "es" else right)
        if outer != (left, right):
            contexts.append(outer)
        for pair in contexts:
            for place in order:
                found = self._triphones.get((place, phone, *pair))
                if found is not None:
                    return found
        return phone

    def log_likelihoods(self, features: Floats, chosen: npt.NDArray[np.int64] | None = None) -> Floats:
        """Log density of the senones `chosen` (sorted; default: all S). features: (T, 39) -> (T, len(chosen))."""
        chosen = np.arange(self.num_senones) if chosen is None else chosen
        frames = len(features)
        output = np.empty((frames, len(chosen)), np.float32)
        streams = []
        for stream in range(3):
            x = features[:, 13 * stream : 13 * stream + 13]
            streams.append(np.concatenate([x * x, x, np.ones((frames, 1), np.float32)], axis=1))
        for phone, senones in enumerate(self.codebook_senones):
            _, columns, rows = np.intersect1d(senones, chosen, assume_unique=True, return_indices=True)
            if len(columns) == 0:
                continue
            total = np.zeros((frames, len(columns)), np.float32)
            for stream, terms in enumerate(streams):
                densities = terms @ self._projection[stream][phone]
                peak = densities.max(axis=1, keepdims=True)
                densities -= peak
                np.maximum(densities, np.float32(-60), out=densities)  # denormal numbers slow the product down
                np.exp(densities, out=densities)
                mixed = densities @ self._weights[stream][phone][:, columns]
                mixed += np.float32(1e-30)
                total += np.log(mixed, out=mixed)
                total += peak
            output[:, rows] = total
        return output


@cache
def load_acoustic_model(directory: Path | None = None) -> AcousticModel:
    """Read a model directory (default: the one in the pocketsphinx package), 25 MB in memory.

    Raises LstError if it is not a model of this kind (phonetically tied, streams of 13, three states).
    """
    path = directory or model_directory()
    try:
        definition = _read_definition((path / "mdef").read_bytes())
        means, variances = (_read_gaussians((path / name).read_bytes()) for name in ("means", "variances"))
        transitions = _read_transitions((path / "transition_matrices").read_bytes())
        mixtures = _read_mixtures((path / "sendump").read_bytes(), means.shape[2])
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise LstError(f"Cannot read the acoustic model {path}: {error}.") from error
    phones, states, entries, triphones, fillers = definition
    owner = np.zeros(int(states.max()) + 1, np.int64)
    owner[states.reshape(-1)] = np.repeat(entries, states.shape[1])
    senones = tuple(np.flatnonzero(owner == phone) for phone in range(len(phones)))
    variances = np.maximum(variances, _VARIANCE_FLOOR)
    constant = -0.5 * (np.log(2 * np.pi * variances) + means**2 / variances).sum(axis=-1)
    projection = tuple(
        np.concatenate(
            [
                (-0.5 / variances[:, stream]).transpose(0, 2, 1),
                (means[:, stream] / variances[:, stream]).transpose(0, 2, 1),
                constant[:, stream][:, None],
            ],
            axis=1,
        ).astype(np.float32)
        for stream in range(means.shape[1])
    )
    weights = tuple(
        tuple(np.ascontiguousarray(mixtures[stream][:, of_phone]) for of_phone in senones)
        for stream in range(means.shape[1])
    )
    return AcousticModel(phones, states, transitions, senones, triphones, fillers, projection, weights)


def model_directory() -> Path:
    """The acoustic model that the pocketsphinx package brings."""
    import pocketsphinx

    return Path(pocketsphinx.get_model_path("en-us")) / "en-us"


def dictionary_path() -> Path:
    """The pronunciation dictionary that the pocketsphinx package brings (CMUdict, 126,000 words)."""
    import pocketsphinx

    return Path(pocketsphinx.get_model_path("en-us")) / "cmudict-en-us.dict"


class FrontEnd:
    """Features of the acoustic model, computed by pocketsphinx: cepstra after noise removal, mean, deltas."""

    def __init__(self, directory: Path | None = None) -> None:
        import pocketsphinx

        # pocketsphinx gives its cepstra away only through this log.
        self._log = tempfile.TemporaryDirectory(prefix="lst-cepstra-")
        silence = Path(self._log.name) / "empty.dict"
        silence.touch()
        self._decoder: Any = pocketsphinx.Decoder(
            hmm=str(directory or model_directory()),
            dict=str(silence),
            lm=None,
            mfclogdir=self._log.name,
            loglevel="FATAL",
        )
        self._decoder.set_align_text("<sil>")

    def __call__(self, samples: npt.NDArray[np.float32]) -> Floats:
        """16 kHz mono samples (n,) in -1 .. 1 -> features (T, 39), T about n / 160; none for less than a window."""
        if len(samples) < 410:
            return np.zeros((0, 39), np.float32)
        audio = np.round(np.clip(np.nan_to_num(samples), -1, 1) * 32767).astype("<i2")
        with warnings.catch_warnings():
            # Called unnecessary by pocketsphinx, but start_utt alone keeps the noise estimate of the utterance before.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._decoder.start_stream()
        self._decoder.start_utt()
        self._decoder.process_raw(audio.tobytes(), no_search=True, full_utt=True)
        self._decoder.end_utt()
        (log,) = Path(self._log.name).glob("*.mfc")
        cepstra = np.frombuffer(log.read_bytes()[4:], ">f4").astype(np.float32).reshape(-1, 13)
        log.unlink()
        return _dynamic(cepstra)


def _dynamic(cepstra: Floats) -> Floats:
    """Mean normalisation and differences (sphinx's `1s_c_d_dd`): (T, 13) -> (T, 39)."""
    voiced = cepstra[cepstra[:, 0] >= 0]
    mean = (voiced if len(voiced) else cepstra).mean(axis=0, dtype=np.float64).astype(np.float32)
    padded = np.pad(cepstra - mean, ((3, 3), (0, 0)), mode="edge")
    length = len(cepstra)

    def at(offset: int) -> Floats:
        return padded[3 + offset : 3 + offset + length]

    return np.concatenate([at(0), at(2) - at(-2), at(3) - at(-1) - at(1) + at(-3)], axis=1)


def _body(content: bytes) -> memoryview:
    """What follows the text header and the byte-order mark of an s3 parameter file."""
    end = content.index(b"endhdr\n") + 7
    if struct.unpack_from("<I", content, end)[0] != 0x11223344:
        raise ValueError("not a little-endian s3 file")
    return memoryview(content)[end + 4 :]


def _read_gaussians(content: bytes) -> npt.NDArray[np.float64]:
    """(codebooks, streams, densities, 13)."""
    body = _body(content)
    codebooks, streams, densities = struct.unpack_from("<3i", body)
    lengths = struct.unpack_from(f"<{streams}i", body, 12)
    if set(lengths) != {13} or streams != 3:
        raise ValueError(f"streams of {lengths} instead of 13, 13, 13")
    count = codebooks * streams * densities * 13
    values = np.frombuffer(body, "<f4", count, 16 + 4 * streams)
    return values.reshape(codebooks, streams, densities, 13).astype(np.float64)


def _read_transitions(content: bytes) -> Floats:
    body = _body(content)
    count, source, target, size = struct.unpack_from("<4i", body)
    if (source, target) != (3, 4):
        raise ValueError(f"{source} states a phone instead of 3")
    counts = np.frombuffer(body, "<f4", size, 16).reshape(count, source, target).astype(np.float64)
    with np.errstate(divide="ignore"):
        logs: Floats = np.log(counts / counts.sum(axis=2, keepdims=True)).astype(np.float32)
    return logs


def _read_mixtures(content: bytes, densities: int) -> list[Floats]:
    """Mixture weights, per stream (densities, S)."""
    position, header = 0, []
    while True:
        (length,) = struct.unpack_from("<i", content, position)
        position += 4
        if length == 0:
            break
        header.append(content[position : position + length])
        position += length
    if any(line.startswith(b"cluster_count") and not line.startswith(b"cluster_count 0") for line in header):
        raise ValueError("quantised mixture weights are not supported")
    rows, columns = struct.unpack_from("<2i", content, position)
    if rows != densities:
        raise ValueError(f"{rows} mixture weights for {densities} densities")
    codes = np.frombuffer(content, np.uint8, 3 * rows * columns, position + 8).reshape(3, rows, columns)
    return [np.exp(-_LOG_BASE * codes[stream].astype(np.float64)).astype(np.float32) for stream in range(3)]


def _read_definition(
    content: bytes,
) -> tuple[tuple[str, ...], npt.NDArray[np.uint16], Ints, dict[tuple[int, int, int, int], int], frozenset[int]]:
    """Binary `mdef`: base phones, states of every phone, its base phone, triphone index, filler phones."""
    if content[:4] != b"BMDF":
        raise ValueError("mdef is not a little-endian binary model definition")
    position = 12 + struct.unpack_from("<i", content, 8)[0]
    base, count, emitting, _, _, _, sequences, _, tree, _ = struct.unpack_from("<10i", content, position)
    if emitting != 3:
        raise ValueError(f"{emitting} states a phone instead of 3")
    position += 40
    names = content[position:].split(b"\0", base)[:base]
    length = sum(len(name) + 1 for name in names)
    position += (length + 3) // 4 * 4 + 8 * tree
    entry = np.dtype([("sequence", "<i4"), ("transition", "<i4"), ("position", "u1"), ("context", "u1", 3)])
    entries = np.frombuffer(content, entry, count, position)
    position += entry.itemsize * count + 4
    table = np.frombuffer(content, "<u2", sequences * 3, position).reshape(sequences, 3)
    states = table[entries["sequence"]]
    owners = entries["context"][:, 0].astype(np.int32)
    owners[:base] = np.arange(base)
    triphones = {
        (int(place), int(context[0]), int(context[1]), int(context[2])): base + index
        for index, (place, context) in enumerate(zip(entries["position"][base:], entries["context"][base:]))
    }
    fillers = frozenset(int(index) for index in np.flatnonzero(entries["position"][:base]))
    return tuple(name.decode("ascii") for name in names), states, owners, triphones, fillers
