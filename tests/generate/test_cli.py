import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from lst.cli import generate as commands
from lst.errors import LstError, UsageError
from lst.generate.session import Session
from tests.evaluate.tiny import write_tone


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    commands.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", ["transcribe", "synthesize", "generate"])
def test_help_has_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: lst {command} " in result.stdout


@pytest.mark.usefixtures("units")
def test_transcribe(asr: Session, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 0.4)
    result = run("transcribe", "--model", asr.directory, tmp_path / "a.wav", "--max-tokens", "4")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{tmp_path / 'a.wav'}\t")
    assert len(result.stdout.splitlines()) == 1
    mixed = run(
        "transcribe", "--model", asr.directory, tmp_path / "a.wav", tmp_path / "b.wav", "--max-tokens", "4", "--json"
    )
    assert mixed.exit_code == 1
    good, bad = json.loads(mixed.stdout)
    assert good["units"] == 10
    assert "b.wav" in bad["error"]
    assert "b.wav" in mixed.stderr


@pytest.mark.usefixtures("voice")
def test_synthesize(tts: Session, tmp_path: Path) -> None:
    out = tmp_path / "said.wav"
    arguments = ("synthesize", "--model", tts.directory, "--text", "the cat", "--out", out, "--max-seconds", "0.4")
    result = run(*arguments, "--json")
    assert result.exit_code == 0
    body = json.loads(result.stdout)
    assert body["duration_s"] == len(body["units"]) / 25 == 0.4
    assert out.is_file()
    again = run(*arguments)
    assert again.stdout.startswith(f"{out}\t0.40 s\t10 units")
    assert "Cut off at 0.4 s" in again.stderr


@pytest.mark.usefixtures("voice", "units")
def test_generate(plain: Session, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 0.4)
    result = run(
        "generate",
        "--model",
        plain.directory,
        "--prompt",
        tmp_path / "a.wav",
        "--out",
        tmp_path / "o",
        "--max-tokens",
        12,
    )
    assert result.exit_code == 0
    assert str(tmp_path / "o" / "whole.wav") in result.stdout
    text = run(
        "generate",
        "--model",
        plain.directory,
        "--prompt",
        "the cat",
        "--out",
        tmp_path / "t",
        "--max-tokens",
        5,
        "--json",
    )
    body = json.loads(text.stdout)
    assert body["prompt"] == {"modality": "text", "text": "the cat"}
    assert body["units"] == []


def test_wrong_usage_names_the_option(tts: Session, tmp_path: Path) -> None:
    base = ("--model", tts.directory, "--out", tmp_path / "x.wav")
    wrong = run("synthesize", *base, "--text", "a", "--temperature", "0")
    assert isinstance(wrong.exception, UsageError)
    assert "--temperature" in str(wrong.exception)
    wrong = run("generate", *base, "--prompt", "a", "--modality", "song")
    assert isinstance(wrong.exception, UsageError)
    assert "--modality" in str(wrong.exception)
    for name in ("said.mp3", "folder.wav"):
        (tmp_path / "folder.wav").mkdir(exist_ok=True)
        wrong = run("synthesize", "--model", tts.directory, "--text", "a", "--out", tmp_path / name)
        assert isinstance(wrong.exception, UsageError)
        assert name in str(wrong.exception)
    missing = run("synthesize", "--model", tmp_path / "nowhere", "--text", "a", "--out", tmp_path / "x.wav")
    assert isinstance(missing.exception, LstError)
    assert "nowhere" in str(missing.exception)


@pytest.mark.usefixtures("voice", "units")
def test_a_continuation_goes_to_a_player(plain: Session, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 0.4)
    given = ("generate", "--model", plain.directory, "--prompt", tmp_path / "a.wav", "--out", "-", "--max-tokens", 12)
    played = run(*given)
    assert played.exit_code == 0
    assert len(played.stdout_bytes) == 2 * 640 * (10 + 12)
    assert "12 units" in played.stderr
    for more in (("--json",), ("--modality", "text")):
        assert isinstance(run(*given, *more).exception, UsageError)


def test_what_is_missing_is_said_before_a_model_is_loaded(
    plain: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("lst.generate.session.open_session", never)
    monkeypatch.setattr("lst.generate.stage.open_session", never)
    gone, model = tmp_path / "gone.wav", ("--model", plain.directory)
    for arguments in (
        ("transcribe", *model, gone),
        ("generate", *model, "--prompt", gone, "--out", tmp_path / "out"),
        ("generate", *model, "--prompt", gone, "--out", "-"),
    ):
        assert "gone.wav does not exist" in str(run(*arguments).exception)
    (tmp_path / "file").write_text("")
    below = run("synthesize", *model, "--text", "a", "--out", tmp_path / "file" / "sub" / "said.wav")
    assert isinstance(below.exception, UsageError)
    assert "file is a file, not a directory" in str(below.exception)
