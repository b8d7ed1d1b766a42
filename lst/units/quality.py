"""How good units are: what they tell about the phone (wanted) and about the speaker (not wanted).

All measures compare two sequences of labels, frame by frame, as in the HuBERT paper (Hsu et al. 2021, section IV-F).
They are biased upwards when there are few frames per unit: give `shuffled_floor` beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lst.constants import FRAME_RATE
from lst.errors import LstError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class UnitQuality:
    """Numbers of one tokenizer on one set of labelled frames; all shares lie between 0 and 1."""

    frames: int
    units_used: int
    pnmi: float
    """Phone-normalised mutual information: the share of the phone's entropy that the unit explains."""
    pnmi_floor: float
    """The same after shuffling: what chance gives with so few frames."""
    phone_purity: float
    cluster_purity: float
    speaker_nmi: float
    """The share of the speaker's entropy that the unit explains; 0 with one speaker."""


def measure(
    units: "ArrayLike", phones: "ArrayLike", speakers: "ArrayLike | None" = None, *, seed: int = 0
) -> UnitQuality:
    """All measures at once. `units`, `phones`, `speakers`: (N,) labels of N frames, of any hashable kind."""
    counts = contingency(phones, units)
    return UnitQuality(
        frames=int(counts.sum()),
        units_used=counts.shape[1],
        pnmi=explained_entropy(counts),
        pnmi_floor=shuffled_floor(phones, units, seed=seed),
        phone_purity=phone_purity(counts),
        cluster_purity=cluster_purity(counts),
        speaker_nmi=0.0 if speakers is None else explained_entropy(contingency(speakers, units)),
    )


def contingency(labels: "ArrayLike", units: "ArrayLike") -> "NDArray[np.float64]":
    """(number of labels, number of units) counts of frames. Raises LstError for sequences that do not match."""
    label_values, label_index = np.unique(np.asarray(labels), return_inverse=True)
    unit_values, unit_index = np.unique(np.asarray(units), return_inverse=True)
    if label_index.shape != unit_index.shape or label_index.ndim != 1 or len(label_index) == 0:
        raise LstError(
            f"Labels {np.shape(labels)} and units {np.shape(units)} must be sequences of one length, and not empty."
        )
    counts = np.zeros((len(label_values), len(unit_values)))
    np.add.at(counts, (label_index, unit_index), 1)
    return counts


def explained_entropy(counts: "NDArray[np.float64]") -> float:
    """I(label; unit) / H(label) from (labels, units) counts: PNMI with phones, speaker NMI with speakers.

    0 if there is one label only.
    """
    joint = counts / counts.sum()
    labels, units = joint.sum(axis=1), joint.sum(axis=0)
    entropy = _entropy(labels)
    if entropy == 0:
        return 0.0
    information = entropy + _entropy(units) - _entropy(joint)
    return float(np.clip(information / entropy, 0.0, 1.0))


def phone_purity(counts: "NDArray[np.float64]") -> float:
    """Frame accuracy if every unit is read as its most frequent phone. `counts`: (phones, units)."""
    return float(counts.max(axis=0).sum() / counts.sum())


def cluster_purity(counts: "NDArray[np.float64]") -> float:
    """Frame accuracy if every phone is written as its most frequent unit. `counts`: (phones, units)."""
    return float(counts.max(axis=1).sum() / counts.sum())


def shuffled_floor(labels: "ArrayLike", units: "ArrayLike", *, seed: int = 0) -> float:
    """`explained_entropy` of units in random order: the bias of the measure for this many frames."""
    shuffled = np.random.default_rng(seed).permutation(np.asarray(units))
    return explained_entropy(contingency(labels, shuffled))


def frame_labels(spans: Sequence[tuple[float, float, str]], num_frames: int, *, outside: str = "SIL") -> list[str]:
    """Labels of 25 Hz frames from (start_s, end_s, label) spans: the label at the middle of each frame.

    `spans` are in order and do not overlap; frames in none of them are `outside`.
    """
    ends = np.array([end for _, end, _ in spans])
    middles = (np.arange(num_frames) + 0.5) / FRAME_RATE
    labels = []
    for middle, index in zip(middles, np.searchsorted(ends, middles, side="right"), strict=True):
        inside = index < len(spans) and spans[index][0] <= middle
        labels.append(spans[index][2] if inside else outside)
    return labels


def _entropy(probabilities: "NDArray[Any]") -> float:
    """In nats."""
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum())
