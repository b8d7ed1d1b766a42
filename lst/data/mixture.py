"""How much of each source a run reads: what was asked for, and what it got.

The unit of the mixture is the original token: a speech unit or a text piece, before patching, controls not counted
(paper, section 4: one third interleaved speech, two thirds text). After every document the next one comes from the
source that lags most behind its share, so the ratio holds from the start and not only on average.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field, model_validator

from lst.config import StageConfig
from lst.data.interleaving import Plan


class MixtureConfig(StageConfig):
    """Shares of the sources in original tokens, relative to each other. 0 leaves a source out."""

    speech: float = Field(default=1.0, ge=0, description="interleaved speech (the paper's main mixture is 1 to 2)")
    text: float = Field(default=2.0, ge=0, description="text documents")

    @model_validator(mode="after")
    def _something(self) -> "MixtureConfig":
        if self.speech + self.text == 0:
            raise ValueError("speech and text are both 0: nothing would be read")
        return self


@dataclass
class Tally:
    """What has been read of one source. `patches` are global units: the length after patching, controls included."""

    documents: int = 0
    units: int = 0
    text_tokens: int = 0
    tokens: int = 0
    patches: int = 0
    speech_patches: int = 0
    truncated: int = 0

    def add(self, plan: Plan) -> None:
        self.documents += 1
        self.units += plan.units
        self.text_tokens += plan.text_tokens
        self.tokens += plan.tokens
        self.patches += plan.global_units
        self.speech_patches += plan.speech_patches
        self.truncated += plan.truncated

    @property
    def original(self) -> int:
        """Original tokens: units and text pieces."""
        return self.units + self.text_tokens


class Mixture:
    """Chooses the next source, and counts what was read. `shares`: source name -> weight (> 0)."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self.shares = {name: weight for name, weight in shares.items() if weight > 0}
        self.admitted = dict.fromkeys(self.shares, 0)
        """Original tokens per source, of all documents taken so far, those waiting to be packed included."""
        self.read = {name: Tally() for name in self.shares}
        """What went into packed rows."""

    def choose(self, available: Iterable[str]) -> str:
        """The available source that lags most behind its share; the first of equals."""
        return min(available, key=lambda name: self.admitted[name] / self.shares[name])

    def admit(self, name: str, plan: Plan) -> None:
        """Count a document when it is taken from its source."""
        self.admitted[name] += plan.units + plan.text_tokens

    def report(self) -> dict[str, Any]:
        """What was achieved: the tally of each source, its share of the original tokens, and the accounting.

        `sequence_ratio` is global units per original token, controls included in the former (paper: 2.42 / 3.00 =
        0.81 with static patches of 4); `units_per_patch` is the mean length of a speech patch; `speech_share` the share
        of units among the original tokens of the speech source (paper: about 0.77).
        """
        total = sum(tally.original for tally in self.read.values())
        sources = {}
        for name, tally in self.read.items():
            share = tally.original / total if total else 0.0
            sources[name] = {**asdict(tally), "share": share, "speech_share": tally.units / max(1, tally.original)}
        patches = sum(tally.patches for tally in self.read.values())
        units = sum(tally.units for tally in self.read.values())
        speech_patches = sum(tally.speech_patches for tally in self.read.values())
        return {
            "sources": sources,
            "original_tokens": total,
            "global_units": patches,
            "units": units,
            "text_tokens": total - units,
            "sequence_ratio": patches / max(1, total),
            "units_per_patch": units / max(1, speech_patches),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"admitted": dict(self.admitted), "read": {name: asdict(tally) for name, tally in self.read.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.admitted = {name: int(state["admitted"][name]) for name in self.shares}
        self.read = {name: Tally(**state["read"][name]) for name in self.shares}
