import json
import os
import sys
from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

import lst.assets
from lst.audio.voices import open_voice
from lst.errors import LstError, UsageError
from lst.evaluate.data import benchmark_for
from lst.evaluate.make_benchmark import MakeBenchmarkConfig, make_benchmark
from lst.manifest import Manifest, iter_rows
from lst.manifest.inspect import verify_manifest
from tests.evaluate.test_readers import HELLASWAG, write_rows
from tests.evaluate.tiny import TOKENIZER

PROGRAM = """#!{python}
# Stands in for espeak-ng: a tone as long as its text, at 22 kHz, with silence around it. Counts how often it speaks.
import sys, wave, struct, math
if "--version" in sys.argv:
    print("eSpeak NG text-to-speech: 1.99 Data at: /somewhere")
    sys.exit()
text = sys.stdin.read()
with open({log!r}, "a") as log:
    log.write(text + "\\n")
if "unspeakable" in text:
    print("no such sound", file=sys.stderr)
    sys.exit(3)
out, rate = sys.argv[sys.argv.index("-w") + 1], 22050
samples = [0] * 4000
samples += [int(9000 * math.sin(k * (300 + len(text)) * 6.28 / rate)) for k in range(rate * len(text) // 40)]
samples += [0] * 4000
with wave.open(out, "wb") as file:
    file.setnchannels(1); file.setsampwidth(2); file.setframerate(rate)
    file.writeframes(struct.pack(f"<{{len(samples)}}h", *samples))
"""


@pytest.fixture
def spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of every text that the program was asked to say."""
    log = tmp_path / "log.txt"
    log.touch()
    program = tmp_path / "bin" / "espeak-ng"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable, log=str(log)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return log


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [HELLASWAG | {"ind": k, "activity_label": f"Roof {k}", "label": str(k)} for k in range(3)]
    return write_rows(tmp_path / "hellaswag.jsonl", rows)


def config(*voices: str, **more: object) -> MakeBenchmarkConfig:
    return MakeBenchmarkConfig(voices=list(voices), **more)  # type: ignore[arg-type]


@pytest.mark.usefixtures("counting_tokenizer")
def test_a_spoken_hellaswag(
    spoken: Path, source: Path, tmp_path: Path, model: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_benchmark(source, tmp_path / "out", config("espeak-ng:en-us", "espeak-ng:en+f3"))
    assert not verify_manifest(made.path)
    rows = [json.loads(line) for line in made.file("items.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert {row["id"] for row in rows} >= {"0/espeak-ng.en-us", "2/espeak-ng.en+f3"}
    assert {row["group"] for row in rows} == {"0", "1", "2"}
    # Three prompts and four endings that all items share, by two voices.
    assert len(spoken.read_text().splitlines()) == 14
    sound, rate = soundfile.read(made.path / rows[0]["context_audio"])
    assert rate == 16_000
    text = rows[0]["context"]
    assert len(sound) / rate == pytest.approx(len(text) / 40 + 0.08, abs=0.02)
    monkeypatch.setattr(lst.assets, "find_by_fingerprint", lambda wanted, kind: Path("counting"))
    bench = benchmark_for(model, made.path)
    assert bench.config["kind"] == "hellaswag"
    assert bench.fingerprints["tokenizer"] == TOKENIZER
    assert all(len(row["choices_units"]) == 4 and row["choices_text"] for row in iter_rows(bench))


def test_sounds_are_spoken_once(spoken: Path, source: Path, tmp_path: Path) -> None:
    one = make_benchmark(source, tmp_path / "one", config("espeak-ng:en-us"))
    count = len(spoken.read_text().splitlines())
    again = make_benchmark(source, tmp_path / "two", config("espeak-ng:en-us"), workers=2)
    assert len(spoken.read_text().splitlines()) == count
    assert again.id == one.id
    assert again.artifacts == one.artifacts
    rotated = make_benchmark(source, tmp_path / "three", config("espeak-ng:en-us", "espeak-ng:de", rotate=True))
    assert len(rotated.file("items.jsonl").read_text().splitlines()) == 3
    few = make_benchmark(source, tmp_path / "four", config("espeak-ng:en-us", items=2))
    assert few.totals["items"] == 2


def test_what_cannot_be_spoken_is_rejected(spoken: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "a", "context": "good", "right": "fine", "wrong": "unspeakable"},
        {"id": "b", "context": "good", "right": "fine", "wrong": "bad"},
    ]
    made = make_benchmark(write_rows(tmp_path / "x.jsonl", rows), tmp_path / "out", config("espeak-ng:en"))
    assert made.rejected == {"not-spoken": 1}
    assert made.totals["items"] == 1
    with pytest.raises(LstError, match=r"No item could be spoken .* no such sound"):
        make_benchmark(write_rows(tmp_path / "y.jsonl", rows[:1]), tmp_path / "none", config("espeak-ng:en"))


@pytest.mark.usefixtures("spoken")
def test_voices_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_voice("espeak-ng:en-us+f3").label == "espeak-ng.en-us+f3"
    for wrong in ("en-us", "espeak-ng:", "festival:x", "espeak-ng:--help", "espeak-ng:../x"):
        with pytest.raises(UsageError):
            open_voice(wrong)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LstError, match="no program kokoro on the PATH"):
        open_voice("kokoro:af_heart")


@pytest.mark.usefixtures("spoken")
def test_the_command(source: Path, tmp_path: Path) -> None:
    import typer

    from lst.cli import make_benchmark as command

    app = typer.Typer()
    command.register(app)
    result = CliRunner().invoke(app, [str(source), "--voice", "espeak-ng:en", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.exception
    assert "lst.spoken/1" in result.stdout
    assert "lst make-benchmark" in CliRunner().invoke(app, ["--help"]).stdout
