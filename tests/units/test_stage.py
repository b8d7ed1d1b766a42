"""`tokenize-audio`: rows, rejections, independence of workers, resumption, command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lst.errors import LstError
from lst.manifest import Manifest, ShardResult, iter_rows, load_manifest
from lst.units import load_tokenizer
from lst.units import stage as stage_module
from lst.units.stage import ShardTokenizer, TokenizeAudioConfig, tokenize_audio, tokenize_audio_spec
from tests.units.corpus import audio_manifest
from tests.units.tiny import save_spirit_lm, speechlike, tiny_hubert

LENGTHS = (16000, 24001, 700, 8000, 40000)


@pytest.fixture
def audio(tmp_path: Path) -> Manifest:
    return audio_manifest(tmp_path, [speechlike(samples, seed) for seed, samples in enumerate(LENGTHS)])


def shard_bytes(manifest: Manifest) -> list[bytes]:
    return [manifest.shard(index).read_bytes() for index in range(len(manifest.shards))]


def test_units_of_every_row(audio: Manifest, tmp_path: Path) -> None:
    made = tokenize_audio(audio, tmp_path / "units", TokenizeAudioConfig(tokenizer="mfcc"))
    rows = list(iter_rows(made))
    tokenizer = load_tokenizer("mfcc-501")
    assert [row["id"] for row in rows] == [f"test/r{index}.wav#0" for index in range(5)]
    for seed, (samples, row) in enumerate(zip(LENGTHS, rows, strict=True)):
        assert row["units"] == tokenizer.encode(speechlike(samples, seed)).tolist()
        assert len(row["units"]) == tokenizer.num_frames(samples)
        assert (row["speaker"], row["text"], row["duration_s"]) == (f"s{seed % 2}", f"text {seed}", samples / 16000)
    assert made.schema == "lst.units/1"
    assert len(made.shards) == len(audio.shards) == 3
    assert made.fingerprints == {"tokenizer": tokenizer.fingerprint}
    assert made.config == {"tokenizer": "mfcc-501", "device": "cpu"}
    assert made.provenance == audio.provenance
    assert made.totals == {
        "rows": 5,
        "hours": pytest.approx(sum(LENGTHS) / 16000 / 3600),
        "units": sum(tokenizer.num_frames(samples) for samples in LENGTHS),
    }


def test_workers_and_interruptions_do_not_change_a_byte(
    audio: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TokenizeAudioConfig(tokenizer="mfcc")
    alone = tokenize_audio(audio, tmp_path / "one", config)
    parallel = tokenize_audio(audio, tmp_path / "two", config, workers=2)
    assert shard_bytes(parallel) == shard_bytes(alone)
    assert parallel.id == alone.id

    work = ShardTokenizer.__call__

    def stop_at_the_last(self: ShardTokenizer, shard: int) -> ShardResult:
        if shard == 2:
            raise KeyboardInterrupt
        return work(self, shard)

    monkeypatch.setattr(ShardTokenizer, "__call__", stop_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        tokenize_audio(audio, tmp_path / "three", config)
    assert not (tmp_path / "three").exists()
    done: list[int] = []

    def count(self: ShardTokenizer, shard: int) -> ShardResult:
        done.append(shard)
        return work(self, shard)

    monkeypatch.setattr(ShardTokenizer, "__call__", count)
    resumed = tokenize_audio(audio, tmp_path / "three", config)
    assert done == [2]
    assert shard_bytes(resumed) == shard_bytes(alone)


@pytest.mark.slow
def test_workers_do_not_change_the_units_of_a_hubert(audio: Manifest, tmp_path: Path) -> None:
    """Slow: each worker imports fairseq2."""
    config = TokenizeAudioConfig(tokenizer=str(save_spirit_lm(tiny_hubert(), tmp_path / "spirit")))
    alone = tokenize_audio(audio, tmp_path / "one", config)
    parallel = tokenize_audio(audio, tmp_path / "two", config, workers=2)
    assert shard_bytes(parallel) == shard_bytes(alone)
    assert alone.config["tokenizer"] == "spirit"


def test_bad_rows_are_rejected_with_reasons(tmp_path: Path) -> None:
    recordings = [speechlike(16000, seed) for seed in range(7)]
    recordings[3] = speechlike(300)
    recordings[4][100] = np.nan
    changes = {
        1: {"sha256": "0" * 64},
        2: {"duration_s": 2.5},
        5: {"audio_path": "absent.wav"},
    }
    audio = audio_manifest(tmp_path, recordings, changes=changes)
    directory = save_spirit_lm(tiny_hubert(), tmp_path / "spirit")
    made = tokenize_audio(audio, tmp_path / "units", TokenizeAudioConfig(tokenizer=str(directory)))
    assert [row["id"] for row in iter_rows(made)] == ["test/r0.wav#0", "test/r6.wav#0"]
    assert made.rejected == {
        "audio-changed": 1,
        "audio-missing": 1,
        "audio-too-short": 1,
        "duration-mismatch": 1,
        "not-finite": 1,
    }
    with pytest.raises(LstError, match=r"71\.4% of the rows were rejected"):
        tokenize_audio(audio, tmp_path / "strict", TokenizeAudioConfig(tokenizer=str(directory)), max_rejected=0.5)


def test_long_rows_are_encoded_in_pieces(audio: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokenize_audio(audio, tmp_path / "whole", TokenizeAudioConfig(tokenizer="mfcc"))
    monkeypatch.setattr(stage_module, "LONG_S", 1.2)
    pieces = tokenize_audio(audio, tmp_path / "pieces", TokenizeAudioConfig(tokenizer="mfcc"))
    assert shard_bytes(pieces) == shard_bytes(whole)


def test_twenty_minutes_need_no_more_memory_than_one(tmp_path: Path) -> None:
    """Run in a process of its own, whose peak is its own."""
    minute = speechlike(16000 * 60)
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 16000, 1, subtype="PCM_16") as file:
        for _ in range(20):
            file.write(minute)
    code = (
        "import sys, resource, numpy as np\n"
        "from lst.units import load_tokenizer\n"
        "from lst.audio import stream_audio\n"
        "tokenizer = load_tokenizer('mfcc-501')\n"
        "path, seconds = sys.argv[1], float(sys.argv[2])\n"
        "units = sum(map(len, tokenizer.encode_stream(stream_audio(path, duration_s=seconds))))\n"
        "print(units, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    results = []
    for seconds in (60, 1200):
        command = [sys.executable, "-c", code, str(path), str(seconds)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        results.append((int(printed[0]), int(printed[1])))
    assert [units for units, _ in results] == [1500, 30000]
    assert results[1][1] - results[0][1] < 30_000  # kB; the samples of twenty minutes are 77 MB


def test_spec_counts_the_fingerprint_not_the_path(audio: Manifest, tmp_path: Path) -> None:
    model = tiny_hubert()
    first = save_spirit_lm(model, tmp_path / "a" / "tok")
    second = save_spirit_lm(model, tmp_path / "b" / "tok")
    ids = {tokenize_audio_spec(audio, TokenizeAudioConfig(tokenizer=str(path))).id for path in (first, second)}
    assert len(ids) == 1
    other = save_spirit_lm(model, tmp_path / "c" / "tok", normalize=True)
    assert tokenize_audio_spec(audio, TokenizeAudioConfig(tokenizer=str(other))).id not in ids


def test_a_tokenizer_that_changes_meanwhile_is_noticed(audio: Manifest, tmp_path: Path) -> None:
    worker = ShardTokenizer(audio.path, "mfcc-501", "another fingerprint", "cpu")
    with pytest.raises(LstError, match="was changed while it was in use"):
        worker(0)


def run_lst(*arguments: str) -> int:
    """One command line of this part alone, as the program runs it."""
    import typer

    from lst.cli.units import register

    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = app(args=list(arguments), standalone_mode=False)
    return result if isinstance(result, int) else 0


def test_command_line(audio: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "units"
    run_lst("tokenize-audio", str(audio.path), "--out", str(out), "--workers", "1", "--json")
    printed = capsys.readouterr()
    assert json.loads(printed.out)["id"] == load_manifest(out, "lst.units").id
    assert "tokenize-audio: 3/3 shards" in printed.err
    run_lst("tokenize-audio", str(audio.path), "--out", str(out), "--workers", "1")
    assert "lst.units/1" in capsys.readouterr().out


def test_command_line_names_the_wrong_option(audio: Manifest, tmp_path: Path) -> None:
    with pytest.raises(LstError, match=r"--device: .*'tpu'") as caught:
        run_lst("tokenize-audio", str(audio.path), "--out", str(tmp_path / "units"), "--device", "tpu")
    assert caught.value.exit_code == 2
    with pytest.raises(LstError, match=r"--units: .*900"):
        run_lst("train-tokenizer", str(audio.path), "--out", str(tmp_path / "units"), "--units", "900")
