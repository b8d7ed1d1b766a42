"""Several drafts of a text: the one a recogniser hears best is kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from lst.errors import LstError, UsageError
from lst.evaluate.synthesis import TtsEvalConfig, tts_spec
from lst.generate import drafts as module
from lst.generate.drafts import best_draft
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, open_session
from lst.generate.tasks import SYNTHESIZE, Speech, say, synthesize
from tests.evaluate.tiny import make_model
from tests.generate.test_cli import run

TEXT = "the cat ran over the house"
BRIEF = GenerateConfig(modality="speech", max_tokens=30, min_tokens=20, seed=4)


def test_the_draft_with_the_fewest_errors_is_kept(tts: Session, asr: Session) -> None:
    said = say(tts, TEXT, times=6, config=BRIEF)
    each = module._heard(asr, said)
    assert len({draft.cer for draft in each}) > 1
    assert said[0].units.tolist() == synthesize(tts, TEXT, config=BRIEF).units.tolist()
    for count in (2, 6):
        best = best_draft(tts, asr, TEXT, drafts=count, config=BRIEF)
        first = min(each[:count], key=lambda draft: draft.cer)
        assert (best.cer, best.heard) == (first.cer, first.heard)
        assert best.speech.units.tolist() == first.speech.units.tolist()


def test_errors_are_those_of_the_characters(asr: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(asr.text), "decode", lambda self, ids: "The cat sat.")
    speech = Speech("the cat ran", np.arange(40, dtype=np.uint16), "end", 10)
    (heard,) = module._heard(asr, [speech])
    assert (heard.speech, heard.heard) == (speech, "The cat sat.")
    assert heard.cer == pytest.approx(2 / 11)


def test_silence_and_what_is_too_long_are_the_worst(asr: Session) -> None:
    said = [Speech(TEXT, np.zeros(units, dtype=np.uint16), "end", 0) for units in (0, 20, 5000)]
    found = [(draft.heard != "", draft.cer == 1) for draft in module._heard(asr, said)]
    assert found[::2] == [(False, True)] * 2
    assert found[1][0]
    (unwritten,) = module._heard(asr, [Speech("?!", np.zeros(9, dtype=np.uint16), "end", 0)])
    assert unwritten.cer == 0


def test_a_listener_must_recognise_and_know_the_units(tts: Session, plain: Session, tmp_path: Path) -> None:
    with pytest.raises(LstError, match="was not fine-tuned to recognise"):
        best_draft(tts, plain, TEXT, drafts=2, config=BRIEF)
    other = open_session(make_model(tmp_path / "m", task="asr", tokenizer="e" * 64).path)
    with pytest.raises(LstError, match=r"What .* says"):
        best_draft(tts, other, TEXT, drafts=2, config=BRIEF)


@pytest.mark.usefixtures("voice")
def test_by_command(tts: Session, asr: Session, tmp_path: Path) -> None:
    given = ("synthesize", "--model", tts.directory, "--text", TEXT, "--max-seconds", "1")
    drafted = (*given, "--drafts", "3", "--listener", asr.directory)
    result = run(*drafted, "--out", tmp_path / "a.wav", "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    config = SYNTHESIZE.model_copy(update={"max_tokens": 25, "temperature": 0.5, "top_p": 0.95})
    best = best_draft(tts, asr, TEXT, drafts=3, config=config)
    assert made["units"] == best.speech.units.tolist()
    assert (made["heard"], made["cer"]) == (best.heard, round(best.cer, 4))
    assert (tmp_path / "a.wav").stat().st_size > 640 * len(made["units"])
    for more, why in ((("--out", "-"), "none can be played"), (("--greedy",), "all drafts would be the same")):
        refused = run(*drafted, *more)
        assert isinstance(refused.exception, UsageError)
        assert why in str(refused.exception)


def test_the_listener_is_part_of_what_an_evaluation_is(tts: Session, asr: Session, tmp_path: Path) -> None:
    assert tts.loaded.manifest is not None
    pairs = tts.loaded.manifest
    plain = tts_spec(pairs, pairs, TtsEvalConfig())
    assert not {"drafts", "listener"} & set(plain.config)
    with pytest.raises(ValueError, match="all drafts would be the same"):
        TtsEvalConfig(drafts=3, greedy=True)
    drafted = tts_spec(pairs, pairs, TtsEvalConfig(drafts=3, listener=asr.directory))
    assert drafted.config["drafts"] == 3
    assert "listener" not in drafted.config
    other = make_model(tmp_path / "m", task="asr", seed=5).path
    assert tts_spec(pairs, pairs, TtsEvalConfig(drafts=3, listener=other)).id != drafted.id
