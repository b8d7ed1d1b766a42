"""The stage align: rows, rejections with reasons, report, handshake, interruption, command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lst.align.stage as stage
from lst.align.loading import load_aligner
from lst.align.report import REPORT_FILE, coverage
from lst.align.stage import AlignConfig, align, align_spec, find_audio
from lst.errors import LstError
from lst.manifest import Manifest, StageSpec, build_shards, iter_rows, load_manifest
from tests.align.speech import SAMPLE, TEXTS, recording
from tests.units.corpus import audio_manifest

NAMES = list(TEXTS)


def units_of(audio: Manifest, out: Path) -> Manifest:
    """Units of an audio manifest: ones, which is enough for alignment."""
    spec = StageSpec("lst.units/1", "tokenize-audio", 1, {}, inputs={"audio": audio}, fingerprints={"tokenizer": "x"})
    return build_shards(out, spec, range(len(audio.shards)), _Ones(audio.path))


class _Ones:
    def __init__(self, audio: Path) -> None:
        self.audio = audio

    def __call__(self, shard: int) -> Any:
        from lst.manifest import ShardResult, read_table

        rows = read_table(load_manifest(self.audio), shard).to_pylist()
        keep = ("id", "duration_s", "speaker", "text")
        return ShardResult([{k: row[k] for k in keep} | {"units": [1] * int(row["duration_s"] * 25)} for row in rows])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Manifest]:
    """Eight rows: four right, then a wrong transcript, none, another script, and silence."""
    directory = tmp_path_factory.mktemp("corpus")
    silence = np.zeros(32_000, np.float32)
    recordings = [recording(name) for name in NAMES] + [recording(NAMES[0])] * 3 + [silence]
    texts = [*TEXTS.values(), TEXTS[NAMES[3]][:30], None, "все счастливые семьи", "has never been surpassed"]
    changes = {index: {"text": text} for index, text in enumerate(texts)}
    audio = audio_manifest(directory, recordings, changes=changes)
    return audio, units_of(audio, directory / "units")


def test_rows_and_rejections(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    audio, units = corpus
    made = align(units, audio, tmp_path / "out", AlignConfig())
    rows = list(iter_rows(made))
    assert [row["text"] for row in rows] == list(TEXTS.values())
    for row in rows:
        assert " ".join(word["text"] for word in row["words"]) == row["text"]
        edges = [edge for word in row["words"] for edge in (word["start"], word["end"])]
        assert edges == sorted(edges)
        assert edges[-1] <= len(row["units"])
    assert made.rejected["no-text"] == 1
    assert made.rejected["text-other-script"] == 1
    assert sum(made.rejected.values()) == 4
    assert made.fingerprints["tokenizer"] == "x"
    assert made.config["min_score"] == 0.45
    report = json.loads(made.file(REPORT_FILE).read_text(encoding="utf-8"))
    assert report["rows"] == {"aligned": 4, "rejected": 4}
    words = sum(len(text.split()) for text in TEXTS.values())
    assert report["words"]["aligned"] == made.totals["words"] == words
    assert report["coverage"] == pytest.approx(coverage(made)[0], abs=1e-5)
    assert report["mean_score"] == pytest.approx(coverage(made)[1], abs=1e-5)
    assert 0 < report["coverage"] < 1
    assert {reason: entry["rows"] for reason, entry in report["rejected"].items()} == made.rejected


def test_languages_the_aligner_does_not_know(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    audio, units = corpus
    with pytest.raises(LstError, match=r"pocketsphinx knows English \(en\) only, not 'de'.*--aligner"):
        align(units, audio, tmp_path / "out", AlignConfig(language="de"))
    assert align_spec(units, audio, AlignConfig(language="en-GB")).config["language"] == "en-GB"
    with pytest.raises(LstError, match="language 'tlh'"):
        load_aligner("any", "tlh")
    changes: dict[int, dict[str, Any]] = {0: {"language": "de", "text": "one"}, 1: {"language": "EN_us"}}
    mixed = audio_manifest(tmp_path / "mixed", [recording(NAMES[0]), recording(NAMES[1])], changes=changes)
    with pytest.raises(LstError, match=r"1 other-language.*'de', pocketsphinx aligns 'en'"):
        align(units_of(mixed, tmp_path / "units"), mixed, tmp_path / "out", AlignConfig(), max_rejected=0.0)


def test_result_does_not_depend_on_workers_or_interruption(
    corpus: tuple[Manifest, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio, units = corpus
    first = align(units, audio, tmp_path / "a", AlignConfig())
    second = align(units, audio, tmp_path / "b", AlignConfig(), workers=2)
    original = stage.ShardAligner.__call__

    def dying(self: stage.ShardAligner, shard: int) -> object:
        if shard == 2:
            raise KeyboardInterrupt
        return original(self, shard)

    monkeypatch.setattr(stage.ShardAligner, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        align(units, audio, tmp_path / "c", AlignConfig())
    monkeypatch.undo()
    third = align(units, audio, tmp_path / "c", AlignConfig())
    for other in (second, third):
        assert [shard.sha256 for shard in other.shards] == [shard.sha256 for shard in first.shards]
        assert other.file(REPORT_FILE).read_bytes() == first.file(REPORT_FILE).read_bytes()
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "manifest.json",
        "shards",
        REPORT_FILE,
        "rejected.arrow",
    }


def test_changed_or_missing_audio_is_rejected(tmp_path: Path) -> None:
    audio = audio_manifest(
        tmp_path,
        [recording(NAMES[0])] * 3,
        changes={index: {"text": TEXTS[NAMES[0]]} for index in range(3)},
    )
    units = units_of(audio, tmp_path / "units")
    (tmp_path / "recordings" / "r0.wav").unlink()
    (tmp_path / "recordings" / "r1.wav").write_bytes(b"something else")
    made = align(units, audio, tmp_path / "out", AlignConfig())
    assert made.rejected == {"audio-changed": 1, "audio-missing": 1}
    assert made.rows == 1


def test_settings(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    audio, units = corpus
    assert find_audio(units).id == audio.id
    plain = align_spec(units, audio, AlignConfig())
    assert plain.id == align_spec(units, audio, AlignConfig(min_score=0.45)).id
    assert plain.id != align_spec(units, audio, AlignConfig(min_score=0.5)).id
    with pytest.raises(LstError, match="every row was rejected"):
        align(units, audio, tmp_path / "short", AlignConfig(max_s=0.5))
    with pytest.raises(LstError, match="more than"):
        align(units, audio, tmp_path / "strict", AlignConfig(), max_rejected=0.1)
    other = audio_manifest(tmp_path, [recording(NAMES[1])])
    with pytest.raises(LstError, match="was not made from"):
        align_spec(units, other, AlignConfig())


def test_command(corpus: tuple[Manifest, Manifest], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    from lst.cli.align import register

    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    _, units = corpus
    out = tmp_path / "out"
    app(["align", str(units.path), "--out", str(out), "--workers", "1", "--json"], standalone_mode=False)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["totals"]["rows"] == 4
    assert "of the words aligned" in printed.err
    from lst.errors import UsageError

    with pytest.raises(UsageError, match="--max-s"):
        app(["align", str(units.path), "--out", str(out), "--max-s", "-1"], standalone_mode=False)
    assert SAMPLE.is_dir()
