"""kill -9 in every stage, through the command line: run again, and the result is that of an undisturbed run."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lst.manifest.inspect import verify_manifest
from tests.cli.processes import contents, lst


def kill_and_go_on(command: list[str | Path], place: Path) -> None:
    """Undisturbed; then killed midway, killed again at the very end, and run to its end: the same."""
    place.mkdir(parents=True)
    copy = place.with_name("copy")
    whole, hurt, said = place / "whole", place / "hurt", place / "said"
    code, operations = lst([*command, "--out", whole], place, said=said)
    assert code == 0, said.read_text()
    assert lst([*command, "--out", hurt], place, kill_at=operations // 2)[0] == -9
    assert not hurt.exists()
    # What is left to do takes fewer operations than all of it: counted on a copy.
    shutil.copytree(place, copy)
    code, left = lst([*command, "--out", copy / "hurt"], copy)
    assert code == 0
    assert contents(copy / "hurt") == contents(whole)
    assert lst([*command, "--out", hurt], place, kill_at=left - 3)[0] == -9
    assert not hurt.exists() or verify_manifest(hurt) == []
    code, _ = lst([*command, "--out", hurt], place, said=said)
    assert code == 0, said.read_text()
    assert contents(hurt) == contents(whole)
    assert sorted(path.name for path in place.iterdir()) == ["hurt", "said", "whole"]


def test_kill_ingest(small: Path, tmp_path: Path) -> None:
    kill_and_go_on(["ingest", small / "sample", "--workers", "1"], tmp_path / "x")


def test_kill_tokenize_audio(stage: Callable[[str], Path], tmp_path: Path) -> None:
    kill_and_go_on(["tokenize-audio", stage("ingest"), "--workers", "1"], tmp_path / "x")


def test_kill_tokenize_text(small: Path, tmp_path: Path) -> None:
    text = small / "stories.txt"
    kill_and_go_on(["tokenize-text", text, "--train-tokenizer", "360", "--workers", "1"], tmp_path / "x")


@pytest.mark.slow
def test_kill_align(stage: Callable[[str], Path], tmp_path: Path) -> None:
    kill_and_go_on(["align", stage("tokenize-audio"), "--workers", "1"], tmp_path / "x")


def test_kill_interleave(stage: Callable[[str], Path], tmp_path: Path) -> None:
    kill_and_go_on(["interleave", stage("align"), "--text", stage("tokenize-text")], tmp_path / "x")


def test_kill_vocode(stage: Callable[[str], Path], tmp_path: Path) -> None:
    kill_and_go_on(["vocode", stage("tokenize-audio"), "--workers", "1"], tmp_path / "x")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_leaves_one_line_and_what_is_done(small: Path, tmp_path: Path, workers: str) -> None:
    command = ["tokenize-text", small / "stories.txt", "--train-tokenizer", "360", "--workers", workers]
    whole, hurt, said = tmp_path / "whole", tmp_path / "hurt", tmp_path / "said"
    _, operations = lst([*command, "--out", whole], tmp_path)
    code, _ = lst([*command, "--out", hurt], tmp_path, kill_at=operations // 2, by=signal.SIGINT, said=said)
    assert code == 130
    lines = [line for line in said.read_text().splitlines() if not line.startswith("tokenize-text: ")]
    assert lines == ["lst: Stopped. Run the same command again to continue."]
    assert not hurt.exists()
    assert lst([*command, "--out", hurt], tmp_path)[0] == 0
    assert contents(hurt) == contents(whole)


@pytest.mark.slow
def test_kill_training(small: Path, stage: Callable[[str], Path], tmp_path: Path) -> None:
    pairs, text = stage("interleave"), stage("tokenize-text")
    (tmp_path / "pretrain.yaml").write_text(
        f"pairs: {pairs}\ntext: {text}\nmodel: {{preset: nano}}\nbatch: {{sequence_units: 64, rows: 2}}\n"
        "budget: {kind: steps, amount: 4}\ncheckpoint: {every_steps: 1}\nvalidate_every: null\n"
        "valid_rows: 2\nlog_every: 1\n"
    )
    kill_and_go_on(["pretrain", "--config", tmp_path / "pretrain.yaml"], tmp_path / "pretrain" / "x")
    quick = ["budget.amount=3", "batch.rows=2", "batch.sequence_units=128", "validate_every=null", "log_every=1"]
    command = ["finetune", "asr", "--model", stage("pretrain"), "--data", pairs, *quick, "checkpoint.every_steps=1"]
    kill_and_go_on(command, tmp_path / "finetune" / "x")


@pytest.mark.slow
def test_kill_evaluation_and_generation(small: Path, stage: Callable[[str], Path], tmp_path: Path) -> None:
    model = stage("pretrain")
    bench = stage("storycloze-data")
    kill_and_go_on(["eval", "storycloze", "--model", model, "--data", bench], tmp_path / "cloze" / "x")
    kill_and_go_on(["eval", "losses", "--model", model, "--data", stage("interleave")], tmp_path / "losses" / "x")
    kill_and_go_on(["generate", "--model", model, "--prompt", "A cat", "--max-tokens", "4"], tmp_path / "more" / "x")


@pytest.mark.slow
def test_kill_a_run_again_and_again(small: Path, stage: Callable[[str], Path]) -> None:
    """A recipe whose benchmark, samples and report are missing: killed every few operations until all is there."""
    whole, out, said = stage("samples").parent, small / "again", small / "said-again"
    for name in ("eval-storycloze", "eval-losses"):
        stage(name)
    shutil.copytree(whole, out)
    for name in ("storycloze-data", "samples"):
        shutil.rmtree(out / name)
    command = ["run", small / "small.yaml", "--out", out, "--workers", "1"]
    killed: set[str] = set()
    limit = 20
    while (code := lst(command, out, kill_at=limit, said=said)[0]) == -9:
        killed |= {path.name.split(".partial-")[0] for path in out.glob("*.partial-*")}
        for manifest in out.glob("*/manifest.json"):
            if ".partial-" not in manifest.parent.name:
                assert verify_manifest(manifest.parent) == []
        assert (out / "report.html").exists() <= (out / "samples").exists()
        limit += 10
    assert code == 0, said.read_text()
    assert killed == {"storycloze-data", "samples"}
    assert not list(out.glob("*.partial-*"))
    for name in json.loads((whole / "run.json").read_text())["stages"]:
        assert contents(out / name) == contents(whole / name), name
    assert "</html>" in (out / "report.html").read_text(encoding="utf-8")
    said.unlink()
    assert lst(command, out, said=said)[0] == 0
    assert "Nothing to do" in said.read_text()
