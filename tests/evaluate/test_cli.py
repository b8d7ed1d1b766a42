import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

import lst.assets
from lst.cli import evaluate as commands
from lst.errors import LstError, UsageError
from lst.manifest import Manifest
from tests.data.synthetic import make_pairs
from tests.evaluate.test_stage import write_items
from tests.evaluate.tiny import TOKENIZER, make_model


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    commands.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        lst.assets, "find_by_fingerprint", lambda wanted, kind: Path("counting") if wanted == TOKENIZER else None
    )
    return tmp_path / "cache"


@pytest.mark.usefixtures("counting_tokenizer")
def test_storycloze_from_files_imports_them_once(model: Manifest, tmp_path: Path, cache: Path) -> None:
    source = write_items(tmp_path / "source", 4)
    arguments = ("eval", "storycloze", "--model", model.path, "--data", source)
    first = run(*arguments)
    assert first.exit_code == 0, first.exception
    assert "| s-s | 4 | mean_unit |" in first.stdout
    (made,) = (cache / "benchmarks").iterdir()
    stamp = (made / "manifest.json").stat().st_mtime_ns
    second = run(*arguments, "--json", "--out", tmp_path / "kept")
    body = json.loads(second.stdout)
    assert list(body["modes"]) == ["s-s", "t-t", "s-t", "t-s"]
    assert (made / "manifest.json").stat().st_mtime_ns == stamp
    assert (tmp_path / "kept" / "items.parquet").is_file()
    assert json.loads((tmp_path / "kept" / "summary.json").read_text()) == body


@pytest.mark.usefixtures("cache")
def test_text_needs_no_unit_tokenizer(tmp_path: Path) -> None:
    source = write_items(tmp_path / "source", 4)
    model = make_model(tmp_path / "model", tokenizer="e" * 64)
    arguments = ("eval", "storycloze", "--model", model.path, "--data", source)
    assert "| t-t | 4 | mean_char |" in run(*arguments, "--mode", "t-t").stdout
    missing = run(*arguments)
    assert isinstance(missing.exception, LstError)
    assert "eeeeeeeeeeee" in str(missing.exception)
    assert "--mode t-t" in str(missing.exception)


def test_an_imported_benchmark_is_taken_as_it_is(model: Manifest, bench: Manifest) -> None:
    result = run("eval", "storycloze", "--model", model.path, "--data", bench.path, "--mode", "s-t")
    assert "| s-t | 12 | mean_char |" in result.stdout


def test_wrong_mode(model: Manifest, bench: Manifest) -> None:
    result = run("eval", "storycloze", "--model", model.path, "--data", bench.path, "--mode", "x-y")
    assert isinstance(result.exception, UsageError)
    assert "--mode" in str(result.exception)


def test_losses(tmp_path: Path) -> None:
    pairs, text = make_pairs(tmp_path, 30, valid_fraction=0.2)
    model = make_model(tmp_path / "model")
    shown = run("eval", "losses", "--model", model.path, "--data", pairs.path)
    assert shown.exit_code == 0, shown.exception
    assert "bits per second of speech" in shown.stdout
    body = json.loads(
        run("eval", "losses", "--model", model.path, "--data", pairs.path, "--text", text.path, "--json").stdout
    )
    assert set(body["sets"]) == {"speech", "transcript", "interleaved", "text"}


@pytest.mark.parametrize("command", ["storycloze", "losses"])
def test_help_has_an_example(command: str) -> None:
    result = run("eval", command, "--help")
    assert result.exit_code == 0
    assert f"lst eval {command} --model" in result.stdout
