"""Units that tell as much of the phone as a linear map of the features can, and stay when the sound is disturbed.

A cluster that the network predicts follows what it was taught; how the unit is drawn from the features is free. Let
q(unit | frame) be a softmax of a linear map. Over frames with known phones the map maximises the mutual information
I(phone; unit) and, with the weight `stability`, keeps the units of a frame and of its noisy copy the same (their cross
entropy). It starts from the clusters' embeddings; the unit is the largest score. As in regularised information
maximisation (Krause et al. 2010), with the phones known.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lst.errors import LstError
from lst.units.codebooks import PredictionHead
from lst.units.network import HubertNetwork
from lst.units.segments import Corpus, Segments, band_gains, band_places

BATCH = 4096
RATE = 0.025
SHARPNESS = 25.0
"""Of the cosines at the start: two and a half times that of the training, or soft and hard units would differ much."""
NOISE_DB = (14.0, 26.0)


@dataclass(frozen=True)
class Views:
    """Of N frames: `clean`, `noisy` (N, dim) float16 features of unit norm, `phones` (N,) int64."""

    clean: Tensor
    noisy: Tensor
    phones: Tensor


def informed_head(
    network: HubertNetwork, corpus: Corpus, *, frames: int, steps: int, stability: float, seed: int
) -> PredictionHead:
    """Fit the map on `frames` frames of `corpus`, in `steps` steps, on the CPU. LstError if no phone is known."""
    views = _views(network, corpus, frames, seed)
    embeddings = functional.normalize(network.label_embs.detach().float(), dim=1)
    weights = torch.nn.Parameter(SHARPNESS * embeddings)
    optimizer = torch.optim.Adam([weights], lr=RATE)
    labels = functional.one_hot(views.phones).float()
    random = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (steps - step) / (0.6 * steps))
        chosen = torch.randint(len(labels), (BATCH,), generator=random)
        loss = _loss(weights, views.clean[chosen].float(), views.noisy[chosen].float(), labels[chosen], stability)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = weights.detach()
    weight, bias = found @ network.final_proj.weight, found @ network.final_proj.bias
    return PredictionHead(weight.cpu().numpy(), bias.cpu().numpy())


def information(labels: Tensor, shares: Tensor) -> Tensor:
    """I(label; unit) in nats of (N, labels) and (N, units) probabilities."""
    joint = labels.T @ shares / len(labels)
    return _entropy(joint.sum(0)) + _entropy(joint.sum(1)) - _entropy(joint)


def _loss(weights: Tensor, clean: Tensor, noisy: Tensor, labels: Tensor, stability: float) -> Tensor:
    logs = [(features @ weights.T).log_softmax(dim=1) for features in (clean, noisy)]
    clean_log, noisy_log = logs
    told = (information(labels, clean_log.exp()) + information(labels, noisy_log.exp())) / 2
    same = (clean_log.exp() * noisy_log + noisy_log.exp() * clean_log).sum(dim=1).mean() / 2
    return -told - stability * same


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * (probabilities + 1e-9).log()).sum()


@torch.inference_mode()
def _views(network: HubertNetwork, corpus: Corpus, frames: int, seed: int) -> Views:
    """Every stretch twice, with the same colour and vocal tract: as it is, and with white noise."""
    segments = Segments(corpus, 800, network.config.mel_bands, seed, disturb=False)
    clean: list[Tensor] = []
    noisy: list[Tensor] = []
    phones: list[Tensor] = []
    for step in range(-(-frames // segments.frames)):
        batch, random = segments[step], np.random.default_rng([seed, 3, step])
        rows, bands = batch.band_gain.shape
        gains = band_gains(rows, bands, random)
        gain = torch.from_numpy(np.where(gains < 1e-5, np.float32(1), gains))  # all bands are heard
        places = torch.from_numpy(band_places(rows, bands, random))
        loudness = np.sqrt((batch.samples**2).mean(axis=1, keepdims=True)) * 10 ** (
            -random.uniform(*NOISE_DB, (rows, 1)) / 20
        )
        noise = (loudness * random.standard_normal(batch.samples.shape)).astype(np.float32)
        said = torch.from_numpy(batch.phones)
        known = said >= 0
        for found, samples in ((clean, batch.samples), (noisy, batch.samples + noise)):
            features = network.final_proj(network.features(torch.from_numpy(samples), None, gain, places))
            found.append(functional.normalize(features[known], dim=1).half())
        phones.append(said[known])
    if not sum(map(len, phones)):
        raise LstError("No frame has a known phone, so no units can be fitted to phones.")
    return Views(torch.cat(clean), torch.cat(noisy), torch.cat(phones))
