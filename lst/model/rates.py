"""From sums of losses to the numbers people compare: bits per second of speech and per text token, by direction."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lst.constants import FRAME_RATE
from lst.data.batch import PackedBatch
from lst.data.vocabulary import Vocabulary
from lst.model.loss import LossOutput


def loss_counts(output: LossOutput) -> dict[str, float]:
    """The sums of a loss as numbers (one transfer from the device)."""
    fields = {
        "loss": output.loss.detach(),  # nats, over all targets
        "targets": output.count,
        "speech_loss": output.speech_loss,
        "speech_targets": output.speech_count,
        "text_loss": output.text_loss,
        "text_targets": output.text_count,
        "text_to_speech_loss": output.text_to_speech_loss,
        "speech_to_text_loss": output.speech_to_text_loss,
        "speech_to_text_targets": output.speech_to_text_count,
    }
    values = torch.stack([value.double() for value in fields.values()]).tolist()
    return dict(zip(fields, values, strict=True))


class FrameCounter:
    """Counts the 40 ms frames behind ids, on the CPU: one per unit, none for text.

    `unit_frames`: frames behind each unit id, where the units are pieces of a unit BPE.
    """

    def __init__(self, vocabulary: Vocabulary, unit_frames: Sequence[int] | None = None) -> None:
        frames = [0.0] * vocabulary.unit_offset + [float(n) for n in unit_frames or [1] * vocabulary.num_units]
        self._frames = torch.tensor([*frames, 0.0])  # the last entry is for targets to be ignored

    def tokens(self, tokens: Tensor) -> float:
        """Frames behind the ids of `tokens`."""
        return float(self._frames[tokens].sum())

    def targets(self, batch: PackedBatch) -> dict[str, float]:
        """Frames behind the targets of a batch: all, and those that come after text."""
        frames = self._frames[batch.targets.clamp_min(-1)]
        return {
            "speech_frames": float(frames.sum()),
            "text_to_speech_frames": float((frames * batch.crossed).sum()),
        }


def rates(counts: Mapping[str, float]) -> dict[str, float]:
    """Losses per target in nats and bits, per second of speech (25 frames), and per text token.

    `counts`: sums of `loss_counts` and of `FrameCounter.targets`. Where a modality follows the other there are the four
    directions as well, by what the document held before the target: `speech_to_speech_…` and `text_to_text_…` are of
    targets with nothing but their own modality before them. What has no targets is left out.
    """
    bits = 1.0 / math.log(2.0)
    out = {}
    if counts["targets"]:
        out["loss"] = counts["loss"] / counts["targets"]
        out["bits"] = out["loss"] * bits

    def speech(name: str, loss: float, frames: float) -> None:
        if frames:
            out[f"{name}_bits_per_second"] = loss / frames * bits * FRAME_RATE

    def text(name: str, loss: float, targets: float) -> None:
        if targets:
            out[f"{name}_bits_per_token"] = loss / targets * bits

    units, pieces = (counts["speech_loss"], counts["speech_frames"]), (counts["text_loss"], counts["text_targets"])
    speech("speech", *units)
    text("text", *pieces)
    units_after = (counts["text_to_speech_loss"], counts["text_to_speech_frames"])
    pieces_after = (counts["speech_to_text_loss"], counts["speech_to_text_targets"])
    if units_after[1] or pieces_after[1]:
        speech("speech_to_speech", units[0] - units_after[0], units[1] - units_after[1])
        text("text_to_text", pieces[0] - pieces_after[0], pieces[1] - pieces_after[1])
        speech("text_to_speech", *units_after)
        text("speech_to_text", *pieces_after)
    return out
