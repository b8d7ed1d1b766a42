"""Whose features are clustered into the targets of a training.

mfcc                     MFCC-39: HuBERT's iteration 0
a tokenizer              its encoder, at its layer or another: iteration n
a Whisper (CTranslate2)  a teacher: better features than a small corpus can teach
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lst.errors import LstError

if TYPE_CHECKING:
    import numpy as np

    from lst.units.tokenizer import Encoder


class Teacher(Protocol):
    """Gives features at 25 Hz; `identity` is what determines them, as JSON."""

    identity: dict[str, object]

    def features(self, utterances: "Iterable[tuple[int, np.ndarray]]") -> "Iterator[tuple[int, np.ndarray]]":
        """(number, (n,) samples) of utterances -> (number, (T, D)), in order."""


class EncoderTeacher:
    """Any encoder of a tokenizer, one utterance at a time."""

    def __init__(self, encoder: "Encoder", identity: dict[str, object]) -> None:
        self._encoder = encoder
        self.identity = identity

    def features(self, utterances: "Iterable[tuple[int, np.ndarray]]") -> "Iterator[tuple[int, np.ndarray]]":
        """See `Teacher.features`."""
        for index, samples in utterances:
            yield index, self._encoder.features(samples)


class WhisperTeacher:
    """A layer of a Whisper encoder; utterances share its windows of 30 s."""

    def __init__(self, path: Path, layer: int | None) -> None:
        from lst.manifest import sha256_file
        from lst.units.whisper import load_whisper, model_file

        self._encoder = load_whisper(path, layer)
        digest = sha256_file(model_file(path))
        self.identity = {"kind": "whisper", "sha256": digest, "layer": self._encoder.layer}

    def features(self, utterances: "Iterable[tuple[int, np.ndarray]]") -> "Iterator[tuple[int, np.ndarray]]":
        """See `Teacher.features`."""
        return self._encoder.packed_features(utterances)


def open_teacher(targets: str, layer: int | None, device: str = "cpu") -> Teacher:
    """The teacher that `targets` names: `mfcc`, a tokenizer (name or directory), or a CTranslate2 Whisper (path).

    Raises LstError if it is unknown or damaged, or has no such layer.
    """
    if targets == "mfcc":
        from lst.units.mfcc import MfccEncoder

        if layer is not None:
            raise LstError("MFCC have no layers.", hint="Leave out --targets-layer, or choose other --targets.")
        return EncoderTeacher(MfccEncoder(), {"kind": "mfcc"})
    path = Path(targets)
    if path.is_file() or (path / "model.bin").is_file():
        return WhisperTeacher(path, layer)
    return _tokenizer_teacher(targets, layer, device)


def _tokenizer_teacher(targets: str, layer: int | None, device: str) -> EncoderTeacher:
    import importlib

    from lst.units.loading import identify_tokenizer
    from lst.units.spec import ENCODER_KINDS

    found = identify_tokenizer(targets)
    encoder = found.spec.encoder
    if layer is not None:
        if encoder.kind == "mfcc":
            raise LstError(f"{targets} has no layers.", hint="Leave out --targets-layer.")
        encoder = encoder.model_copy(update={"layer": layer})
    module, function = ENCODER_KINDS[encoder.kind].loader.split(":")
    load = getattr(importlib.import_module(module), function)
    identity = {"tokenizer": found.fingerprint, **encoder.settings()}
    return EncoderTeacher(load(encoder, found.directory, device), identity)
