"""The exemplar vocoder: what it averages, what the fit learns, streaming, and what it refuses."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lst.errors import LstError
from lst.manifest import Manifest, iter_rows
from lst.vocoder import load_vocoder
from lst.vocoder.exemplar import ExemplarConfig, ExemplarVocoder, ExemplarWeights, load_exemplar
from lst.vocoder.exemplar_train import FitExemplarConfig, fit_exemplar_vocoder
from lst.vocoder.ridge import join_frames
from lst.vocoder.spectrum import Spectrum
from tests.vocoder.corpora import assert_in_tune, sung_corpus
from tests.vocoder.toys import TOKENIZER, UNITS

WIDTH = 5
CONFIG = ExemplarConfig(
    tokenizer=TOKENIZER, num_units=UNITS, context=2, neighbours=4, bandwidth=2.0, spectrum=Spectrum()
)
FIT = FitExemplarConfig(num_units=UNITS, name="sung", held_out=0.2, components=12)


def toy_weights() -> ExemplarWeights:
    """Seven utterances in which the last unit never occurs."""
    random = np.random.default_rng(0)
    lengths = np.array([30, 1, 40, 25, 60, 3, 41], np.uint32)
    count = int(lengths.sum())
    frames = 4 * (Spectrum().n_mels + 2)
    mean = np.concatenate([np.zeros(320), np.full(4, np.log(150)), np.full(4, 0.5)])
    return ExemplarWeights(
        tables=random.standard_normal((5, UNITS + 1, WIDTH)).astype(np.float16),
        codes=random.integers(-127, 128, (count, WIDTH)).astype(np.int8),
        step=np.linspace(0.02, 0.01, WIDTH, dtype=np.float32),
        basis=(0.1 * random.standard_normal((WIDTH, frames))).astype(np.float32),
        mean=mean.astype(np.float32),
        units=random.integers(0, UNITS - 1, count).astype(np.uint16),
        lengths=lengths,
    )


def place(weights: ExemplarWeights, utterance: list[int], index: int) -> np.ndarray:
    """By the definition: a sum over the window, "no unit" outside."""
    total = np.zeros(WIDTH)
    for offset in range(-2, 3):
        inside = 0 <= index + offset < len(utterance)
        total += weights.tables[offset + 2, utterance[index + offset] if inside else UNITS].astype(np.float64)
    return total


def test_frames_are_a_weighted_mean_of_the_nearest_exemplars_of_the_unit() -> None:
    weights = toy_weights()
    bounds = np.concatenate([[0], np.cumsum(weights.lengths.astype(int))])
    corpus = [weights.units[start:stop].tolist() for start, stop in itertools.pairwise(bounds)]
    exemplars = [(ids[i], place(weights, ids, i)) for ids in corpus for i in range(len(ids))]
    asked = [3, 3, 7, 0, UNITS - 1, 9]
    expected = []
    for index, unit in enumerate(asked):
        here = place(weights, asked, index)
        among = [n for n, (other, _) in enumerate(exemplars) if other == unit] or list(range(len(exemplars)))
        distances = np.array([((exemplars[n][1] - here) ** 2).sum() for n in among])
        kept = np.argsort(distances)[: CONFIG.neighbours]
        shares = np.exp(-distances[kept] / CONFIG.bandwidth)
        codes = weights.codes[np.array(among)[kept]] * weights.step
        expected.append(weights.mean + (shares @ codes) / shares.sum() @ weights.basis)
    frames = ExemplarVocoder("toy", "00", CONFIG, weights).frames(np.array(asked))
    np.testing.assert_allclose(join_frames(frames, Spectrum()), expected, atol=2e-3)


def test_the_stream_is_the_whole_in_pieces_and_waits_at_most_200_ms() -> None:
    vocoder = ExemplarVocoder("toy", "00", CONFIG.model_copy(update={"context": 3}), _wider(toy_weights()))
    units = np.random.default_rng(1).integers(0, UNITS, 90).tolist()
    taken = 0

    def source():
        nonlocal taken
        for unit in units:
            taken += 1
            yield unit

    made, pieces = 0, []
    for piece in vocoder.stream(source()):
        made += len(piece)
        pieces.append(piece)
        if taken < len(units):
            assert taken * 640 - made <= 0.2 * 16000 + 640  # the unit itself, and what lies ahead of it
    whole = vocoder.synthesize(units)
    assert whole.shape == (640 * len(units),)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(list(vocoder.stream(units, 5))), whole, atol=1e-5)


def _wider(weights: ExemplarWeights) -> ExemplarWeights:
    outer = 0.1 * weights.tables[:1]
    return replace(weights, tables=np.concatenate([outer, weights.tables, outer]).astype(np.float16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": np.zeros((5, UNITS, WIDTH), np.float16)}, "The tables of the vocoder toy are"),
        ({"step": np.ones(WIDTH + 1, np.float32)}, "The step of the vocoder toy are"),
        ({"lengths": np.array([30, 1], np.uint32)}, "do not belong to their units"),
        ({"units": np.full(200, UNITS, np.uint16)}, "do not belong to their units"),
        ({"codes": np.zeros((0, WIDTH), np.int8), "units": np.zeros(0, np.uint16)}, "do not belong to their units"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(LstError, match=message):
        ExemplarVocoder("toy", "00", CONFIG, replace(toy_weights(), **change))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Manifest]:
    return sung_corpus(tmp_path_factory.mktemp("sung"))


@pytest.fixture(scope="module")
def fitted(corpus: tuple[Manifest, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return fit_exemplar_vocoder(*corpus, tmp_path_factory.mktemp("fit") / "vocoder", FIT)


def test_it_learns_the_sound_of_every_unit(fitted: Manifest) -> None:
    from lst.assets import read_card, verify_asset

    assert fitted.totals["log_mel_db"] < 4
    assert fitted.totals["f0_semitones"] < 1.5
    assert read_card(fitted.file("card.json")).extra["numbers"]["log_mel_db"] == fitted.totals["log_mel_db"]
    assert verify_asset(fitted.path) == []
    vocoder = load_vocoder(fitted.path, tokenizer=TOKENIZER)
    assert vocoder.fingerprint == fitted.fingerprints["vocoder"]
    assert_in_tune(vocoder)


def test_the_same_data_give_the_same_weights(
    corpus: tuple[Manifest, Manifest], fitted: Manifest, tmp_path: Path
) -> None:
    again = fit_exemplar_vocoder(*corpus, tmp_path / "again", FIT)
    assert again.id == fitted.id
    assert again.file("weights.safetensors").read_bytes() == fitted.file("weights.safetensors").read_bytes()


def test_griffin_lim_makes_its_frames_audible_too(fitted: Manifest, corpus: tuple[Manifest, Manifest]) -> None:
    vocoder = load_vocoder(f"{fitted.path}:griffin-lim")
    units = next(iter_rows(corpus[0]))["units"]
    samples = vocoder.synthesize(units)
    assert vocoder.name == "sung:griffin-lim"
    assert samples.shape == (640 * len(units),)
    assert not np.allclose(samples, load_vocoder(fitted.path).synthesize(units), atol=0.01)


def test_damaged_files_are_named(fitted: Manifest, tmp_path: Path) -> None:
    config = json.loads(fitted.file("config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(LstError, match=r"weights\.safetensors is missing or damaged"):
        load_exemplar(tmp_path, "broken", "00")
    (tmp_path / "config.json").write_text(json.dumps({**config, "neighbours": 0}))
    with pytest.raises(LstError, match=r"config\.json: neighbours: "):
        load_exemplar(tmp_path, "broken", "00")
