"""A model with its tokenizers, ready to score and to generate: ids in and out of text and units.

The unit tokenizer is the one the model was trained with, found by its fingerprint; units of another one are refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lst.data.vocabulary import Vocabulary
from lst.errors import LstError
from lst.generate.layout import inference_patch_size

if TYPE_CHECKING:
    from lst.data.unit_bpe import UnitBpe
    from lst.manifest import Manifest
    from lst.model.checkpoint import LoadedModel
    from lst.model.lst import LST
    from lst.text.tokenizer import TextTokenizer
    from lst.units import UnitTokenizer

UNIT_BPE_FILE = "unit_bpe.model"

DEFAULT_CONTEXT = 4096
"""Global units a model is taken to handle when its training does not say (the paper's sequence length)."""


Warn = Callable[[str], None]


@dataclass(frozen=True)
class Session:
    """What inference needs of a model directory. Made by `open_session`."""

    loaded: "LoadedModel"
    text: "TextTokenizer"
    unit_bpe: "UnitBpe | None"
    fingerprints: dict[str, str]

    @property
    def model(self) -> "LST":
        return self.loaded.model

    @property
    def directory(self) -> Path:
        return self.loaded.directory

    @property
    def device(self) -> Any:
        """Where the weights are."""
        return next(self.loaded.model.parameters()).device

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return self.loaded.vocabulary

    @cached_property
    def patch_size(self) -> int:
        """Units per static patch at inference."""
        return inference_patch_size(self.loaded.config.patching)

    @cached_property
    def context(self) -> int:
        """Longest document, in global units: what the model was trained on."""
        return _find_int(self.loaded.manifest.config if self.loaded.manifest else {}, "sequence_units")

    @property
    def task(self) -> str:
        """`asr` or `tts` for a model fine-tuned for it, else empty."""
        manifest = self.loaded.manifest
        return str(manifest.config.get("task", "")) if manifest is not None and manifest.stage == "finetune" else ""

    def encode_text(self, text: str) -> NDArray[np.int32]:
        """Text ids `(n,)`, without markers."""
        return np.array(self.text.encode(text), dtype=np.int32)

    def encode_ending(self, context: str, ending: str) -> NDArray[np.int32]:
        """Ids of `ending` as it follows `context`: those of both together, less those of the context alone.

        That is lm-evaluation-harness's rule; where pieces do not cross spaces it equals encoding the ending by itself.
        """
        both = self.encode_text(f"{context} {ending}")
        return both[len(self.encode_text(context)) :]

    def encode_units(self, units: NDArray[Any]) -> NDArray[np.int32]:
        """Ids `(m,)` of units `(n,)`; m < n only for a model over unit BPE pieces."""
        units = np.asarray(units, dtype=np.uint16)
        if self.unit_bpe is not None:
            return self.unit_bpe.encode(units) + np.int32(self.vocabulary.unit_offset)
        return self.vocabulary.from_units(units)

    def decode_units(self, ids: NDArray[Any]) -> NDArray[np.uint16]:
        """Units of speech ids. Raises LstError for an id that is none."""
        codes = self.vocabulary.to_units(ids)
        return self.unit_bpe.decode(codes.astype(np.int32)) if self.unit_bpe is not None else codes

    def unit_tokenizer(self, name: str | None = None) -> "UnitTokenizer":
        """The unit tokenizer of this model: found by fingerprint, or `name`, which must then have that fingerprint."""
        from lst.assets import find_by_fingerprint
        from lst.units import load_tokenizer, tokenizer_fingerprint

        wanted = self.fingerprints.get("tokenizer", "")
        if name is not None:
            self.check_units(tokenizer_fingerprint(name), f"The tokenizer {name}")
            return load_tokenizer(name)
        if not wanted:
            raise LstError(
                f"{self.directory} does not say which unit tokenizer it was trained with.", hint="Give --tokenizer."
            )
        found = find_by_fingerprint(wanted, "tokenizer")
        if found is None:
            raise LstError(
                f"The unit tokenizer of {self.directory} (fingerprint {wanted[:12]}) is not on this machine.",
                hint="Give its directory with --tokenizer, or fetch it: lst assets list.",
            )
        return load_tokenizer(found)

    def check_units(self, fingerprint: str, whose: str, told_by: "Manifest | None" = None) -> None:
        """The handshake: raise LstError unless units with this tokenizer fingerprint are the model's own.

        `whose` begins the message: "The benchmark DIR"; `told_by` is its manifest.
        """
        from lst.assets import check_units

        wanted = self.fingerprints.get("tokenizer", "")
        known = (told_by, self.loaded.manifest)
        check_units(fingerprint, wanted, whose=whose, model=str(self.directory), told_by=known)

    def check_task(self, task: str, warn: Warn) -> None:
        """Raise LstError if the model was fine-tuned for another task than `task`; warn if it was not fine-tuned."""
        what = {"asr": "recognise speech", "tts": "speak"}
        remedy = f"lst finetune {task} --model"
        if self.task == task:
            return
        if self.task:
            raise LstError(
                f"{self.directory} was fine-tuned to {what[self.task]}, not to {what[task]}.",
                hint=f"Give a model made by {remedy} … .",
            )
        warn(
            f"{self.directory} was only pre-trained, not to {what[task]}: expect little. "
            f"Fine-tune it with {remedy} {self.directory}."
        )

    def check_manifest(self, manifest: "Manifest", what: str) -> None:
        """`check_units` for a manifest that holds units (one without any passes)."""
        fingerprint = manifest.fingerprints.get("tokenizer")
        if fingerprint is not None:
            self.check_units(fingerprint, f"{what} {manifest.path}", manifest)


def open_session(directory: Path | str, *, device: str = "cpu") -> Session:
    """Load the model in `directory` with its text tokenizer (and unit BPE, if it has one), for inference only.

    Raises LstError if the directory holds no complete model.
    """
    from lst.model.checkpoint import load_model
    from lst.model.linear import pack
    from lst.text.tokenizer import TextTokenizer

    loaded = load_model(directory, device)
    pack(loaded.model)
    text = TextTokenizer.from_file(loaded.tokenizer_path)
    if text.vocab_size != loaded.config.text_size:
        raise LstError(
            f"The text tokenizer in {directory} has {text.vocab_size} pieces, its model {loaded.config.text_size}.",
            hint="The directory was put together from two models: restore it.",
        )
    bpe = None
    if loaded.config.patching.mode == "bpe":
        from lst.data.unit_bpe import UnitBpe

        if loaded.manifest is None:
            raise LstError(f"{directory} is not finished: its unit BPE is not there yet.", hint="Let training end.")
        bpe = UnitBpe(loaded.manifest.file(UNIT_BPE_FILE).read_bytes())
    return Session(loaded, text, bpe, dict(loaded.manifest.fingerprints) if loaded.manifest else {})


def _find_int(config: Any, key: str) -> int:
    """The first value of `key` anywhere in nested settings."""
    if isinstance(config, dict):
        if isinstance(config.get(key), int):
            return int(config[key])
        for value in config.values():
            found = _find_int(value, key)
            if found != DEFAULT_CONTEXT:
                return found
    return DEFAULT_CONTEXT
