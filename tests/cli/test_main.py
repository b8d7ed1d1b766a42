"""The command line as a whole: every command explains itself, starts light, and fails in one line."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lst.cli import main
from lst.cli.common import counted, format_number
from lst.errors import LstError, UsageError

COMMANDS = [
    "ingest",
    "tokenize-audio",
    "align",
    "tokenize-text",
    "interleave",
    "pretrain",
    "finetune asr",
    "finetune tts",
    "model",
    "eval storycloze",
    "eval losses",
    "transcribe",
    "synthesize",
    "generate",
    "vocode",
    "run",
    "plan",
    "train-tokenizer",
    "train-vocoder",
    "train-aligner",
    "eval align",
    "eval vocoder",
    "eval units",
    "manifest show",
    "manifest verify",
    "manifest lineage",
    "manifest diff",
    "assets list",
    "assets pull",
    "assets verify",
    "report",
    "doctor",
]


PROMISED = """
    ingest --out --corpus --segment
    tokenize-audio --out --tokenizer --workers
    align --out --aligner --min-score
    tokenize-text --out --tokenizer --train-tokenizer
    interleave --out --preview
    pretrain --config --out --resume --dry-run
    finetune asr --model --data --out
    finetune tts --model --data --out
    eval storycloze --model --data --mode --json
    transcribe --model
    synthesize --model --text --out
    generate --model --prompt --out
    vocode --out
    run --out --why --only --set
    plan
    manifest show
    manifest verify
    manifest lineage
    manifest diff
    assets list
    assets pull
    assets verify
    doctor
    report
"""
"""Commands and options whose spellings stay."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*command.split(), "--help"]) == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert f"Example: lst {command.split()[0]}" in said


def commands() -> dict[str, Any]:
    """Every click command by its words, as the application has them."""

    def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from walk(inner, f"{path} {name}".strip())
        else:
            yield path, command

    return dict(walk(typer.main.get_command(main.build_app()), ""))


def test_every_example_is_a_command_line_that_the_command_understands() -> None:
    for name, command in commands().items():
        paragraph = next(part for part in (command.help or "").split("\n\n") if part.startswith("Example: lst "))
        words = shlex.split(" ".join(paragraph.removeprefix("Example: lst ").split()))
        assert words[: len(name.split())] == name.split(), name
        command.make_context(name, words[len(name.split()) :])  # wrong options or values raise


def test_every_command_prints_for_machines() -> None:
    without = [name for name, command in commands().items() if not any("--json" in p.opts for p in command.params)]
    assert without == []


def test_the_spellings_that_are_promised() -> None:
    found = commands()
    for line in PROMISED.strip().splitlines():
        name, _, options = line.strip().partition(" -")
        has = {option for parameter in found[name].params for option in parameter.opts}
        assert set(f"-{options}".split() if options else []) <= has, line


def test_the_help_of_the_whole_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    said = capsys.readouterr().out
    assert [name for name in {command.split()[0] for command in COMMANDS} if name not in said] == []


def test_starting_up_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from lst.cli.main import run; run(['--help']); run(['manifest', 'show', sys.argv[1]]);"
        "heavy = {'torch', 'fairseq2', 'pyarrow', 'numpy', 'yaml', 'matplotlib', 'sklearn', 'soundfile'};"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert "LOADED []" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonsense"], 2, "No such command"),
        (["ingest"], 2, "Missing argument"),
        (["ingest", "x", "--out", "y", "--corpus", "nonsense"], None, "--corpus"),
        (["manifest", "show", "nowhere"], 1, "nowhere does not exist"),
        (["run", "nowhere.yaml"], 1, "nowhere.yaml does not exist"),
        (["--version"], 0, ""),
    ],
)
def test_exit_codes_and_messages(
    arguments: list[str], code: int | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = main.run(arguments)
    assert result == code or (code is None and result in (1, 2))
    output = capsys.readouterr()
    assert words in output.err
    assert len(output.err.splitlines()) == (code != 0)


def _fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def app(**_: object) -> None:
        raise error

    monkeypatch.setattr(main, "build_app", lambda: app)


def test_an_error_is_one_line_and_debug_shows_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fail(monkeypatch, LstError("The file\nis bad.", hint="Mend it."))
    assert main.run(["x"]) == 1
    assert capsys.readouterr().err == "lst: The file is bad. Mend it.\n"
    with pytest.raises(LstError):
        main.run(["x", "--debug"])
    _fail(monkeypatch, UsageError("Wrong."))
    assert main.run(["x"]) == 2
    capsys.readouterr()
    _fail(monkeypatch, NotADirectoryError(20, "Not a directory", "notes.txt/out"))
    assert main.run(["x"]) == 1
    assert capsys.readouterr().err.startswith("lst: notes.txt/out: Not a directory. ")
    _fail(monkeypatch, KeyboardInterrupt())
    assert main.run(["x"]) == 130
    capsys.readouterr()
    _fail(monkeypatch, RuntimeError("boom"))
    assert main.run(["x"]) == 1
    assert "Internal error: RuntimeError: boom" in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        main.run(["--debug", "x"])


def test_numbers_as_people_read_them() -> None:
    numbers = (12345.0, 0.38512, 1234.56, 1129035566227583008768)
    assert [format_number(value) for value in numbers] == ["12,345", "0.3851", "1,234.6", "1.129e+21"]


def test_one_is_not_many() -> None:
    totals = {"rows": 1, "units": 2, "speech_patches": 1, "loss": 1, "hours": 0.5}
    assert [counted(value, name) for name, value in totals.items()] == [
        "1 row",
        "2 units",
        "1 speech patch",
        "1 loss",
        "0.5 hours",
    ]


def test_tables_keep_their_columns_and_names_whatever_the_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main.run(["model", "1.1b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) - len(line.split("  ")[-1].lstrip()) for line in lines}) == 1
    assert max(map(len, lines)) <= 80
    assert main.run(["assets", "list"]) == 0
    assert "twist-hifigan-lj-25hz " in capsys.readouterr().out


def test_doctor_finds_this_machine_fit(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["doctor", "--json"])
    import json

    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    for name in ("python", "torch", "fairseq2 loads", "sound formats", "tokenizer mfcc-501"):
        assert checks[name]["ok"], checks[name]
