"""Codecs as a disturbance: what comes out is another sound of the same length, at the same place."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate

from lst.align import train_corpus as aligner_corpus
from lst.align.train import TrainAlignerConfig
from lst.errors import LstError
from lst.units.codecs import CODECS, Codec, add_codec, require_codecs, through_codec
from lst.units.hubert_config import HubertConfig, PretrainConfig
from lst.units.segments import Segments
from tests.align.speech import recording
from tests.units.test_segments import corpus


def speech(count: int) -> np.ndarray:
    return np.resize(recording("LJ001-0029"), count).astype(np.float32)


def shift(heard: np.ndarray, sound: np.ndarray) -> int:
    """By how many samples `heard` is late: the peak of the cross-correlation."""
    return int(correlate(heard.astype(float), sound.astype(float), method="fft").argmax()) - (len(sound) - 1)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_another_sound_of_the_same_length_at_the_same_place(name: str, strength: float) -> None:
    for count in (1601, 64000, 80037):
        sound = speech(count)
        heard = through_codec(sound, CODECS[name], strength)
        assert (heard.shape, heard.dtype) == (sound.shape, np.float32)
        assert abs(shift(heard, sound)) <= 2
        error = np.sqrt(((heard - sound) ** 2).mean() / (sound**2).mean())
        assert 0.01 < error < 0.7
        assert np.array_equal(heard, through_codec(sound, CODECS[name], strength))


@pytest.mark.parametrize("name", CODECS)
def test_the_end_is_where_it_was(name: str) -> None:
    """A click near each end: a delay that is cut off, or an end that is missing, would move or lose one."""
    sound = np.zeros(32000, np.float32)
    sound[[900, 31500]] = 0.8
    heard = np.abs(through_codec(sound, CODECS[name], 0.0))
    assert abs(int(heard[:16000].argmax()) - 900) <= 16
    assert abs(int(heard[16000:].argmax()) + 16000 - 31500) <= 16


@pytest.mark.parametrize("name", CODECS)
def test_sound_above_full_scale_is_not_clipped(name: str) -> None:
    sound = 2.5 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000).astype(np.float32)
    heard = through_codec(sound, CODECS[name], 0.0)
    assert np.sqrt(((heard - sound) ** 2).mean()) < 0.3
    assert np.abs(heard).max() > 2.2
    assert not through_codec(np.zeros(6400, np.float32), CODECS[name], 1.0).max() > 1e-3


def test_a_share_of_the_rows_and_every_codec() -> None:
    sound = np.tile(speech(1920), (200, 1))
    heard = sound.copy()
    add_codec(heard, 0.3, np.random.default_rng(0))
    touched = (heard != sound).any(axis=1)
    assert 40 < touched.sum() < 80
    all_of_them = sound[:40].copy()
    add_codec(all_of_them, 1.0, np.random.default_rng(0))
    assert (all_of_them != sound[:40]).any(axis=1).all()
    # The two at 8 kHz have no strength: their rows repeat, and only theirs.
    narrow = [through_codec(sound[0], CODECS[name], 0.0) for name in ("mu-law", "GSM 6.10")]
    repeated = [sum(np.array_equal(row, expected) for row in all_of_them) for expected in narrow]
    assert min(repeated) > 3
    assert 40 - sum(repeated) > 10


def test_the_rest_of_a_step_is_the_same_with_and_without() -> None:
    some = corpus([300, 500, 420])
    plain, off = Segments(some, 400, 8, seed=1), Segments(some, 400, 8, seed=1, codec=0.0)
    coded = Segments(some, 400, 8, seed=1, codec=0.5)
    changed = 0
    for step in (2, 0, 1):
        with_codec, without = coded[step], plain[step]
        for name in ("targets", "phones", "band_gain", "band_places"):
            assert np.array_equal(getattr(with_codec, name), getattr(without, name))
        assert np.array_equal(off[step].samples, without.samples)
        assert np.array_equal(with_codec.samples, Segments(some, 400, 8, seed=1, codec=0.5)[step].samples)
        assert with_codec.samples.shape == without.samples.shape
        changed += int((with_codec.samples != without.samples).any(axis=1).sum())
    assert changed > 0
    undisturbed = Segments(some, 400, 8, seed=1, disturb=False, codec=1.0)[0]
    assert np.array_equal(undisturbed.samples, Segments(some, 400, 8, seed=1, disturb=False)[0].samples)


def test_off_is_what_there_was_before_there_was_the_key() -> None:
    assert "codec" not in HubertConfig().as_json()["training"]
    assert "codec" not in TrainAlignerConfig().as_json()
    assert HubertConfig(training=PretrainConfig(codec=0.2)).as_json()["training"]["codec"] == 0.2
    assert TrainAlignerConfig(codec=0.2).as_json()["codec"] == 0.2
    with pytest.raises(ValueError, match="codec is one of the disturbances"):
        PretrainConfig(codec=0.2, disturb=False)
    with pytest.raises(ValueError, match="less than or equal to 1"):
        TrainAlignerConfig(codec=2)


def test_a_build_without_a_codec_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    require_codecs()
    monkeypatch.setitem(CODECS, "AMR", Codec("WAV", "AMR"))  # which no build has
    with pytest.raises(LstError, match=r"^libsndfile [\d.]+ was built without AMR, which .*set codec to 0\.$"):
        require_codecs()


def test_rows_of_an_aligner_go_through_codecs_beside_noise_or_without() -> None:
    sound = (32000 * speech(8 * 16000)).astype(np.int16)
    rows = list(range(8))
    data = aligner_corpus.Corpus(
        [str(row) for row in rows], np.arange(9) * 16000, [[2, 3]] * 8, [None] * 8, sound, ("", "|", "a", "b")
    )

    def batch(**settings: object) -> dict[str, torch.Tensor]:
        config = TrainAlignerConfig(seconds=8.0, **settings)
        return aligner_corpus.Rows(data, rows, config).batch(torch.Generator().manual_seed(3))

    plain, coded = batch(noise=False), batch(noise=False, codec=1.0)
    changed = (coded["samples"] != plain["samples"]).any(dim=1)
    assert changed.all()
    for name in plain.keys() - {"samples"}:
        assert torch.equal(coded[name], plain[name])
    assert torch.equal(batch(noise=False, codec=1.0)["samples"], coded["samples"])
    noisy, both = batch(), batch(codec=0.5)
    kept = (both["samples"] == noisy["samples"]).all(dim=1)
    assert 0 < kept.sum() < 8  # rows that no codec took have the noise they had
