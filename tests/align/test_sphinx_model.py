"""The acoustic model against pocketsphinx's own evaluation of it."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from lst.align.sphinx_model import FrontEnd, dictionary_path, load_acoustic_model, model_directory
from lst.errors import LstError
from tests.align.speech import recording


def reference_scores(samples: np.ndarray) -> np.ndarray:
    """(T, S) log densities below the best of each frame, as pocketsphinx logs them (8 bits, top 16 Gaussians)."""
    import pocketsphinx

    with tempfile.TemporaryDirectory() as log:
        decoder = pocketsphinx.Decoder(
            hmm=str(model_directory()),
            dict=str(dictionary_path()),
            lm=None,
            compallsen=True,
            topn=16,
            senlogdir=log,
            loglevel="FATAL",
        )
        decoder.set_align_text("has never been surpassed")
        decoder.start_utt()
        decoder.process_raw(np.round(samples * 32767).astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        (path,) = Path(log).iterdir()
        content = path.read_bytes()
    body = content[content.index(b"endhdr\n") + 11 :]
    record = 1 + 5126
    values = np.frombuffer(body[: len(body) // (2 * record) * 2 * record], "<i2").reshape(-1, record)
    return -values[:, 1:] * np.log(1.0001) * 1024


def test_state_densities_are_those_of_pocketsphinx() -> None:
    samples = recording("LJ001-0008")
    model = load_acoustic_model()
    ours = model.log_likelihoods(FrontEnd()(samples))
    ours -= ours.max(axis=1, keepdims=True)
    theirs = reference_scores(samples)
    frames = min(len(ours), len(theirs))
    assert frames >= len(samples) / 160 - 3
    error = np.abs(ours[:frames] - theirs[:frames])
    likely = ours[:frames] > -10
    # Their scores are whole multiples of 0.1 a stream; unlikely states they cut off after 16 Gaussians.
    assert error[likely].mean() < 0.3
    assert np.quantile(error[likely], 0.99) < 1.5
    assert np.corrcoef(ours[:frames].ravel(), theirs[:frames].ravel())[0, 1] > 0.97


def test_chosen_states_have_the_same_densities() -> None:
    model = load_acoustic_model()
    features = FrontEnd()(recording("LJ001-0008")[:8000])
    everything = model.log_likelihoods(features)
    chosen = np.array([0, 5, 77, 1000, 4999, 5125])
    np.testing.assert_allclose(model.log_likelihoods(features, chosen), everything[:, chosen], rtol=1e-4, atol=1e-3)


def test_features_do_not_depend_on_what_came_before() -> None:
    used, fresh = FrontEnd(), FrontEnd()
    # pocketsphinx keeps its noise estimate from one utterance to the next unless told otherwise.
    for name in ("LJ001-0013", "LJ001-0029"):
        used(recording(name))
    np.testing.assert_array_equal(used(recording("LJ001-0008")), fresh(recording("LJ001-0008")))
    assert used(np.zeros(409, np.float32)).shape == (0, 39)
    assert used(np.zeros(410, np.float32)).shape[1] == 39


def test_triphones_back_off() -> None:
    model = load_acoustic_model()
    index = model.phones.index
    exact = model.triphone(index("K"), index("S"), index("AE"), "i")
    assert exact >= len(model.phones)
    assert model.triphone(index("K"), index("+NSN+"), index("AE"), "b") == model.triphone(
        index("K"), index("SIL"), index("AE"), "b"
    )
    assert model.triphone(index("SIL"), index("K"), index("K"), "i") == index("SIL")


def test_a_foreign_or_damaged_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LstError, match="Cannot read the acoustic model"):
        load_acoustic_model(tmp_path)
    for name in ("mdef", "means", "variances", "transition_matrices", "sendump"):
        (tmp_path / name).write_bytes((model_directory() / name).read_bytes()[:3000])
    with pytest.raises(LstError, match="Cannot read the acoustic model"):
        load_acoustic_model(tmp_path)
