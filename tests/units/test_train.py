"""`train-tokenizer`: a usable directory, the same bytes each time, and too little or silent audio."""

import json
from pathlib import Path

import numpy as np
import pytest

from lst.assets import resolve_asset
from lst.errors import LstError
from lst.manifest import Manifest
from lst.units import load_tokenizer, tokenizer_fingerprint
from lst.units.codebooks import FrameSample
from lst.units.stage import TokenizeAudioConfig, tokenize_audio
from lst.units.train import TrainTokenizerConfig, train_tokenizer
from tests.units.corpus import audio_manifest
from tests.units.test_stage import run_lst
from tests.units.tiny import speechlike

CONFIG = TrainTokenizerConfig(units=20, max_frames=1000)


@pytest.fixture
def audio(tmp_path: Path) -> Manifest:
    return audio_manifest(tmp_path, [speechlike(16000 * 6, seed) for seed in range(4)])


def test_a_fitted_tokenizer_is_an_asset_and_a_tokenizer(audio: Manifest, tmp_path: Path) -> None:
    made = train_tokenizer(audio, tmp_path / "tok", CONFIG)
    tokenizer = load_tokenizer(made.path)
    assert resolve_asset(made.path, "tokenizer") == made.path
    assert (tokenizer.name, tokenizer.num_units) == ("mfcc-20", 20)
    units = tokenizer.encode(speechlike(16000 * 6, 0))
    assert len(np.unique(units)) > 5
    card = json.loads((made.path / "card.json").read_text())
    assert made.fingerprints == {"tokenizer": tokenizer.fingerprint}
    assert card["fingerprint"] == tokenizer.fingerprint == tokenizer_fingerprint(made.path)
    assert card["licence"] == "CC0"
    assert card["data"] == audio.provenance
    assert card["frames"] == {"seen": 600, "fitted": 600}
    assert card["numbers"]["units_used"] == 20
    assert 0.3 < card["numbers"]["variance_explained"] < 1
    encoded = tokenize_audio(audio, tmp_path / "units", TokenizeAudioConfig(tokenizer=str(made.path)))
    assert encoded.fingerprints["tokenizer"] == tokenizer.fingerprint


def test_the_same_audio_and_seed_give_the_same_bytes(audio: Manifest, tmp_path: Path) -> None:
    first = train_tokenizer(audio, tmp_path / "a", CONFIG)
    second = train_tokenizer(audio, tmp_path / "b", CONFIG)
    for name in ("card.json", "codebook.safetensors", "tokenizer.json"):
        assert first.file(name).read_bytes() == second.file(name).read_bytes()
    other = train_tokenizer(audio, tmp_path / "c", CONFIG.model_copy(update={"seed": 1}))
    assert other.fingerprints != first.fingerprints


def test_too_little_audio_is_one_sentence(audio: Manifest, tmp_path: Path) -> None:
    with pytest.raises(LstError, match=r"has 24 s of usable audio, too little for 501 clusters") as caught:
        train_tokenizer(audio, tmp_path / "tok", TrainTokenizerConfig())
    assert "at least 200 s" in caught.value.hint
    assert not (tmp_path / "tok").exists()


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_silent_or_constant_audio_is_one_sentence(tmp_path: Path, value: float) -> None:
    audio = audio_manifest(tmp_path, [np.full(16000 * 6, value, np.float32)] * 3)
    with pytest.raises(LstError, match=r"different frames, too few for 20 clusters: the audio is silent or constant"):
        train_tokenizer(audio, tmp_path / "tok", CONFIG)


def test_recordings_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    recordings = [speechlike(16000 * 6, seed) for seed in range(4)]
    audio = audio_manifest(tmp_path, recordings, changes={1: {"sha256": "0" * 64}})
    made = train_tokenizer(audio, tmp_path / "tok", CONFIG)
    assert made.rejected == {"audio-changed": 1}
    assert made.totals["units"] == 20


def test_sample_is_uniform_bounded_and_independent_of_the_cut() -> None:
    values = np.arange(5000, dtype=np.float32)[:, None]
    samples = []
    for size in (37, 1000, 5000):
        sample = FrameSample(capacity=400, seed=3)
        for start in range(0, 5000, size):
            sample.add(values[start : start + size])
            assert sum(map(len, sample._kept)) <= 800 + size
        samples.append(sample.frames()[:, 0])
        mean, std = sample.moments()
        assert (mean[0], std[0]) == (pytest.approx(2499.5), pytest.approx(values.std()))
    assert np.array_equal(samples[0], samples[1])
    assert np.array_equal(samples[0], samples[2])
    assert len(np.unique(samples[0])) == 400
    assert abs(samples[0].mean() - 2500) < 250


def test_command_line(audio: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tok"
    arguments = ["--kind", "mfcc", "--units", "10", "--name", "mine", "--licence", "CC0"]
    run_lst("train-tokenizer", str(audio.path), "--out", str(out), *arguments)
    assert "lst.tokenizer/1" in capsys.readouterr().out
    assert load_tokenizer(out).name == "mine"
