"""What a user gets for bad input: a counted rejection, or one sentence and exit code 1 or 2; nothing is harmed.

The parts are tested beside their code (tests/audio/test_ingest.py has every kind of bad recording); here the command
line is, from end to end.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lst.cli.main import run
from lst.manifest import sha256_json
from tests.audio.conftest import voice, write

Stage = Callable[[str], Path]
Captured = pytest.CaptureFixture[str]


def refused(capsys: Captured, *arguments: str | Path, code: int = 1) -> str:
    """The one sentence that the command says."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == code
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("lst: ")]
    assert len(lines) == 1, output.err
    assert "Internal error" not in lines[0]
    assert output.out == ""
    return lines[0]


def accepted(capsys: Captured, *arguments: str | Path) -> str:
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def everything(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_bad_recordings_and_transcripts_are_counted_down_to_the_words(
    small: Path, tmp_path: Path, capsys: Captured
) -> None:
    src = tmp_path / "src"
    good = voice(1.0)
    made = {
        "silent": good * 0,
        "one-sample": good[:1],
        "clipped": np.clip(good * 20, -1, 1),
        "eight": voice(1.0, channels=8),
    }
    for name, wave in made.items():
        write(src / f"{name}.wav", wave)
        (src / f"{name}.txt").write_text("hello there")
    write(src / "nan.wav", np.where(good > 0.1, np.nan, good), subtype="FLOAT")
    (src / "empty.wav").write_bytes(b"")
    (src / "unreadable.wav").write_bytes(b"RIFF nonsense")
    right = next(iter(sorted((small / "sample" / "asterisk").glob("*.opus"))))
    for folder, text in (
        ("a", "activated"),
        ("b", "and now for something completely different"),
        ("c", "привет мир"),
        ("d", ""),
    ):
        (src / folder).mkdir()
        shutil.copy(right, src / folder / "x.opus")
        (src / folder / "x.txt").write_text(text, encoding="utf-8")
    (src / "d" / "x.txt").write_bytes(b"caf\xe9")
    shutil.copy(right, src / "untold.opus")

    body = json.loads(accepted(capsys, "ingest", src, "--out", tmp_path / "audio", "--workers", "1", "--json"))
    reasons = (
        "audio-empty",
        "audio-unreadable",
        "clipped",
        "invalid-utf8",
        "not-finite",
        "silent",
        "text-other-script",
    )
    assert body["rejected"] == dict.fromkeys(reasons, 1) | {"too-short": 1}
    assert body["totals"]["rows"] == 4  # eight channels, no transcript, and two files of one name in two folders
    lines = accepted(capsys, "manifest", "show", tmp_path / "audio", "--rejected", "99").splitlines()
    assert {json.loads(line)["id"]: json.loads(line)["reason"] for line in lines}["folder/nan.wav#0"] == "not-finite"
    accepted(capsys, "tokenize-audio", tmp_path / "audio", "--out", tmp_path / "units", "--workers", "1")
    body = json.loads(
        accepted(capsys, "align", tmp_path / "units", "--out", tmp_path / "aligned", "--workers", "1", "--json")
    )
    assert body["rejected"]["no-text"] == 1
    lines = accepted(capsys, "manifest", "show", tmp_path / "aligned", "--rejected", "99").splitlines()
    left_out = {json.loads(line)["id"] for line in lines}
    assert {"folder/b/x.opus#0", "folder/eight.wav#0", "folder/untold.opus#0"} == left_out
    (row,) = map(json.loads, accepted(capsys, "manifest", "show", tmp_path / "aligned", "--rows", "9").splitlines())
    assert row["id"] == "folder/a/x.opus#0"


def test_no_audio_at_all(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "notes.txt").write_text("nothing to hear")
    assert "No recordings found in" in refused(capsys, "ingest", tmp_path / "src", "--out", tmp_path / "out")
    assert "does not exist" in refused(capsys, "ingest", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]


def test_text_of_one_enormous_line_and_text_that_is_none(stage: Stage, tmp_path: Path, capsys: Captured) -> None:
    words = "the cat sat on the mat and the dog ran over a hill with 12 other dogs; "
    (tmp_path / "line.txt").write_bytes(words.encode() * 40_000 + b"\n" + b"caf\xe9\n")  # 2.9 MB without a line end
    tokenizer = stage("tokenize-text") / "tokenizer.model"
    command = ("tokenize-text", tmp_path / "line.txt", "--out", tmp_path / "out", "--tokenizer", tokenizer)
    body = json.loads(accepted(capsys, *command, "--workers", "1", "--json"))
    assert body["totals"]["rows"] == 29
    assert body["rejected"] == {"invalid-utf8": 1}
    (tmp_path / "bad.txt").write_bytes(b"\xff\n\xfe\n")
    said = refused(capsys, "tokenize-text", tmp_path / "bad.txt", "--out", tmp_path / "none")
    assert "bad.txt holds no text that can be used: 2 invalid-utf8" in said
    (tmp_path / "empty.txt").write_bytes(b"")
    assert "every line is empty" in refused(capsys, "tokenize-text", tmp_path / "empty.txt", "--out", tmp_path / "none")
    said = refused(
        capsys, "tokenize-text", tmp_path / "line.txt", "--out", tmp_path / "none", "--tokenizer", tmp_path / "x"
    )
    assert "Cannot read the text tokenizer" in said
    assert not (tmp_path / "none").exists()


def newer(body: dict[str, object]) -> bytes:
    body["schema"] = f"{str(body['schema']).split('/')[0]}/9"
    body["tool"] = {"lst": "9.9"}
    body["digest"] = sha256_json({key: value for key, value in body.items() if key != "digest"})
    return json.dumps(body).encode()


def flipped(data: bytes) -> bytes:
    at = data.index(b'"totals"') + 1
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("stage_name", "name"),
    [("ingest", "tokenize-audio"), ("tokenize-audio", "align"), ("align", "interleave"), ("tokenize-audio", "vocode")],
)
def test_damaged_manifests(stage: Stage, stage_name: str, name: str, tmp_path: Path, capsys: Captured) -> None:
    command = (name, "--text", stage("tokenize-text")) if name == "interleave" else (name,)
    made = tmp_path / "run" / stage_name
    run_before = stage(stage_name).parent
    shutil.copytree(run_before, tmp_path / "run", ignore=shutil.ignore_patterns("pretrain*", "finetune*"))
    good = (made / "manifest.json").read_bytes()
    damage = {
        newer(json.loads(good)): "this lst reads",
        good[: len(good) // 2]: "is damaged: not valid JSON",
        flipped(good): "is damaged: its contents do not match its digest",
        b"[]": "is damaged or not a manifest",
        good.replace(b'"schema": "lst.', b'"schema": "tsl.', 1): "Unknown schema",
    }
    for data, words in damage.items():
        (made / "manifest.json").write_bytes(data)
        for arguments in ((*command, made, "--out", tmp_path / "out"), ("manifest", "show", made)):
            said = refused(capsys, *arguments)
            assert words in said
            assert f"{stage_name}/manifest.json" in said
    (made / "manifest.json").write_bytes(good)
    shard = made / "shards" / "00000.arrow"
    whole = shard.read_bytes()
    middle = len(whole) // 2
    flip = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for data, words in ((whole[:-9], "bytes instead of"), (flip, "does not match its recorded sha256")):
        shard.write_bytes(data)
        assert words in refused(capsys, *command, made, "--out", tmp_path / "out", "--workers", "1")
        assert run(["manifest", "verify", str(made)]) == 1
    assert not (tmp_path / "out").exists()


def test_a_directory_that_belongs_to_something_else(
    small: Path, stage: Stage, tmp_path: Path, capsys: Captured
) -> None:
    theirs = tmp_path / "thesis"
    theirs.mkdir()
    (theirs / "chapter.tex").write_text("x")
    before = everything(theirs)
    units, aligned = stage("tokenize-audio"), stage("align")
    for command in (
        ("ingest", small / "sample"),
        ("tokenize-audio", stage("ingest")),
        ("align", units),
        ("tokenize-text", small / "stories.txt", "--train-tokenizer", "360"),
        ("interleave", aligned, "--text", stage("tokenize-text")),
        ("vocode", units),
        ("train-tokenizer", stage("ingest"), "--units", "20"),
        ("train-vocoder", units),
    ):
        for force in ((), ("--force",)):
            said = refused(capsys, *command, "--out", theirs, *force)
            assert "thesis exists and is not an output of lst" in said
    said = refused(capsys, "run", small / "small.yaml", "--out", theirs)
    assert "is not empty and was not made by lst run" in said
    said = refused(capsys, "align", units, "--out", theirs / "chapter.tex")
    assert "is a file, not a directory" in said
    assert everything(theirs) == before
    mine = everything(aligned)
    said = refused(capsys, "align", units, "--out", aligned, "--min-score", "0.9")
    assert "from other inputs or settings" in said
    assert "--force" in said
    assert everything(aligned) == mine


def test_another_tokenizer(stage: Stage, tmp_path: Path, capsys: Captured) -> None:
    other = tmp_path / "other"
    accepted(capsys, "train-tokenizer", stage("ingest"), "--out", other, "--units", "20")
    accepted(
        capsys, "tokenize-audio", stage("ingest"), "--out", tmp_path / "units", "--tokenizer", other, "--workers", "1"
    )
    said = refused(capsys, "vocode", tmp_path / "units", "--out", tmp_path / "out", "--vocoder", "ridge-mfcc-501")
    assert "was made for units of the tokenizer mfcc-501" in said
    assert "No vocoder on this machine" in refused(capsys, "vocode", tmp_path / "units", "--out", tmp_path / "out")
    said = refused(capsys, "align", stage("ingest"), "--out", tmp_path / "out")
    assert "lst.units is needed here" in said


@pytest.mark.slow
def test_a_model_and_another_tokenizer(small: Path, stage: Stage, tmp_path: Path, capsys: Captured) -> None:
    other, model = tmp_path / "other", stage("pretrain")
    accepted(capsys, "train-tokenizer", stage("ingest"), "--out", other, "--units", "20")
    accepted(
        capsys, "tokenize-audio", stage("ingest"), "--out", tmp_path / "units", "--tokenizer", other, "--workers", "1"
    )
    accepted(capsys, "align", tmp_path / "units", "--out", tmp_path / "aligned", "--workers", "1", "--min-score", "0")
    pairs = tmp_path / "pairs"
    accepted(capsys, "interleave", tmp_path / "aligned", "--text", stage("tokenize-text"), "--out", pairs)
    sound = next(iter(sorted((small / "sample" / "asterisk").glob("*.opus"))))
    out = ("--out", tmp_path / "out")
    for command in (
        ("finetune", "asr", "--data", pairs, *out),
        ("eval", "losses", "--data", pairs),
        ("transcribe", "--tokenizer", other, sound),
        ("generate", "--prompt", sound, "--tokenizer", other, *out),
    ):
        said = refused(capsys, *command, "--model", model)
        assert "has units of tokenizer mfcc-20 (" in said or command[0] in ("transcribe", "generate")
        assert "was trained on those of mfcc-501" in said
        assert "--tokenizer mfcc-501" in said
    assert not (tmp_path / "out").exists()


def test_unknown_keys_of_recipes(small: Path, tmp_path: Path, capsys: Captured) -> None:
    recipe = small / "small.yaml"
    for command in ("run", "plan"):
        said = refused(capsys, command, recipe, "--out", tmp_path / "out", "--set", "align.min_scroe=1")
        assert "stages.align.min_scroe: unknown key. Did you mean 'min_score'?" in said
    said = refused(capsys, "run", recipe, "--out", tmp_path / "out", "--set", "aling.min_score=1", code=2)
    assert "Did you mean 'align'?" in said
    assert "Did you mean 'align'?" in refused(capsys, "plan", recipe, "--only", "aling", code=2)
    (tmp_path / "wrong.yaml").write_text(recipe.read_text().replace("stages:", "stagse:"))
    assert "wrong.yaml: unknown key 'stagse'" in refused(capsys, "run", tmp_path / "wrong.yaml").replace(
        "stages: a mapping", ""
    )
    (tmp_path / "train.yaml").write_text("pairs: x\nbugdet: {kind: steps, amount: 2}\n")
    said = refused(capsys, "pretrain", "--config", tmp_path / "train.yaml", "--out", tmp_path / "out")
    assert "bugdet: unknown key. Did you mean 'budget'?" in said
    assert not (tmp_path / "out").exists()
