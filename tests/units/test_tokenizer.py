"""Windows, streams and blanks: units depend on the audio alone."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.errors import LstError
from lst.units import UnitTokenizer, load_tokenizer
from lst.units.mfcc import MfccEncoder
from lst.units.quantizers import KMeansQuantizer
from lst.units.spec import WindowSpec
from lst.units.tokenizer import BlankFilling
from tests.units.tiny import codebook, save_spirit_lm, speechlike, tiny_hubert


class Ruler:
    """An encoder whose feature is the position: frame t of a window holds the sample at its start."""

    dim = 1

    def num_frames(self, num_samples: int) -> int:
        return -(-num_samples // 640)

    def num_samples(self, num_frames: int) -> int:
        return num_frames * 640

    def features(self, samples: np.ndarray) -> np.ndarray:
        return samples[::640, None]


class Identity:
    """A quantizer whose unit is the feature."""

    dim, num_units, blank = 1, 501, None

    def codes(self, features: np.ndarray) -> np.ndarray:
        return features[:, 0].astype(np.int64)


def mfcc_tokenizer(length_s: float = 100.0, overlap_s: float = 0.48) -> UnitTokenizer:
    windows = WindowSpec(length_s=length_s, overlap_s=overlap_s)
    return UnitTokenizer("mfcc", "f", MfccEncoder(), KMeansQuantizer(codebook(501, 39) * 20), windows)


@given(
    frames=st.integers(1, 60), length=st.integers(2, 20), margin=st.integers(0, 5), cuts=st.lists(st.integers(1, 5000))
)
def test_windows_join_to_every_frame_once(frames: int, length: int, margin: int, cuts: list[int]) -> None:
    if 4 * margin > length:
        margin = length // 4
    windows = WindowSpec(length_s=length / 25, overlap_s=2 * margin / 25)
    tokenizer = UnitTokenizer("ruler", "f", Ruler(), Identity(), windows)
    samples = np.repeat(np.arange(frames, dtype=np.float32), 640)[: frames * 640 - 7]
    assert tokenizer.encode(samples).tolist() == list(range(frames))
    pieces = np.split(samples, np.cumsum(cuts)[np.cumsum(cuts) < len(samples)])
    streamed = np.concatenate(list(tokenizer.encode_stream(iter(pieces))))
    assert streamed.tolist() == list(range(frames))
    assert tokenizer.num_frames(len(samples)) == frames


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(0, 5000))
def test_number_of_units_is_exact(samples: int) -> None:
    tokenizer = mfcc_tokenizer()
    units = tokenizer.encode(speechlike(max(1, samples))[:samples])
    assert units.dtype == np.uint16
    assert len(units) == tokenizer.num_frames(samples) == -(-samples // 640)


def test_mfcc_units_of_a_long_file_are_those_of_the_whole() -> None:
    audio = speechlike(16000 * 20 + 123)
    whole = mfcc_tokenizer().encode(audio)
    assert len(np.unique(whole)) > 20
    for length_s in (1.0, 3.0, 7.04):
        assert np.array_equal(mfcc_tokenizer(length_s).encode(audio), whole)


def test_mfcc_units_do_not_depend_on_the_pieces() -> None:
    tokenizer = mfcc_tokenizer(2.0)
    audio = speechlike(16000 * 9 + 5)
    whole = tokenizer.encode(audio)
    for size in (1, 160, 7000, 64000):
        pieces = (audio[start : start + size] for start in range(0, min(len(audio), 400 * size), size))
        units = np.concatenate(list(tokenizer.encode_stream(pieces)))
        if 400 * size >= len(audio):
            assert np.array_equal(units, whole)


def test_seams_of_a_hubert_change_few_units(tmp_path: Path) -> None:
    """With layer norm in the stem and attention that is mostly local, as trained networks have it."""
    import torch

    from lst.units.hubert import load_hubert
    from lst.units.spec import HubertSpec, read_spec

    model = tiny_hubert(large=True)
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.attention.out_proj.weight.mul_(0.03)
    directory = save_spirit_lm(model, tmp_path / "a")
    spec = read_spec(directory).encoder
    assert isinstance(spec, HubertSpec)
    encoder = load_hubert(spec, directory, "cpu")
    audio = speechlike(16000 * 40)
    features = encoder.features(audio)
    chosen = np.random.default_rng(0).permutation(len(features))[:40]
    mean, std = features.mean(axis=0), features.std(axis=0)
    quantizer = KMeansQuantizer((features[chosen] - mean) / std, mean, std)
    units = {}
    for length_s in (100.0, 16.0):
        windows = WindowSpec(length_s=length_s, overlap_s=8.0)
        units[length_s] = UnitTokenizer("h", "f", encoder, quantizer, windows).encode(audio)
    assert len(units[16.0]) == len(units[100.0]) == encoder.num_frames(len(audio))
    assert (units[16.0] == units[100.0]).mean() >= 0.98


def test_alone_and_among_others_the_units_are_the_same(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_spirit_lm(tiny_hubert(), tmp_path / "spirit"))
    audio = [speechlike(samples, seed) for seed, samples in enumerate((16000, 31000, 700, 22222, 16000))]
    alone = [load_tokenizer(tmp_path / "spirit").encode(samples) for samples in audio]
    for order in ([0, 1, 2, 3, 4], [3, 1, 4, 0, 2]):
        for index in order:
            assert np.array_equal(tokenizer.encode(audio[index]), alone[index])
    assert max(unit for units in alone for unit in units) <= 500
    assert tokenizer.num_units == 501
    assert tokenizer.frame_rate == 25


def test_blank_takes_the_unit_to_its_left() -> None:
    blanks = BlankFilling(500)
    assert blanks.fill(np.array([7, 500, 500, 3, 500])).tolist() == [7, 7, 7, 3, 3]
    assert blanks.fill(np.array([500, 2])).tolist() == [3, 2]
    assert blanks.finish().tolist() == []


def test_leading_blanks_take_the_first_unit() -> None:
    blanks = BlankFilling(500)
    assert blanks.fill(np.array([500, 500])).tolist() == []
    assert blanks.fill(np.array([500, 9, 500, 4])).tolist() == [9, 9, 9, 9, 9, 4]


def test_a_recording_of_blanks_keeps_them() -> None:
    blanks = BlankFilling(500)
    assert blanks.fill(np.array([500, 500])).tolist() == []
    assert blanks.finish().tolist() == [500, 500]


@given(
    codes=st.lists(st.sampled_from([0, 1, 2, 9]), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5).map(sorted),
)
def test_blank_filling_does_not_depend_on_the_cut(codes: list[int], cuts: list[int]) -> None:
    filling = BlankFilling(9)
    parts = [filling.fill(part) for part in np.split(np.array(codes, np.int64), cuts)]
    result = np.concatenate([*parts, filling.finish()]).tolist()
    expected: list[int] = []
    for code in codes:
        expected.append(code if code != 9 else (expected[-1] if expected else 9))
    first = next((code for code in codes if code != 9), 9)
    assert result == [first if code == 9 else code for code in expected]


def test_without_a_blank_codes_stay() -> None:
    assert BlankFilling(None).fill(np.array([0, 500])).tolist() == [0, 500]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_must_be_finite(bad: float) -> None:
    audio = speechlike(16000)
    audio[777] = bad
    with pytest.raises(LstError, match="NaN or infinite"):
        mfcc_tokenizer().encode(audio)


def test_samples_must_be_one_channel_of_floats() -> None:
    with pytest.raises(LstError, match="one channel of floats, not int16"):
        mfcc_tokenizer().encode(np.zeros(16000, np.int16))
    with pytest.raises(LstError, match="one channel"):
        mfcc_tokenizer().encode(np.zeros((2, 16000), np.float32))


def test_silence_and_one_sample_have_units() -> None:
    tokenizer = load_tokenizer("mfcc-501")
    assert len(np.unique(tokenizer.encode(np.zeros(16000 * 3, np.float32)))) == 1
    assert len(tokenizer.encode(np.array([0.5], np.float32))) == 1
    assert len(tokenizer.encode(np.zeros(0, np.float32))) == 0
    clipped = np.sign(speechlike(16000))
    assert len(tokenizer.encode(clipped)) == 25
    assert tokenizer.encode(clipped).max() <= 500
