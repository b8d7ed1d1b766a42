"""`lst ingest` from the command line."""

import json

import pytest
import typer
from typer.testing import CliRunner

from lst.cli import ingest as command
from lst.errors import LstError, UsageError
from tests.audio.conftest import voice, write


def run(*arguments: str):
    app = typer.Typer()
    command.register(app)
    return CliRunner().invoke(app, list(arguments))


def test_ingest_prints_what_it_made(tmp_path):
    write(tmp_path / "src" / "x.wav", voice(0.5))
    write(tmp_path / "src" / "y.wav", voice(0.5) * 0)
    arguments = [str(tmp_path / "src"), "--out", str(tmp_path / "out"), "--workers", "1"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "1 row," in result.stdout
    assert "rejected: 1 silent" in result.stdout
    body = json.loads(run(*arguments, "--json").stdout)
    assert body["totals"]["rows"] == 1
    assert body["config"]["corpus"] == "folder"


def test_segment_is_a_flag(tmp_path):
    write(tmp_path / "src" / "x.wav", voice(3.0))
    out = str(tmp_path / "out")
    result = run(str(tmp_path / "src"), "--out", out, "--segment", "--max-seconds", "1.5", "--workers", "1", "--json")
    assert result.exit_code == 0, result.output
    body = json.loads(result.stdout)
    assert body["config"]["segment"] == "energy"
    assert body["totals"]["rows"] >= 2


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("--corpus", "librispech", "--corpus"), ("--script", "klingon", "--script"), ("--min-seconds", "90", "min_s")],
)
def test_wrong_options_are_usage_errors(tmp_path, option, value, named):
    result = run(str(tmp_path), "--out", str(tmp_path / "out"), option, value)
    assert isinstance(result.exception, UsageError)
    assert named in str(result.exception)


def test_a_missing_source_is_one_sentence(tmp_path):
    result = run(str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, LstError)
    assert "does not exist" in str(result.exception)


def test_too_many_rejections_fail_at_the_end(tmp_path):
    write(tmp_path / "src" / "x.wav", voice(0.5))
    write(tmp_path / "src" / "y.wav", voice(0.5) * 0)
    result = run(str(tmp_path / "src"), "--out", str(tmp_path / "out"), "--workers", "1", "--max-rejected", "0.1")
    assert "50.0% of the rows were rejected" in str(result.exception)
    assert not (tmp_path / "out").exists()
