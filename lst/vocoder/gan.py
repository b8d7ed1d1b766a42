"""The GAN vocoder: a ConvNeXt network from units to frames, and a network that makes the waveform from them.

    units -> `lst.vocoder.convnext.Network` -> hidden frames, log-mel, F0, voicing
          -> `lst.vocoder.synthesis.Synthesis` -> waveform

It is trained against discriminators (`lst.vocoder.gan_train`), of which nothing is left here.

A vocoder directory holds `config.json` (`GanConfig`), `weights.safetensors` and `card.json`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lst.vocoder.base import Float
from lst.vocoder.convnext import LEAD, FramesNetworkConfig, Network, NetworkStream, load_network, voice_of
from lst.vocoder.streaming import StreamedVocoder
from lst.vocoder.synthesis import Synthesis, SynthesisShape, SynthesisStream


class GanConfig(FramesNetworkConfig):
    """All of `config.json`."""

    kind: Literal["gan"] = "gan"
    version: Literal[1] = 1
    synthesis: SynthesisShape = Field(description="what makes the waveform")


class GanNetwork(nn.Module):
    """Units to waveform."""

    def __init__(self, config: GanConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.frames = Network(config, dropout)
        self.synthesis = Synthesis(config.synthesis, config.network.dim, config.spectrum, config.source_filter)

    def pitch_frames(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, n_mels + 2) as `Network.decode` gives them -> frames as `Synthesis` takes them, and log F0 (B, K)."""
        network = self.frames
        values = predicted[..., :-1].float() * network.deviation + network.mean  # type: ignore[operator]
        pitch = torch.stack([predicted[..., -2].float(), torch.sigmoid(predicted[..., -1].float())], -1)
        return torch.cat([values[..., :-1], pitch], -1), values[..., -1]


class GanVocoder(StreamedVocoder):
    """Units to sound by two networks.

    Look-ahead: that of the frames (3 units: 120 ms), 50 ms of the synthesis, 5 ms of the final fade.
    """

    def __init__(self, name: str, fingerprint: str, config: GanConfig, network: GanNetwork, speaker: int = 0) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.tokenizer_fingerprint = config.tokenizer
        self.num_units = config.num_units
        self.config = config
        self.network = network.eval()
        self._speaker = speaker if config.speakers else None

    def sound(self, units: Iterator[int], block: int) -> Iterator[Float]:
        """The waveform in pieces, each once `block` more units (or the last) have settled it."""
        frames = self.network.frames
        stream = NetworkStream(frames, self._speaker)
        synthesis = SynthesisStream(self.network.synthesis, self.config.source_filter.seed)
        outside, ahead = [self.num_units], frames.lookahead
        waiting, unwanted = outside * LEAD, LEAD
        for unit in units:
            waiting.append(unit)
            if len(waiting) >= block + unwanted + ahead:
                yield self._piece(stream, synthesis, waiting, unwanted)
                waiting, unwanted, ahead = [], 0, 0
        yield self._piece(stream, synthesis, waiting + outside * frames.lookahead, unwanted)
        with torch.inference_mode():
            yield synthesis.flush().numpy()

    def _piece(self, stream: NetworkStream, synthesis: SynthesisStream, units: list[int], unwanted: int) -> Float:
        """The samples that these units settle, without those of the first `unwanted` places."""
        with torch.inference_mode():
            hidden = stream.hidden(units)[:, unwanted * self.config.spectrum.frames_per_unit :]
            made = synthesis.push(hidden, *self.network.pitch_frames(self.network.frames.decode(hidden)))
            return np.asarray(made.numpy())


def load_gan(directory: Path, name: str, fingerprint: str, speaker: str = "") -> GanVocoder:
    """The vocoder in `directory`, with the voice `speaker` (a name or number). Raises LstError if it is damaged."""
    config, network = load_network(directory, GanConfig, GanNetwork)
    return GanVocoder(name, fingerprint, config, network, voice_of(config, name, speaker))
