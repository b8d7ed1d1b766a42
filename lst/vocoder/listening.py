"""A listener for training: what the network of a unit tokenizer makes of predicted frames, beside the true ones.

A mean of log-mel spectra that a loss by bands likes may be a sound that nobody can name. The tokenizer's network has
learnt to tell phones apart, so what differs in its layers is what a listener would hear differ. It stays as it is; only
the gradient goes through it, to the frames.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lst.errors import LstError
from lst.units.loading import TokenizerIdentity
from lst.units.logmel import HOP
from lst.units.network import STACK, HubertNetwork, load_network
from lst.units.spec import FbankHubertSpec
from lst.vocoder.spectrum import LOG_FLOOR, Spectrum

SILENCE = float(np.log(LOG_FLOOR))


class Listener(nn.Module):
    """The network of a tokenizer, for frames on the grid of `spectrum`."""

    offset: Tensor

    def __init__(self, network: HubertNetwork, spectrum: Spectrum) -> None:
        super().__init__()
        self.network = network.float().eval().requires_grad_(False)
        count = network.config.layers
        self.layers = sorted({max(0, count * part // 3 - 1) for part in (1, 2, 3)})
        # The network's bands are sums over filters as wide, its window is shorter: a constant factor in each band.
        hears = network.log_mel
        energy = float(hears.window.square().sum()) / float((spectrum.hann.astype(np.float64) ** 2).sum())
        self.register_buffer("offset", (hears.filters.sum(0) * energy).log(), persistent=False)

    def forward(self, log_mel: Tensor) -> list[Tensor]:
        """(B, 4 T, n_mels) natural logarithms of power -> (B, T, dim) after a third, two thirds, all of the layers."""
        heard = self.network.layers_of(self.network.log_mel.normalised((log_mel + self.offset).exp()))
        return [heard[layer] for layer in self.layers]

    def difference(self, predicted: Tensor, true: Tensor, known: Tensor) -> Tensor:
        """Mean squared difference of what is heard, as a share of its variance in the true sound.

        predicted, true: (B, 4 T, n_mels); known: (B, 4 T), the frames that count; the others are silence in both.
        """
        there = known[..., None]
        with torch.no_grad():
            targets = self(true.masked_fill(~there, SILENCE))
        heard = self(predicted.masked_fill(~there, SILENCE))
        counts = known.reshape(len(known), -1, STACK).all(-1)
        shares = []
        for now, target in zip(heard, targets, strict=True):
            kept = target[counts].float()
            shares.append((now[counts].float() - kept).square().mean() / kept.var(0).mean().clamp_min(1e-6))
        return torch.stack(shares).mean()


def open_listener(tokenizer: TokenizerIdentity, spectrum: Spectrum) -> Listener:
    """The network of `tokenizer`. Raises LstError if it has none, or one that hears other frames."""
    encoder = tokenizer.spec.encoder
    if not isinstance(encoder, FbankHubertSpec):
        raise LstError(
            f"The tokenizer {tokenizer.spec.name} ({encoder.kind}) has no network that could listen.",
            hint="Give one of lst train-tokenizer --kind hubert as `listener`, or set listening=0.",
        )
    path: Path = tokenizer.directory / encoder.weights
    network = load_network(path)
    if network.config.mel_bands != spectrum.n_mels or spectrum.hop != HOP:
        raise LstError(
            f"The network of {tokenizer.spec.name} hears {network.config.mel_bands} bands, not {spectrum.n_mels}.",
            hint="Give another tokenizer as `listener`, or set listening=0.",
        )
    return Listener(network, spectrum)
