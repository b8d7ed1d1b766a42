"""`tokenizer.json`: which encoder, which layer, which quantizer, how long files are cut; and the fingerprint of it all.

Nothing here needs torch: the fingerprint of a tokenizer is known without loading it.

    {"name": "hubert-25hz-501",
     "encoder": {"kind": "hubert", "weights": "mhubert_base_25hz.pt", "layer": 11},
     "quantizer": {"weights": "L11_quantizer_500.pt"},
     "windows": {"length_s": 100.0, "overlap_s": 8.0}}

A directory without `tokenizer.json` is understood if its file names tell the same (`recognise`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lst.constants import FRAME_RATE, SAMPLE_RATE
from lst.errors import LstError
from lst.manifest import inside, sha256_json

SPEC_FILE = "tokenizer.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MfccSpec(_Strict):
    """MFCC-39 averaged to 25 Hz (`lst.units.mfcc`): no files, no parameters."""

    kind: Literal["mfcc"] = "mfcc"

    def files(self) -> dict[str, str]:
        """Role -> file name."""
        return {}

    def settings(self) -> dict[str, Any]:
        """What determines the features besides the files."""
        return {"kind": self.kind}


class HubertSpec(_Strict):
    """HuBERT features of one layer. Weights are in Hugging Face form if there is a `config`, else in fairseq-1 form."""

    kind: Literal["hubert"] = "hubert"
    weights: str = Field(description="checkpoint: .pt, .bin or .safetensors")
    config: str | None = Field(default=None, description="config.json of the Hugging Face form")
    preprocessor: str | None = Field(default=None, description="preprocessor_config.json of the Hugging Face form")
    layer: int = Field(ge=1, description="features after this many Transformer layers, counted from 1")
    normalize: bool | None = Field(
        default=None, description="scale the input to zero mean and unit variance; null: as the checkpoint says"
    )

    def files(self) -> dict[str, str]:
        """Role -> file name."""
        named = {
            "encoder.weights": self.weights,
            "encoder.config": self.config,
            "encoder.preprocessor": self.preprocessor,
        }
        return {role: name for role, name in named.items() if name is not None}

    def settings(self) -> dict[str, Any]:
        """What determines the features besides the files."""
        return {"kind": self.kind, "layer": self.layer, "normalize": self.normalize}


class FbankHubertSpec(_Strict):
    """Features of one layer of a HuBERT with a log-mel front end, trained by `lst train-tokenizer`."""

    kind: Literal["fbank-hubert"] = "fbank-hubert"
    weights: str = Field(description=".safetensors with the weights and the sizes of the network")
    layer: int = Field(ge=1, description="features after this many Transformer layers, counted from 1")

    def files(self) -> dict[str, str]:
        """Role -> file name."""
        return {"encoder.weights": self.weights}

    def settings(self) -> dict[str, Any]:
        """What determines the features besides the files."""
        return {"kind": self.kind, "layer": self.layer}


@dataclass(frozen=True)
class EncoderKind:
    """How one kind of encoder is loaded: `module:function` taking (spec, directory, device), and its code version.

    Raise the version whenever the same audio would get other features.
    """

    loader: str
    version: int
    windows: tuple[float, float]
    """Default length and overlap, in seconds, of the windows that long audio is cut into."""


ENCODER_KINDS: dict[str, EncoderKind] = {
    "mfcc": EncoderKind("lst.units.mfcc:load_mfcc", version=1, windows=(30.0, 0.48)),
    "hubert": EncoderKind("lst.units.hubert:load_hubert", version=1, windows=(100.0, 8.0)),
    "fbank-hubert": EncoderKind("lst.units.fbank_hubert:load_fbank_hubert", version=1, windows=(30.0, 8.0)),
}
"""A new kind of encoder is an entry here and a spec in `EncoderSpec`; nothing else knows the kinds."""

EncoderSpec = Annotated[MfccSpec | HubertSpec | FbankHubertSpec, Field(discriminator="kind")]

QUANTIZER_VERSION = 1


class QuantizerSpec(_Strict):
    """The file with centroids or with Spirit LM's linear layers; its contents say which."""

    weights: str


class WindowSpec(_Strict):
    """How audio longer than `length_s` is cut: windows overlap by `overlap_s` and join in the middle of the overlap."""

    length_s: float = Field(gt=0, le=100.0, description="the public checkpoints take at most 100 s at a time")
    overlap_s: float = Field(ge=0)

    @model_validator(mode="after")
    def _on_the_grid(self) -> "WindowSpec":
        if not _is_whole(self.length_s * FRAME_RATE) or not _is_whole(self.overlap_s * FRAME_RATE / 2):
            raise ValueError("length_s must be a multiple of 0.04 s and overlap_s of 0.08 s")
        if self.overlap_s * 2 > self.length_s:
            raise ValueError("overlap_s must be at most half of length_s")
        return self

    @property
    def length(self) -> int:
        """Units per window."""
        return round(self.length_s * FRAME_RATE)

    @property
    def margin(self) -> int:
        """Units dropped on either side of a seam: half of the overlap."""
        return round(self.overlap_s * FRAME_RATE / 2)

    @property
    def hop(self) -> int:
        """Units from the start of one window to that of the next."""
        return self.length - 2 * self.margin


class TokenizerSpec(_Strict):
    """All of `tokenizer.json`."""

    name: str = Field(min_length=1)
    encoder: EncoderSpec
    quantizer: QuantizerSpec
    windows: WindowSpec

    @model_validator(mode="before")
    @classmethod
    def _default_windows(cls, value: Any) -> Any:
        if isinstance(value, dict) and "windows" not in value and isinstance(value.get("encoder"), dict):
            kind = ENCODER_KINDS.get(str(value["encoder"].get("kind")))
            if kind is not None:
                length_s, overlap_s = kind.windows
                return {**value, "windows": {"length_s": length_s, "overlap_s": overlap_s}}
        return value

    def files(self) -> dict[str, str]:
        """Role -> file name, of every file that determines the units."""
        return {**self.encoder.files(), "quantizer": self.quantizer.weights}

    def fingerprint(self, digests: Mapping[str, str]) -> str:
        """Hex SHA-256 of everything that determines the units.

        `digests` are the SHA-256 of `files()` by role: names of files and of the tokenizer do not matter, contents do.
        """
        return sha256_json(
            {
                "encoder": self.encoder.settings(),
                "encoder_version": ENCODER_KINDS[self.encoder.kind].version,
                "quantizer_version": QUANTIZER_VERSION,
                "windows": {"length": self.windows.length, "margin": self.windows.margin},
                "sample_rate": SAMPLE_RATE,
                "frame_rate": FRAME_RATE,
                "files": dict(digests),
            }
        )


def read_spec(directory: Path) -> TokenizerSpec:
    """The spec of the tokenizer in `directory`. Raises LstError if there is none, or if it is wrong."""
    path = directory / SPEC_FILE
    if not path.is_file():
        return recognise(directory)
    try:
        spec = TokenizerSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise LstError(f"{path}: {where}: {first['msg']}.", hint="See docs/units.md for its form.") from error
    for name in spec.files().values():
        if not inside(directory, name, what=str(path)).is_file():
            raise LstError(f"{path} names {name}, which is not in {directory}.", hint="Put the file beside it.")
    return spec


_QUANTIZER_NAME = re.compile(r"quantizer|k-?means|km\d+|codebook|centroids|cluster", re.IGNORECASE)
_LAYER_NAME = re.compile(r"(?:^|[_.-])L(\d+)(?=[_.-])", re.IGNORECASE)
_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".npy", ".safetensors")
_WRITE_SPEC = (
    'Write a tokenizer.json there, such as {"name": "mine", "encoder": {"kind": "hubert", "weights": "model.pt", '
    '"layer": 11}, "quantizer": {"weights": "codebook.safetensors"}} (docs/units.md).'
)


def recognise(directory: Path) -> TokenizerSpec:
    """Understand a directory of published checkpoints by its file names.

    Spirit LM / TWIST: one `.pt` with the encoder, one `L11_quantizer_500.pt`. Hugging Face: `config.json`,
    `model.safetensors` or `pytorch_model.bin`, and a codebook such as `L11_km500.safetensors`. Raises LstError if that
    does not settle the encoder, the layer and the quantizer.
    """
    if not directory.is_dir():
        raise LstError(f"{directory} is not a directory.", hint="Give the directory that holds the tokenizer's files.")
    weights = sorted(path.name for path in directory.iterdir() if path.suffix in _WEIGHT_SUFFIXES)
    quantizers = [name for name in weights if _QUANTIZER_NAME.search(name)]
    encoders = [name for name in weights if name not in quantizers]
    if len(quantizers) != 1:
        what = f"several quantizers ({', '.join(quantizers)})" if quantizers else "no quantizer (such as L11_km500.npy)"
        raise LstError(f"{directory} has no tokenizer.json and {what}.", hint=_WRITE_SPEC)
    layer = _LAYER_NAME.search(quantizers[0])
    if layer is None:
        raise LstError(
            f"{directory / quantizers[0]}: the name does not say which layer it belongs to (as L11_ does).",
            hint=_WRITE_SPEC,
        )
    preferred = [name for name in ("model.safetensors", "pytorch_model.bin") if name in encoders]
    if len(encoders) != 1 and not preferred:
        what = f"several ({', '.join(encoders)})" if encoders else "none"
        raise LstError(f"{directory} should hold one encoder checkpoint, but has {what}.", hint=_WRITE_SPEC)
    optional = {"config": "config.json", "preprocessor": "preprocessor_config.json"}
    present = {key: name for key, name in optional.items() if (directory / name).is_file()} if preferred else {}
    return TokenizerSpec.model_validate(
        {
            "name": directory.resolve().name,
            "encoder": {
                "kind": "hubert",
                "weights": (preferred or encoders)[0],
                "layer": int(layer.group(1)),
                **present,
            },
            "quantizer": {"weights": quantizers[0]},
        }
    )


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-6
