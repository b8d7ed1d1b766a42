"""The embedded aligner ctc-nano-en, on a reader it has not heard."""

import json

import numpy as np
import pytest

from lst.align.ctc import CTCAligner
from lst.align.loading import aligner_fingerprint, default_min_score, find_checkpoint, load_aligner
from lst.align.network import read_ctc_config
from lst.assets import verify_asset
from lst.assets.cards import EMBEDDED
from tests.align.speech import TEXTS, aligner, recording

NAME = "ctc-nano-en"


@pytest.fixture(scope="module")
def embedded() -> CTCAligner:
    found = load_aligner(NAME)
    assert isinstance(found, CTCAligner)
    return found


def test_it_ships_whole_and_small() -> None:
    assert verify_asset(EMBEDDED / NAME) == []
    assert sum(path.stat().st_size for path in (EMBEDDED / NAME).iterdir()) < 12e6
    card = json.loads((EMBEDDED / NAME / "card.json").read_text(encoding="utf-8"))
    config = read_ctc_config(find_checkpoint(NAME) / "model.safetensors")
    assert config is not None
    assert card["calibration"] == {name: getattr(config, name) for name in card["calibration"]}
    assert default_min_score(NAME) == config.min_score > 0
    assert card["alphabet"] == "".join(config.labels[2:])
    assert card["data"]
    assert all(entry["licence"] for entry in card["data"])
    assert len(aligner_fingerprint(NAME)) == 64


def test_it_agrees_with_pocketsphinx(embedded: CTCAligner) -> None:
    apart = []
    for name, text in TEXTS.items():
        samples = recording(name)
        found, other = (one.align(samples, text, len(samples) // 640) for one in (embedded, aligner()))
        assert [word.text for word in found.words] == text.split()
        apart += [abs(one.end_s - two.end_s) for one, two in zip(found.times, other.times, strict=True)]
        assert all(first.end_s <= second.start_s for first, second in zip(found.times, found.times[1:]))
    assert np.median(apart) < 0.04
    assert np.quantile(apart, 0.9) < 0.12


def test_it_notices_wrong_transcripts(embedded: CTCAligner) -> None:
    limit, names = default_min_score(NAME), list(TEXTS)
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        samples = recording(name)
        frames = len(samples) // 640
        right, wrong = (embedded.align(samples, TEXTS[key], frames) for key in (name, other))
        assert right.score >= limit
        assert wrong.rejected or wrong.score < limit


def test_what_it_cannot_read_is_said(embedded: CTCAligner) -> None:
    samples = recording("LJ001-0008")
    assert embedded.align(samples, "Никогда не превзойдён", len(samples) // 640).rejected == "text-other-script"
    assert embedded.align(samples, "...", len(samples) // 640).rejected == "no-text"
    assert embedded.align(samples[:800], TEXTS["LJ001-0008"], 1).rejected == "text-too-long"
