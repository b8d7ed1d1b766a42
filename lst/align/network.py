"""A CTC acoustic model on a HuBERT of `lst train-tokenizer`: its features, and a small head that spells.

    samples -> HuBERT features at 25 Hz -> four places per feature -> a convolution over 70 ms -> characters at 100 Hz

25 frames a second are too few for characters (fast speech has twenty of them) and too coarse for boundaries. CTC gives
each character a spike and everything else to the blank; with the logarithm of how often a label is given subtracted
(Huang et al. 2024, label priors; `prior_weight`) characters keep their frames. True times of words do more, where there
are any (`lst.align.train`).

One safetensors file holds the weights and, as metadata, everything else (`FORM`).
"""

from pathlib import Path
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from lst.align.base import MAX_SHIFT_S
from lst.constants import SAMPLES_PER_FRAME
from lst.errors import LstError
from lst.units.hubert_config import NetworkConfig
from lst.units.network import HubertNetwork

FORM = "lst.ctc/1"
UPSAMPLE = 4
STRIDE = SAMPLES_PER_FRAME // UPSAMPLE
"""Samples per frame of characters: 10 ms."""
BLANK, SPACE = "<blank>", "|"


class CTCConfig(BaseModel):
    """All of the metadata's `config`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: NetworkConfig
    layer: int = Field(ge=1, description="features after this many layers")
    labels: tuple[str, ...] = Field(min_length=3, description="the blank, the sign between words, the characters")
    hidden: int = Field(default=192, ge=8, le=4096)
    kernel: int = Field(default=7, ge=1, le=31)
    prior_weight: float = Field(default=0.0, ge=0, le=1, description="how much of the labels' prior is subtracted")
    language: str = "en"
    start_shift_s: float = Field(
        default=0.0, ge=-MAX_SHIFT_S, le=MAX_SHIFT_S, description="added to where a word's characters begin"
    )
    end_shift_s: float = Field(
        default=0.0, ge=-MAX_SHIFT_S, le=MAX_SHIFT_S, description="added to where a word's characters end"
    )
    min_score: float | None = Field(default=None, ge=0, le=1, description="rows that score lower are rejected")


class CTCNetwork(nn.Module):
    """(B, n) samples -> (B, n // 160, labels) logits."""

    log_prior: Tensor

    def __init__(self, config: CTCConfig, encoder: HubertNetwork, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.norm = nn.LayerNorm(config.encoder.dim)
        self.spread = nn.Linear(config.encoder.dim, UPSAMPLE * config.hidden)
        self.near = nn.Conv1d(config.hidden, config.hidden, config.kernel, padding="same")
        self.dropout = nn.Dropout(dropout)
        self.spell = nn.Linear(config.hidden, len(config.labels))
        self.register_buffer("log_prior", torch.zeros(len(config.labels)))

    def logits(self, samples: Tensor) -> Tensor:
        """(B, n) -> (B, n // 160, labels), the prior not subtracted."""
        frames = samples.shape[1] // STRIDE
        whole = functional.pad(samples, (0, -samples.shape[1] % SAMPLES_PER_FRAME))
        layer = None if self.config.layer == self.config.encoder.layers else self.config.layer
        features = self.encoder.features(whole, layer)
        batch, count, _ = features.shape
        hidden = self.spread(self.norm(features)).reshape(batch, count * UPSAMPLE, self.config.hidden)
        hidden = functional.gelu(hidden)
        hidden = hidden + functional.gelu(self.near(hidden.transpose(1, 2))).transpose(1, 2)
        return cast(Tensor, self.spell(self.dropout(hidden)))[:, :frames]

    def forward(self, samples: Tensor) -> tuple[Tensor, None]:
        """Logits with the prior subtracted, as a pair: what `lst.align.ctc` calls."""
        return self.logits(samples) - self.config.prior_weight * self.log_prior, None


def save_ctc(path: Path, network: CTCNetwork, config: CTCConfig | None = None) -> None:
    """Weights in half precision and the configuration in one file; training's own parts of the encoder are left out.

    `config` replaces the network's own (calibration is known only when the weights are).
    """
    from safetensors.torch import save

    from lst.manifest import write_atomic

    weights = {
        name: value.detach().cpu().half().contiguous()
        for name, value in network.state_dict().items()
        if not name.startswith(_UNUSED)
    }
    # One entry: safetensors writes several in any order, and the file's hash would not be that of its content.
    write_atomic(path, save(weights, {FORM: (config or network.config).model_dump_json()}))


_UNUSED = ("encoder.masker.", "encoder.final_proj.", "encoder.label_embs")
"""Of masked prediction only."""


def ctc_description(path: Path) -> str | None:
    """The configuration, as JSON, of a file in our form; None if it is another file."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError):
        return None  # what reads other forms says what is wrong with it
    return metadata.get(FORM)


def read_ctc_config(path: Path) -> CTCConfig | None:
    """The configuration of a file in our form, its weights unread; None if it is another file.

    Raises LstError if it cannot be understood.
    """
    description = ctc_description(path)
    if description is None:
        return None
    try:
        return CTCConfig.model_validate_json(description)
    except ValidationError as error:
        raise _misfit(path, error) from error


def _misfit(path: Path, error: Exception) -> LstError:
    reason = " ".join(str(error).split())[:300]
    return LstError(f"{path} does not fit its configuration: {reason}.", hint="Train or fetch it again.")


def load_ctc(path: Path) -> CTCNetwork:
    """The network in a file of `save_ctc`, for evaluation. Raises LstError if it does not fit its own description."""
    from safetensors.torch import load_file

    config = read_ctc_config(path)
    if config is None:
        raise LstError(f"{path} is not an aligner of lst train-aligner.")
    try:
        with torch.random.fork_rng(devices=[]):  # the first weights, replaced at once, are drawn at random
            network = CTCNetwork(config, HubertNetwork(config.encoder))
        found = network.load_state_dict({name: value.float() for name, value in load_file(path).items()}, strict=False)
        missing = [name for name in found.missing_keys if not name.startswith(_UNUSED)]
        if missing or found.unexpected_keys:
            raise RuntimeError(f"it lacks {missing[:2]} and has {found.unexpected_keys[:2]}")
    except (KeyError, ValueError, RuntimeError) as error:
        raise _misfit(path, error) from error
    return network.eval().requires_grad_(False)
