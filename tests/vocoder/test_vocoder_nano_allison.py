"""The embedded vocoder vocoder-nano-allison: a human voice for units of the default tokenizer, to be named."""

import csv
import importlib
import sys
from pathlib import Path

import numpy as np

from lst.assets import verify_asset
from lst.assets.cards import EMBEDDED, read_card
from lst.constants import DEFAULT_TOKENIZER, DEFAULT_VOCODER
from lst.units import load_tokenizer
from lst.vocoder import load_vocoder
from lst.vocoder.loading import find_vocoder
from lst.vocoder.pitch import estimate_pitch
from tests.align.speech import recording

NAME = "vocoder-nano-allison"
RECIPES = Path(__file__).parents[2] / "recipes" / "assets"


def test_it_is_there_by_name_and_not_by_itself() -> None:
    assert verify_asset(EMBEDDED / NAME) == []
    card = read_card(EMBEDDED / NAME / "card.json")
    tokenizer = read_card(EMBEDDED / DEFAULT_TOKENIZER / "card.json").fingerprint
    assert load_vocoder(NAME, tokenizer=tokenizer).name == NAME
    chosen = find_vocoder(tokenizer)
    assert chosen is not None
    assert chosen.name == DEFAULT_VOCODER
    assert card.licence == "CC BY-SA 3.0"
    assert "Allison Smith" in (EMBEDDED / NAME / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in (EMBEDDED / NAME).iterdir()) < 8e6


def test_it_speaks_in_another_voice_and_streams() -> None:
    units = load_tokenizer(DEFAULT_TOKENIZER).encode(recording("LJ001-0029")).tolist()
    vocoder = load_vocoder(NAME)
    whole = vocoder.synthesize(units)
    assert len(whole) == 640 * len(units)
    assert 0.05 < np.abs(whole).max() < 1
    np.testing.assert_allclose(np.concatenate(list(vocoder.stream(units, 5))), whole, atol=1e-3)
    assert pitch(whole) > 1.3 * pitch(load_vocoder(DEFAULT_VOCODER).synthesize(units))  # hers is higher than joe's


def pitch(samples: np.ndarray) -> float:
    found = estimate_pitch(samples, 160)
    return float(np.median(found[found > 0]))


def test_what_measures_it_says_nothing_that_it_was_fitted_on() -> None:
    sys.path.insert(0, str(RECIPES))
    recipe = importlib.import_module("vocoder_nano_allison")
    with (recipe.SAMPLE / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file, delimiter="\t") if row["speaker"] == recipe.SPEAKER]
    kept = [text for text in texts if recipe.held_out(text)]
    assert len(kept) == 135
    assert all(recipe.held_out(text.upper().replace(".", " !")) for text in kept)
    assert not {text.lower() for text in kept} & {text.lower() for text in texts if not recipe.held_out(text)}
