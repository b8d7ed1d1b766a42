"""Bad benchmarks and models through the command line: one clear sentence, and what can be measured is measured."""

import json
from pathlib import Path
from typing import Any

import pytest

import lst.assets
from lst.cli.main import run
from lst.evaluate import judge
from lst.manifest import Manifest
from tests.data.synthetic import make_pairs
from tests.evaluate.test_readers import write_rows
from tests.evaluate.test_stage import write_items
from tests.evaluate.tiny import TOKENIZER, bench_rows, make_bench, make_model, write_tone

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def tokenizers(counting_tokenizer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models' unit tokenizer is on this machine."""
    found = {TOKENIZER: Path("counting")}
    monkeypatch.setattr(lst.assets, "find_by_fingerprint", lambda wanted, kind: found.get(wanted))


def lst_eval(capsys: Captured, *arguments: str | Path) -> tuple[int, Any, str]:
    """Exit code, the summary (None after an error), and what was said on stderr."""
    code = run(["eval", *(str(argument) for argument in arguments), "--json"])
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if shown.out else None, shown.err


def refusal(said: str) -> str:
    """The one sentence that the command ended with."""
    (line,) = [line for line in said.splitlines() if line.startswith("lst: ")]
    return line


def gone(source: Path) -> None:
    (source / "audio" / "0-wrong.wav").unlink()


def empty_ending(source: Path) -> None:
    rows = [json.loads(line) for line in (source / "items.jsonl").read_text().splitlines()]
    rows[0] = {"id": "i0", "context": "the cat ran", "right": "  ", "wrong": "under a tree"}
    write_rows(source / "items.jsonl", rows)


def duplicate(source: Path) -> None:
    lines = (source / "items.jsonl").read_text().splitlines()
    (source / "items.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")


@pytest.mark.usefixtures("tokenizers")
@pytest.mark.parametrize(
    ("break_it", "reason"), [(gone, "missing-file"), (empty_ending, "empty-ending"), (duplicate, "duplicate-id")]
)
def test_a_bad_item_is_counted_and_the_others_are_scored(
    break_it: Any, reason: str, model: Manifest, tmp_path: Path, capsys: Captured
) -> None:
    source = write_items(tmp_path / "source", 12)
    break_it(source)
    code, body, said = lst_eval(capsys, "storycloze", "--model", model.path, "--data", source)
    assert code == 0, said
    assert body["rejected"] == {reason: 1}
    assert {mode["n"] for mode in body["modes"].values()} == {12 if reason == "duplicate-id" else 11}


@pytest.mark.usefixtures("tokenizers")
def test_another_sampling_rate_is_resampled(model: Manifest, tmp_path: Path, capsys: Captured) -> None:
    source = write_items(tmp_path / "source", 4)
    plain = lst_eval(capsys, "storycloze", "--model", model.path, "--data", source)[1]
    write_tone(source / "audio" / "0-context.wav", 0.3, rate=44_100)
    code, body, said = lst_eval(capsys, "storycloze", "--model", model.path, "--data", source)
    assert code == 0, said
    assert body["rejected"] == {}
    assert {mode: part["n"] for mode, part in body["modes"].items()} == dict.fromkeys(plain["modes"], 4)


def test_units_of_another_tokenizer(model: Manifest, tmp_path: Path, capsys: Captured) -> None:
    foreign = make_bench(tmp_path / "foreign", bench_rows(4), tokenizer="e" * 64)
    code, body, said = lst_eval(capsys, "storycloze", "--model", model.path, "--data", foreign.path)
    assert (code, body) == (1, None)
    assert "eeeeeeeeeeee" in refusal(said)
    assert TOKENIZER[:12] in refusal(said)
    text = write_rows(tmp_path / "blimp.jsonl", [{"sentence_good": "the cat ran", "sentence_bad": "cat the ran"}])
    code, body, said = lst_eval(capsys, "all", "--model", model.path, "--data", foreign.path, "--data", text)
    assert code == 0, said
    assert list(body["benchmarks"]) == ["blimp"]
    assert "was trained on" in body["missing"]["storycloze"]


def test_a_model_without_the_modality(bench: Manifest, tmp_path: Path, capsys: Captured) -> None:
    mute = make_model(tmp_path / "model", speech=0.0)
    code, _, said = lst_eval(capsys, "storycloze", "--model", mute.path, "--data", bench.path, "--mode", "s-s")
    assert code == 1
    assert "was trained on text only: it has no mode s-s" in refusal(said)
    code, body, said = lst_eval(capsys, "storycloze", "--model", mute.path, "--data", bench.path)
    assert code == 0, said
    assert list(body["modes"]) == ["t-t"]
    assert body["missing_modes"] == ["s-s", "s-t", "t-s"]


def test_a_broken_benchmark_leaves_the_others_running(model: Manifest, tmp_path: Path, capsys: Captured) -> None:
    good = write_rows(tmp_path / "blimp.jsonl", [{"sentence_good": "the cat ran", "sentence_bad": "cat the ran"}])
    broken = write_rows(tmp_path / "broken.jsonl", [{"id": "1", "context": "the cat", "right": "", "wrong": ""}])
    data = ("--data", good, "--data", broken, "--data", f"piqa={tmp_path / 'gone'}")
    code, body, said = lst_eval(capsys, "all", "--model", model.path, *data)
    assert code == 0, said
    assert list(body["benchmarks"]) == ["blimp"]
    assert set(body["missing"]) == {"broken.jsonl", "piqa", "losses"}
    for name, why in body["missing"].items():
        assert f"lst: {name} is left out: {why}" in said.replace("\n", " ").replace("  ", " ")
    code, body, said = lst_eval(capsys, "piqa", "--model", model.path, "--data", tmp_path / "gone")
    assert (code, body) == (1, None)
    assert "There is no benchmark at" in refusal(said)


def test_a_judge_that_is_not_installed(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "find_spec", lambda name: None)
    model = make_model(tmp_path / "model", task="tts")
    pairs, _ = make_pairs(tmp_path, 20, valid_fraction=0.3)
    options = ("--data", pairs.path, "--rows", "1", "--max-units", "8")
    code, body, said = lst_eval(capsys, "tts", "--model", model.path, *options)
    assert code == 0, said
    assert body["texts"] == 1
    assert "not installed" in body["missing"]["judge"]
    code, body, said = lst_eval(capsys, "asr", "--model", model.path, "--data", pairs.path)
    assert (code, body) == (1, None)
    assert "fine-tuned to speak, not to recognise" in refusal(said)
