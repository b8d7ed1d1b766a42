"""Fitting the ridge vocoder: the algebra, the stage, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.errors import LstError
from lst.manifest import Manifest, is_held_out, iter_rows
from lst.vocoder import load_vocoder
from lst.vocoder.fitting import FitErrors, RidgeSums, analyse, design
from lst.vocoder.ridge import join_frames, split_frames
from lst.vocoder.spectrum import Spectrum
from lst.vocoder.train import FitVocoderConfig, fit_vocoder, fit_vocoder_spec
from tests.vocoder.corpora import assert_in_tune, sing, sung_corpus, units_manifest
from tests.vocoder.toys import TOKENIZER, UNITS, ridge_vocoder

CONFIG = FitVocoderConfig(num_units=UNITS, name="sung", held_out=0.2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Manifest]:
    return sung_corpus(tmp_path_factory.mktemp("sung"))


@pytest.fixture(scope="module")
def fitted(corpus: tuple[Manifest, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return fit_vocoder(*corpus, tmp_path_factory.mktemp("fit") / "vocoder", CONFIG)


def test_it_learns_the_sound_of_every_unit(fitted: Manifest) -> None:
    """Resynthesis of a sequence never heard has the right pitch and, nearly, the right spectrum."""
    assert fitted.schema == "lst.vocoder/1"
    assert fitted.fingerprints["tokenizer"] == TOKENIZER
    assert fitted.totals["log_mel_db"] < 4
    assert fitted.totals["f0_semitones"] < 1.5
    vocoder = load_vocoder(fitted.path, tokenizer=TOKENIZER)
    assert vocoder.fingerprint == fitted.fingerprints["vocoder"]
    assert_in_tune(vocoder)


def test_the_card_says_what_it_is(fitted: Manifest) -> None:
    from lst.assets import read_card, verify_asset

    card = read_card(fitted.file("card.json"))
    assert (card.name, card.kind, card.licence) == ("sung", "vocoder", "CC0")
    assert card.extra["tokenizer"] == TOKENIZER
    assert card.extra["numbers"]["log_mel_db"] == fitted.totals["log_mel_db"]
    assert card.extra["settings"]["spectrum"]["hop"] == 160
    assert verify_asset(fitted.path) == []


def test_the_same_data_give_the_same_weights(
    corpus: tuple[Manifest, Manifest], fitted: Manifest, tmp_path: Path
) -> None:
    again = fit_vocoder(*corpus, tmp_path / "again", CONFIG)
    assert again.id == fitted.id
    assert again.file("weights.safetensors").read_bytes() == fitted.file("weights.safetensors").read_bytes()
    assert fit_vocoder_spec(*corpus, CONFIG.model_copy(update={"held_out": 0.1})).id != fitted.id


def test_rows_without_audio_or_units_are_rejected(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    units, audio = corpus
    rows = {row["id"]: row["units"] for row in iter_rows(units)}
    # In another order, with a stranger and an empty row.
    shuffled = dict(sorted(rows.items(), reverse=True))
    mixed = units_manifest(tmp_path / "units", {"stranger": [1, 2], **shuffled, "empty": []}, audio=audio)
    made = fit_vocoder(mixed, audio, tmp_path / "vocoder", CONFIG)
    assert made.rejected == {"audio-missing": 1, "no-units": 1}
    assert made.totals["units"] == sum(len(ids) for ids in rows.values())


def test_what_cannot_be_fitted(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    units, audio = corpus
    first = next(iter_rows(units))
    little = units_manifest(tmp_path / "little", {first["id"]: first["units"]}, audio=audio)
    with pytest.raises(LstError, match=r"has 1\.6 s of usable speech, too little"):
        fit_vocoder(little, audio, tmp_path / "a", CONFIG)
    with pytest.raises(LstError, match=r"is outside 0 to 3, the units of the vocoder sung"):
        fit_vocoder(units, audio, tmp_path / "b", CONFIG.model_copy(update={"num_units": 4}))
    with pytest.raises(ValueError, match="penalties must be 3 positive numbers"):
        FitVocoderConfig(context=2)


def test_sums_solve_the_penalised_least_squares() -> None:
    """Against the dense solution of the same problem."""
    random = np.random.default_rng(0)
    sums = RidgeSums(context=1, num_units=5, width=2)
    rows, targets = [], []
    for length in (30, 40):
        units = random.integers(0, 5, length)
        values = random.standard_normal((length, 2)).astype(np.float32)
        sums.add(units, values)
        rows.append(design(units, 1, 5).toarray())
        targets.append(values)
    inputs, outputs = np.concatenate(rows), np.concatenate(targets)
    assert (inputs.sum(1) == 4).all()
    assert inputs[0, 5] == 1  # no unit before the first
    penalty = np.diag(np.append(np.repeat([3.0, 1.0, 3.0], 6), 1e-6))
    expected = np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ outputs)
    weights, bias = (sums + RidgeSums(1, 5, 2)).solve((1.0, 3.0))
    np.testing.assert_allclose(weights.reshape(18, 2), expected[:-1], atol=1e-5)
    np.testing.assert_allclose(bias, expected[-1], atol=1e-5)


def test_the_vocoder_computes_what_was_fitted() -> None:
    vocoder = ridge_vocoder()
    units = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    solution = np.concatenate([vocoder._weights.reshape(-1, vocoder.config.width), vocoder._bias[None]])
    expected = design(units, 3, UNITS).toarray() @ solution
    np.testing.assert_allclose(join_frames(vocoder.frames(units), Spectrum()), expected, atol=1e-4)


@settings(deadline=None, max_examples=10)
@given(units=st.integers(1, 8))
def test_frames_of_units_and_back(units: int) -> None:
    values = np.random.default_rng(0).standard_normal((units, 4 * 82)).astype(np.float32)
    frames = split_frames(values, Spectrum())
    assert len(frames) == 4 * units
    np.testing.assert_array_equal(join_frames(frames, Spectrum()), values)


def test_recordings_are_cut_or_filled_to_their_units() -> None:
    samples = sing([1] * 10)
    for units in (8, 10, 11):
        frames = analyse(samples, units, Spectrum())
        assert frames.log_mel.shape == (4 * units, 80)
        assert len(frames) == 4 * units
        assert np.isfinite(frames.log_f0).all()


def test_held_out_rows_are_a_stable_share() -> None:
    ids = [f"row {index}" for index in range(5000)]
    assert 0.08 < np.mean([is_held_out(row_id, 0.1) for row_id in ids]) < 0.12
    assert not any(is_held_out(row_id, 0.0) for row_id in ids)


def test_errors_are_zero_for_the_truth() -> None:
    errors = FitErrors()
    assert errors.numbers() == {}
    frames = ridge_vocoder().frames(np.array([0, 2, 4]))
    errors.add(frames, frames)
    assert errors.numbers() == {"log_mel_db": 0.0, "f0_semitones": 0.0, "voicing_errors": 0.0}
