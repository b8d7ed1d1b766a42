"""The model in the box, lst-nano, as it ships: whole, small, described, and at work in the three commands."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import soundfile

from lst.assets import read_card, verify_asset
from lst.assets.cards import EMBEDDED
from lst.assets.models import BOX_MODEL, PARTS
from lst.cli.main import run
from lst.manifest import load_manifest
from lst.manifest.inspect import verify_manifest

BOX = EMBEDDED / BOX_MODEL
SPOKEN = (
    Path(__file__).resolve().parents[2] / "data_manifests" / "storycloze-tiny" / "audio" / "story-5005-context.opus"
)


@pytest.fixture
def card() -> dict[str, Any]:
    body: dict[str, Any] = json.loads((BOX / "card.json").read_text(encoding="utf-8"))
    return body


def test_it_ships_whole_and_small(card: dict[str, Any]) -> None:
    assert verify_asset(BOX) == []
    assert sum(path.stat().st_size for path in BOX.rglob("*") if path.is_file()) <= 40e6
    files = {path.relative_to(BOX).as_posix() for path in BOX.rglob("*") if path.is_file()}
    assert files == {"card.json", *card["files"]}
    for part in PARTS:
        assert verify_manifest(BOX / part) == []
    for path in BOX.rglob("*.json"):
        assert '"/' not in path.read_text(encoding="utf-8")  # no place on the machine that made it


def test_the_card_says_what_it_is_made_of(card: dict[str, Any]) -> None:
    assert all(entry["corpus"] and entry["licence"] for entry in card["data"])
    assert all(entry["licence"] in card["licence"] for entry in card["data"])
    assert card["corpus"]["speech"]["hours"] > 0
    stages = [stage for part in PARTS for stage in (card["models"][part], *card["models"][part]["before"])]
    assert card["flops"] == sum(stage["flops"] for stage in stages) > 0
    assert all(isinstance(card["models"][part]["seed"], int) for part in PARTS)
    assert {entry["model"] for entry in card["measured"].values()} == set(PARTS)
    manifests = [load_manifest(BOX / part) for part in PARTS]
    for one, other in pairwise(manifests):
        assert one.fingerprints["tokenizer"] == other.fingerprints["tokenizer"] == card["tokenizer"]["fingerprint"]
        assert one.fingerprints["text_tokenizer"] == other.fingerprints["text_tokenizer"] == card["text_tokenizer"]
    tokenizer = read_card(EMBEDDED / card["tokenizer"]["name"] / "card.json")
    assert tokenizer.fingerprint == card["tokenizer"]["fingerprint"]


def test_half_precision_changes_next_to_nothing(card: dict[str, Any]) -> None:
    found = card["half_precision"]
    assert found["losses"]["stored"] == pytest.approx(found["losses"]["float32"], rel=1e-3)
    assert found["transcripts"]["identical"] >= 0.9 * found["transcripts"]["compared"] > 0


def test_it_hears(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["transcribe", str(SPOKEN), "--json"]) == 0
    said = capsys.readouterr()
    (heard,) = json.loads(said.out)
    assert heard["text"].strip()
    assert "lst-nano/asr" in said.err


def test_it_speaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "said.wav"
    assert run(["synthesize", "--text", "Once upon a time there was a little cat.", "--out", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert len(made["units"]) > 10
    assert soundfile.info(out).duration == pytest.approx(made["duration_s"])


def test_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "continued"
    assert run(["generate", "--prompt", str(SPOKEN), "--max-tokens", "50", "--out", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert 10 <= len(made["units"]) <= 50
    assert soundfile.info(out / "whole.wav").duration > soundfile.info(out / "continuation.wav").duration
