"""`lst eval asr` and `lst eval tts` on random models: what is counted, what is missing, and resumption."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from lst.errors import LstError
from lst.evaluate import recognition, synthesis
from lst.evaluate.recognition import AsrEvalConfig, evaluate_asr, measure
from lst.evaluate.speech_data import utterances
from lst.evaluate.synthesis import TtsEvalConfig, evaluate_tts
from lst.generate.session import open_session
from lst.manifest import Manifest, ShardResult, StageSpec, build_shards
from tests.data.synthetic import make_pairs
from tests.evaluate.tiny import TOKENIZER, make_model, write_tone

ASR = AsrEvalConfig(max_tokens=6, resamples=200)
TTS = TtsEvalConfig(rows=3, max_units=12)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_pairs(tmp_path_factory.mktemp("pairs"), 40, valid_fraction=0.3)[0]


@pytest.fixture(scope="module")
def asr(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_model(tmp_path_factory.mktemp("asr") / "model", task="asr")


@pytest.fixture(scope="module")
def tts(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_model(tmp_path_factory.mktemp("tts") / "model", task="tts")


def summary_of(result: Manifest) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(result.file("summary.json").read_text())
    return body


@pytest.mark.parametrize("beam", [1, 2])
def test_asr(asr: Manifest, pairs: Manifest, tmp_path: Path, beam: int) -> None:
    result = evaluate_asr(asr, pairs, tmp_path / "eval", ASR.model_copy(update={"beam": beam}))
    summary = summary_of(result)
    held_out = utterances(pairs)
    assert summary["utterances"] == len(held_out) > 3
    assert summary["wer"]["low"] <= summary["wer"]["value"] <= summary["wer"]["high"]
    assert 0 <= summary["non_stopping"]["value"] <= 1
    assert summary["normaliser"].startswith("whisper (openai-whisper 2")
    heard = [json.loads(line) for line in result.file("heard.jsonl").read_text().splitlines()]
    assert [row["id"] for row in heard] == [one.id for one in held_out]
    # <s>, patches of four units, <asr>
    assert all(row["context"] == 2 + -(-row["units"] // 4) for row in heard)
    assert summary["context_relative"] < 0.5
    assert "hallucinated" in result.file("summary.md").read_text()


def test_asr_continues_after_a_kill(
    asr: Manifest, pairs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognition, "BATCH", 2)
    whole = evaluate_asr(asr, pairs, tmp_path / "whole", ASR)
    decode = recognition._decode
    calls: list[int] = []

    def dies(session: Any, batch: Any, *more: Any) -> Iterator[dict[str, Any]]:
        calls.append(len(batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(session, batch, *more)

    monkeypatch.setattr(recognition, "_decode", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate_asr(asr, pairs, tmp_path / "again", ASR)
    (done,) = tmp_path.glob("again.partial-*/done.jsonl")
    with done.open("a") as file:
        file.write('{"id": "cut sh')
    resumed = evaluate_asr(asr, pairs, tmp_path / "again", ASR)
    assert sum(calls[3:]) == len(utterances(pairs)) - 4
    assert resumed.file("heard.jsonl").read_bytes() == whole.file("heard.jsonl").read_bytes()


def test_how_recognition_fails(asr: Manifest) -> None:
    session = open_session(asr.path)
    row = {"units": 50, "context": 15, "tokens": 3, "stopped": "end"}
    rows = [
        {"id": "right", "reference": "the cat sat on the mat", "text": "the cat sat on the mat"},
        {"id": "wrong", "reference": "the cat sat on the mat", "text": "a dog ran in a house"},
        {"id": "loop", "reference": "one two", "text": "and so and so and so and so and so", "stopped": "length"},
        {"id": "invented", "reference": "hello", "text": "hello there my friend of old"},
        {"id": "long", "reference": "hello", "error": "long is 99 s long."},
    ]
    summary = measure(session, [row | entry for entry in rows], ASR)
    assert summary["utterances"] == 4
    assert summary["failed"] == {"long": "long is 99 s long."}
    assert summary["non_stopping"]["value"] == 0.25
    assert summary["hallucination"]["value"] == 0.5
    assert summary["looping"]["value"] == 0.25
    with pytest.raises(LstError, match="No utterance could be transcribed"):
        measure(session, [rows[-1]], ASR)


def test_a_model_for_the_other_task_is_refused(asr: Manifest, tts: Manifest, pairs: Manifest, tmp_path: Path) -> None:
    with pytest.raises(LstError, match="fine-tuned to speak"):
        evaluate_asr(tts, pairs, tmp_path / "a", ASR)
    with pytest.raises(LstError, match="fine-tuned to recognise"):
        evaluate_tts(asr, pairs, tmp_path / "b", TTS)
    foreign = make_model(tmp_path / "foreign", task="asr", tokenizer="e" * 64)
    with pytest.raises(LstError, match="was trained on"):
        evaluate_asr(foreign, pairs, tmp_path / "c", ASR)


def test_texts_are_needed(asr: Manifest, tmp_path: Path) -> None:
    row = {"id": "a", "duration_s": 1.0, "units": list(range(25)), "speaker": "", "text": ""}
    spec = StageSpec("lst.units/1", "tokenize-audio", 1, {}, fingerprints={"tokenizer": TOKENIZER})
    units = build_shards(tmp_path / "units", spec, [0], lambda _: ShardResult([row]))
    with pytest.raises(LstError, match="none of its 1 rows has a text"):
        evaluate_asr(asr, units, tmp_path / "e", ASR)


def test_tts_without_a_judge_counts_units_and_says_so(
    tts: Manifest, pairs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_judge(*_: Any, **__: Any) -> None:
        raise LstError("The judge is not installed (it lacks faster_whisper).", hint="Install it.")

    monkeypatch.setattr(synthesis, "Judge", no_judge)
    monkeypatch.setattr(synthesis, "judge_installed", lambda: False)
    result = evaluate_tts(tts, pairs, tmp_path / "eval", TTS)
    summary = summary_of(result)
    assert summary["missing"] == {"judge": "The judge is not installed (it lacks faster_whisper). Install it."}
    said = [json.loads(line) for line in result.file("said.jsonl").read_text().splitlines()]
    assert summary["units"] == pytest.approx(np.mean([len(row["units"]) for row in said]))
    assert summary["global_steps"] == pytest.approx(np.mean([row["global_steps"] for row in said]))
    assert summary["steps_per_unit"] < 0.5
    assert "Missing: judge: The judge is not installed" in result.file("summary.md").read_text()
    monkeypatch.setattr(synthesis, "judge_installed", lambda: True)
    assert synthesis.tts_spec(tts, pairs, TTS).id != result.id


def test_tts_without_vocoder_or_recordings(tts: Manifest, pairs: Manifest, tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    config = TTS.model_copy(update={"judge": "whisper-tiny.en"})
    summary = summary_of(evaluate_tts(tts, pairs, tmp_path / "eval", config))
    assert set(summary["missing"]) == {"vocoder", "recordings"}
    assert "No vocoder on this machine" in summary["missing"]["vocoder"]


def run(*arguments: str | Path) -> Result:
    import typer

    from lst.cli import evaluate

    app = typer.Typer()
    evaluate.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_asr_of_a_librispeech_directory(tmp_path: Path) -> None:
    """From sound files to error rates, with the tokenizer that lies in the package."""
    from lst.units import tokenizer_fingerprint

    asr = make_model(tmp_path / "model", task="asr", tokenizer=tokenizer_fingerprint("mfcc-501"))
    chapter = tmp_path / "LibriSpeech" / "test-clean" / "19" / "198"
    lines = []
    for k in range(3):
        write_tone(chapter / f"19-198-000{k}.flac", 1.0 + 0.2 * k, hz=200 + 50 * k)
        lines.append(f"19-198-000{k} THE CAT RAN OVER THE HOUSE")
    (chapter / "19-198.trans.txt").write_text("\n".join(lines) + "\n")
    arguments = ("eval", "asr", "--model", asr.path, "--data", tmp_path / "LibriSpeech", "--max-tokens", "4")
    shown = run(*arguments)
    assert shown.exit_code == 0, shown.exception
    assert "3 utterances, 4 s, 18 words" in shown.stdout
    assert json.loads(run(*arguments, "--rows", "2", "--json").stdout)["utterances"] == 2


@pytest.mark.parametrize("command", ["asr", "tts"])
def test_help_has_an_example(command: str) -> None:
    assert f"lst eval {command} --model" in run("eval", command, "--help").stdout
