"""The embedded vocoder vocoder-nano-joe: the one that units of the default tokenizer get, streaming, without clicks."""

import numpy as np

from lst.assets import verify_asset
from lst.assets.cards import EMBEDDED, read_card
from lst.units import load_tokenizer
from lst.vocoder import load_vocoder
from lst.vocoder.loading import choose_vocoder
from tests.align.speech import recording

NAME = "vocoder-nano-joe"


def test_it_is_what_units_of_the_default_tokenizer_get() -> None:
    assert verify_asset(EMBEDDED / NAME) == []
    fingerprint = read_card(EMBEDDED / "hubert-nano-25hz-501" / "card.json").fingerprint
    chosen = choose_vocoder(None, fingerprint)
    assert load_vocoder(chosen, tokenizer=fingerprint).name == NAME


def test_it_streams_real_units_without_clicks() -> None:
    units = load_tokenizer("hubert-nano-25hz-501").encode(recording("LJ001-0029")).tolist()
    vocoder = load_vocoder(NAME)
    whole = vocoder.synthesize(units)
    pieces = list(vocoder.stream(units, 5))
    streamed = np.concatenate(pieces)
    assert len(whole) == 640 * len(units)
    np.testing.assert_allclose(streamed, whole, atol=1e-3)
    borders = np.cumsum([len(piece) for piece in pieces])[:-1]
    steps = np.abs(np.diff(streamed))
    assert len(borders) > 10
    assert steps[borders - 1].max() <= np.quantile(steps, 0.999)


def test_it_says_something_loud_and_finite() -> None:
    """Speech is neither silent nor clipped, and has pauses."""
    units = load_tokenizer("hubert-nano-25hz-501").encode(recording("LJ001-0020")).tolist()
    samples = load_vocoder(NAME).synthesize(units)
    loudness = np.sqrt((samples[: len(samples) // 640 * 640].reshape(-1, 640) ** 2).mean(1))
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() < 1
    assert 0.02 < np.quantile(loudness, 0.8) < 0.4
    assert loudness.min() < 0.2 * np.quantile(loudness, 0.8)
