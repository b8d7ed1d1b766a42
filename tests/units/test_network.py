"""The small HuBERT: its log-mel, masks, cosine logits and loss against references, and its file."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torchaudio.transforms import MelSpectrogram

from lst.errors import LstError
from lst.units.hubert_config import NetworkConfig
from lst.units.logmel import FLOOR, SCALE, LogMel
from lst.units.network import HubertNetwork, hubert_loss, load_network, phone_loss, phone_scores, save_network
from tests.units.tiny import speechlike

TINY = NetworkConfig(
    mel_bands=16, dim=32, layers=2, heads=2, ffn_dim=48, pos_kernel=8, pos_groups=4, clusters=20, dropout=0.0
)


@pytest.fixture
def network() -> HubertNetwork:
    torch.manual_seed(0)
    return HubertNetwork(TINY).eval()


def samples(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(speechlike(640 * frames, seed))[None]


def test_all_layers_at_once_are_the_layers_one_by_one(network: HubertNetwork) -> None:
    sound = samples(30)
    with torch.inference_mode():
        first, last = network.layers_of(network.log_mel(sound))
        assert torch.allclose(first, network.features(sound, 1), atol=1e-6)
        assert torch.allclose(last, network.features(sound), atol=1e-6)


def test_log_mel_is_torchaudios_less_its_level() -> None:
    sound = samples(50)
    reference = MelSpectrogram(
        16000, n_fft=512, win_length=400, hop_length=160, f_min=20.0, n_mels=80, center=False, norm=None,
        window_fn=lambda size: torch.hann_window(size, periodic=False),
    )  # fmt: skip
    # Windows of 400 lie in the middle of transforms of 512: 56 more on each side than the 120 of the network.
    padded = torch.nn.functional.pad(sound[:, None], (176, 176), mode="reflect")[:, 0]
    log_mel = (reference(padded).transpose(1, 2) + FLOOR).log()
    level = log_mel.mean(dim=2)
    expected = []
    for frame in range(200):
        around = level[:, max(0, frame - 128) : frame + 129].mean(dim=1)
        expected.append((log_mel[:, frame] - around[:, None]) / 3.0)
    assert torch.allclose(LogMel(80)(sound), torch.stack(expected, 1), atol=2e-4)


def test_gain_hardly_moves_what_is_heard(network: HubertNetwork) -> None:
    sound = samples(50)
    quiet, loud = network.log_mel(sound * 0.5), network.log_mel(sound * 2)
    assert (quiet - loud).abs().mean() < 0.15 * network.log_mel(sound).std()


def test_band_gain_is_a_gain_on_the_power_of_bands() -> None:
    sound = samples(20)
    log_mel = LogMel(8)
    assert torch.equal(log_mel(sound, torch.ones(1, 8)), log_mel(sound))
    assert torch.allclose(log_mel(sound, torch.full((1, 8), 4.0)), log_mel(sound * 2), atol=1e-4)


def test_with_a_floor_weak_noise_changes_little_and_gain_nothing() -> None:
    sound = samples(100)
    noise = torch.randn(sound.shape, generator=torch.Generator().manual_seed(0)) * sound.square().mean().sqrt() / 10
    changes = {}
    for floor in (None, 25.0):
        log_mel = LogMel(80, floor)
        changes[floor] = (log_mel(sound + noise) - log_mel(sound)).abs().mean() / log_mel(sound).std()
    assert changes[25.0] < 0.6 * changes[None]
    with_floor = LogMel(80, 25.0)
    assert torch.allclose(with_floor(sound * 2), with_floor(sound / 2), atol=0.05)


def test_the_floor_is_white_noise_without_its_fluctuations() -> None:
    random = torch.Generator().manual_seed(0)
    sound = torch.zeros(1, 160 * 257)
    sound[:, 20_000:22_000] = 0.3 * torch.randn(1, 2000, generator=random)
    noise = torch.randn(sound.shape, generator=random) * (sound.square().mean() / 100).sqrt()
    floor, real = (LogMel(80, db)(audio)[0] * SCALE for db, audio in ((20.0, sound), (None, sound + noise)))
    # In the middle of the 2.57 s that the level and the floor are taken from, beside the sound. The mean logarithm of
    # a power is up to 0.58 below the logarithm of its mean, most where few bins are heard, and so is the level.
    difference = (floor - real)[100:118].mean(dim=0)
    assert difference.abs().max() < 0.9
    assert difference.abs().mean() < 0.4


def test_band_places_move_what_is_heard_along_the_bands() -> None:
    sound, log_mel, bands = samples(20), LogMel(16), torch.arange(16.0)[None]
    plain = log_mel(sound)
    assert torch.equal(log_mel(sound, None, bands), plain)
    moved = log_mel(sound, None, (bands + 1.0).clamp(max=15)) - plain.roll(-1, dims=2)
    assert torch.allclose(moved[..., :-1], moved[..., :1].expand(-1, -1, 15), atol=1e-5)  # but for the level
    between = log_mel(sound, None, (bands + 0.5).clamp(max=15))
    half = (plain[..., :-1] + plain[..., 1:]) / 2
    assert torch.allclose(between[..., :-1].diff(dim=2), half.diff(dim=2), atol=1e-5)


def test_masks_are_spans_and_hide_what_is_under_them(network: HubertNetwork) -> None:
    torch.manual_seed(1)
    sound = samples(400)
    logits, mask = network.logits(sound)
    assert logits.shape == (1, 400, 20)
    assert 0.05 < mask.float().mean() < 0.2
    edges = torch.nonzero(torch.diff(mask[0].int(), prepend=torch.tensor([0]), append=torch.tensor([0])))[:, 0]
    lengths = edges[1::2] - edges[0::2]
    assert (lengths >= TINY.mask_span).all()
    # Whatever lies under the masks, the network gets the same.
    stacked, layout = network._stacked(network.log_mel(sound))
    torch.manual_seed(2)
    first, mask = network.frontend.process_features(stacked.clone(), layout, network.masker)
    torch.manual_seed(2)
    hidden = torch.where(mask[..., None], torch.full_like(stacked, 7.0), stacked)
    second, _ = network.frontend.process_features(hidden, layout, network.masker)
    assert torch.equal(first, second)


def test_logits_are_cosines_over_the_temperature(network: HubertNetwork) -> None:
    features = torch.randn(3, 4, TINY.dim)
    projected = network.final_proj(features)
    cosines = torch.cosine_similarity(projected[:, :, None], network.label_embs[None, None], dim=-1)
    assert torch.allclose(network.predict(features), cosines / 0.1, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 2))
def test_loss_is_that_of_the_definition(seed: int, weight: float) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(2, 5, 4))
    targets = random.integers(-1, 4, (2, 5))
    mask = random.random((2, 5)) < 0.5
    total = 0.0
    for chosen, factor in ((mask, 1.0), (~mask, weight)):
        losses = [
            np.log(np.exp(logits[b, t]).sum()) - logits[b, t, targets[b, t]]
            for b in range(2)
            for t in range(5)
            if chosen[b, t] and targets[b, t] >= 0
        ]
        total += factor * (sum(losses) / len(losses) if losses else 0.0)
    found = hubert_loss(torch.tensor(logits), torch.tensor(targets), torch.tensor(mask), weight)
    assert float(found) == pytest.approx(total, abs=1e-9)


def test_features_of_a_layer(network: HubertNetwork) -> None:
    sound = samples(30)
    with torch.inference_mode():
        assert network.features(sound).shape == (1, 30, TINY.dim)
        assert torch.equal(network.features(sound, 2), network.features(sound))
        assert not torch.allclose(network.features(sound, 1), network.features(sound))


def test_a_frame_hears_so_far_and_no_farther() -> None:
    torch.manual_seed(0)
    local = HubertNetwork(TINY.model_copy(update={"reach": 5})).eval()
    sound, other = samples(200), samples(200)
    other[:, 640 * 120 :] = samples(80, 7)
    with torch.inference_mode():
        same = (local.features(sound) == local.features(other)).all(dim=2)[0]
    # Two layers of 5 frames, half a position convolution of 8, 1.29 s of level, and the edge of a window.
    assert same[: 120 - (2 * 5 + 4 + 33 + 1)].all()
    assert not same[119]
    with torch.inference_mode():
        network = HubertNetwork(TINY.model_copy(update={"reach": 0})).eval()
        assert not torch.equal(network.features(sound)[0, :20], network.features(other)[0, :20])


def test_a_clip_among_others_has_its_own_features(network: HubertNetwork) -> None:
    together = torch.cat([samples(30, 1), samples(30, 2)])
    with torch.inference_mode():
        batch = network.features(together)
        for index in range(2):
            assert torch.allclose(network.features(together[index : index + 1])[0], batch[index], atol=1e-5)


def test_a_saved_network_is_the_same(network: HubertNetwork, tmp_path: Path) -> None:
    save_network(tmp_path / "n.safetensors", network)
    again = load_network(tmp_path / "n.safetensors")
    assert again.config == TINY
    with torch.inference_mode():
        assert torch.equal(again.features(samples(20)), network.features(samples(20)))
    save_network(tmp_path / "half.safetensors", network, torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "n.safetensors").stat().st_size
    assert load_network(tmp_path / "half.safetensors").label_embs.dtype == torch.float32


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (str(Path(__file__).with_name("exploded")), "w"))  # type: ignore[return-value]


@pytest.mark.parametrize("damage", ["cut", "foreign", "pickle", "other-sizes", "missing"])
def test_damaged_and_foreign_files_are_one_sentence(network: HubertNetwork, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "n.safetensors"
    save_network(path, network)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "foreign":
        save_file({"weight": torch.zeros(3)}, path)
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif damage == "other-sizes":
        weights = {name: value for name, value in network.state_dict().items() if "label" not in name}
        save_file(weights, path, {"lst": json.dumps({"form": "lst.hubert/1", "config": TINY.as_json()})})
    else:
        path.unlink()
    with pytest.raises(LstError, match=r"n\.safetensors"):
        load_network(path)
    assert not Path(__file__).with_name("exploded").exists()


def test_the_probability_of_a_phone_is_the_sum_over_its_clusters() -> None:
    logits, phones_of = torch.randn(2, 7, 5), torch.tensor([0, 2, 1, 0, 2])
    scores = phone_scores(logits, phones_of)
    assert torch.allclose(scores[..., 0].exp(), logits.softmax(-1)[..., [0, 3]].sum(-1))
    wanted = torch.randint(0, 3, (2, 7))
    wanted[0, 0] = -1
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[:, 4:] = True
    losses = torch.nn.functional.nll_loss(scores.transpose(1, 2), wanted.clamp(min=0), reduction="none")
    known = wanted >= 0
    expected = losses[mask & known].mean() + 3 * losses[~mask & known].mean()
    assert torch.allclose(phone_loss(logits, wanted, mask, 3.0, phones_of), expected)
