"""Units fitted to phones: they tell the phone, stay under noise, and come again the same."""

import numpy as np
import pytest
import torch

from lst.errors import LstError
from lst.units.hubert_config import NetworkConfig
from lst.units.informed import information, informed_head
from lst.units.network import HubertNetwork
from lst.units.quality import contingency, explained_entropy
from lst.units.segments import Corpus

NETWORK = NetworkConfig(mel_bands=16, dim=32, layers=1, heads=2, ffn_dim=48, pos_kernel=8, pos_groups=4, clusters=9)


@pytest.fixture
def network() -> HubertNetwork:
    torch.manual_seed(0)
    return HubertNetwork(NETWORK).eval().requires_grad_(False)


def corpus(known: bool = True) -> Corpus:
    """Tones of three heights in turn: the phone is the height."""
    phones = np.repeat(np.random.default_rng(0).integers(0, 3, 160), 10).astype(np.int16)
    phase = np.cumsum(np.repeat(0.15 + 0.3 * phones, 640))
    audio = (6000 * np.sin(phase)).astype(np.int16).reshape(1600, 640)
    starts, lengths = np.array([0, 800]), np.array([800, 800])
    return Corpus(audio, np.zeros(1600, np.int16), starts, lengths, phones if known else phones * 0 - 1)


def units(network: HubertNetwork, stability: float) -> tuple[np.ndarray, np.ndarray]:
    """Of the recording and of a noisy copy."""
    head = informed_head(network, corpus(), frames=1600, steps=60, stability=stability, seed=0)
    sound = corpus().audio.reshape(1, -1).astype(np.float32) / 32768
    noisy = sound + 0.02 * np.random.default_rng(1).standard_normal(sound.shape).astype(np.float32)
    found = [network.features(torch.from_numpy(samples))[0].numpy() for samples in (sound, noisy)]
    clean, disturbed = ((features @ head.weight.T + head.bias).argmax(axis=1) for features in found)
    return clean, disturbed


def told(found: np.ndarray) -> float:
    return explained_entropy(contingency(corpus().phones, found))


def test_information_is_that_of_counts() -> None:
    random = np.random.default_rng(0)
    labels, found = random.integers(0, 4, 500), random.integers(0, 6, 500)
    found[labels == 2] = 1
    one_hot = [torch.nn.functional.one_hot(torch.from_numpy(values)).float() for values in (labels, found)]
    entropy = -sum(share * np.log(share) for share in np.bincount(labels) / 500)
    expected = explained_entropy(contingency(labels, found)) * entropy
    assert float(information(*one_hot)) == pytest.approx(expected, abs=1e-4)


def test_they_tell_the_phone_and_with_stability_stay_under_noise(network: HubertNetwork) -> None:
    clean, _ = units(network, 0.0)
    predicted = network.predict(
        network.features(torch.from_numpy(corpus().audio.reshape(1, -1).astype(np.float32) / 32768))
    )[0].argmax(dim=1)
    assert told(clean) > told(predicted.numpy())
    steady, disturbed = units(network, 1.0)
    free, free_disturbed = units(network, 0.0)
    assert (steady == disturbed).mean() >= (free == free_disturbed).mean()
    assert np.array_equal(free, clean)


def test_without_phones_there_is_nothing_to_fit(network: HubertNetwork) -> None:
    with pytest.raises(LstError, match="known phone"):
        informed_head(network, corpus(known=False), frames=800, steps=1, stability=0.0, seed=0)
