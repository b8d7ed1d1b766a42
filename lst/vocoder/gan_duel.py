"""A GAN vocoder and its discriminators in turns: what each loses on a batch of pieces."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from lst.constants import SAMPLES_PER_FRAME
from lst.vocoder.discriminators import Discriminators
from lst.vocoder.gan import GanNetwork
from lst.vocoder.gan_config import TrainGanConfig
from lst.vocoder.gan_losses import (
    LogMel,
    SpectralDistance,
    Verdicts,
    adversarial,
    discrimination,
    feature_distance,
    right_share,
)
from lst.vocoder.listening import Listener
from lst.vocoder.pieces import Pieces, frame_losses, hidden_whole, means, stacked

Batch = Mapping[str, Tensor]


class Duel:
    """`alone` and `deceive` are losses of the vocoder, `tell_apart`, of the waveform made last, the discriminators'.

    Most pieces are spoken with the F0 and voicing of their recordings, so that harmonics lie where they are compared.
    The first `own_pitch` of a batch have those that the network predicts, as in use; their waveforms are compared by
    the discriminators and by the listener alone. What is not known (beyond the ends of utterances, at the end of
    pieces) is silence in made and real sound alike.
    """

    def __init__(
        self,
        pieces: Pieces,
        network: GanNetwork,
        discriminators: Discriminators,
        listener: Listener | None,
        config: TrainGanConfig,
    ) -> None:
        self.pieces, self.network, self.discriminators, self.config = pieces, network, discriminators, config
        self._own = int(config.batch * config.own_pitch)
        self._judged_samples = min(config.judged_units, config.piece_units) * SAMPLES_PER_FRAME
        self._distance, self._log_mel, self._listener = SpectralDistance(), LogMel(network.synthesis.spectrum), listener
        self._made: Tensor | None = None
        self._real: Tensor | None = None

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """As `Pieces.batch`, and where in each piece the discriminators listen."""
        batch = self.pieces.batch(generator)
        known = batch["known"]
        count, length = len(known), batch["samples"].shape[1]
        judged = self._judged_samples
        places = known.float()
        first = places.argmax(1) * (length // known.shape[1])
        last = first + places.sum(1).long() * (length // known.shape[1]) - judged
        part = torch.rand(count, generator=generator)
        start = first + (part * (last - first).clamp_min(0)).long()
        batch["judged"] = start.clamp(0, length - judged)
        return batch

    def alone(self, batch: Batch) -> dict[str, Tensor]:
        """The vocoder's losses without discriminators."""
        losses, _, _ = self._speak(batch)
        return losses

    def deceive(self, batch: Batch) -> dict[str, Tensor]:
        """Those, and what the discriminators say and see."""
        losses, made, real = self._speak(batch)
        weights = self.config.weights
        self._made, self._real = self._judged(made, batch), self._judged(real, batch)
        with self._autocast():
            with torch.no_grad():
                truth = self.discriminators(self._real)
            claims = self.discriminators(self._made)
        verdict = adversarial(claims)
        features = feature_distance(self._comparable(claims), self._comparable(truth))
        losses["loss"] = losses["loss"] + weights.verdict * verdict + weights.features * features
        return {**losses, "verdict": verdict.detach(), "features": features.detach()}

    def tell_apart(self, batch: Batch) -> dict[str, Tensor]:
        """The discriminators' loss on the waveforms that `deceive` made of this batch."""
        assert self._made is not None
        assert self._real is not None
        with self._autocast():
            truth, claims = self.discriminators(self._real), self.discriminators(self._made.detach())
        self._made = self._real = None
        return {"loss": discrimination(claims, truth), "right": right_share(claims, truth).detach()}

    def _speak(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Losses but for the discriminators', the waveforms made, and the real ones."""
        frames_network = self.network.frames
        device = frames_network.head.weight.device
        there = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        frozen = self.config.freeze
        if frozen:
            frames_network.eval()
        with self._autocast():
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                hidden = frames_network.hidden(there["units"], there["voice"])
                predicted = frames_network.decode(hidden)
            noise = torch.randn(there["samples"].shape, device=device)
            made = self.speak(hidden, predicted, there["frames"], noise, self._own)
        known = there["known"]
        audible = known.repeat_interleave(made.shape[1] // known.shape[1], 1)
        made, real = made * audible, there["samples"].float() / 32768 * audible
        losses = self._compare(made, real, there["frames"], known, self._own)
        if not frozen:
            of_frames = frame_losses(frames_network, predicted.float(), there["frames"], known)
            losses["loss"] = losses["loss"] + self.config.weights.frames * of_frames.pop("loss")
            losses |= of_frames
        return losses, made, real

    def speak(self, hidden: Tensor, predicted: Tensor, true: Tensor, noise: Tensor, own: int) -> Tensor:
        """Waveforms (B, n); from row `own` on with the pitch of the frames `true` (B, K, n_mels + 2)."""
        network = self.network.frames
        frames, log_f0 = self.network.pitch_frames(predicted)
        mean, deviation = cast(Tensor, network.mean)[-1], cast(Tensor, network.deviation)[-1]
        pitch = torch.stack([(true[..., -2] - mean) / deviation, true[..., -1]], -1)
        pitch = torch.cat([frames[:own, :, -2:], pitch[own:]])
        log_f0 = torch.cat([log_f0[:own], true[own:, :, -2]])
        made: Tensor = self.network.synthesis(hidden, torch.cat([frames[..., :-2], pitch], -1), log_f0, noise)
        return made

    def _compare(self, made: Tensor, real: Tensor, frames: Tensor, known: Tensor, own: int) -> dict[str, Tensor]:
        self._distance.to(made.device)
        spectra = self._distance(made[own:], real[own:])
        loss = self.config.weights.spectra * spectra
        if self._listener is None:
            return {"loss": loss, "spectra": spectra.detach()}
        with self._autocast():
            mel = self._log_mel.to(made.device)(made)
            heard = self._listener.to(made.device).difference(mel, frames[..., :-2], known)
        return {"loss": loss + self.config.listening * heard, "spectra": spectra.detach(), "heard": heard.detach()}

    def _judged(self, samples: Tensor, batch: Batch) -> Tensor:
        places = torch.arange(self._judged_samples, device=samples.device)
        return samples.gather(1, batch["judged"].to(samples.device)[:, None] + places)

    def _comparable(self, verdicts: Verdicts) -> Verdicts:
        """Of the pieces that have the pitch of their recordings."""
        return [(scores[self._own :], [layer[self._own :] for layer in seen]) for scores, seen in verdicts]

    def _autocast(self) -> torch.autocast:
        device = self.network.frames.head.weight.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def validate(self, held: list[int]) -> dict[str, float]:
        """Mean losses over whole held-out utterances, by frames, with the pitch of their recordings."""
        return means(map(self._held, held))

    def _held(self, index: int) -> tuple[dict[str, Tensor], int]:
        """Losses on a whole utterance, and its number of frames."""
        network, corpus = self.network, self.pieces.corpus
        assert corpus.samples is not None
        hidden, frames = hidden_whole(network.frames, corpus, index)
        predicted = network.frames.decode(hidden)
        device = predicted.device
        target = torch.from_numpy(stacked(frames)).to(device)[None]
        place = slice(*(int(corpus.starts[place]) * SAMPLES_PER_FRAME for place in (index, index + 1)))
        real = torch.from_numpy(corpus.samples[place].astype(np.float32) / 32768).to(device)[None]
        noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(index)).to(device)
        made = self.speak(hidden[None], predicted[None], target, noise, 0)
        known = torch.ones(target.shape[:2], dtype=torch.bool, device=device)
        of_frames = frame_losses(network.frames, predicted[None].float(), target, known)
        del of_frames["loss"]
        return {**self._compare(made, real, target, known, 0), **of_frames}, len(frames)
