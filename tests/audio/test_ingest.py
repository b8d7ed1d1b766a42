"""Ingestion: what becomes a row, what is rejected and why, and that nothing else decides it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lst.audio import AudioError, open_row_audio, row_audio_path
from lst.audio.stage import IngestConfig, ingest, ingest_spec, relative_root
from lst.errors import LstError
from lst.manifest import Manifest, iter_rows, load_manifest, sha256_file
from tests.audio.conftest import voice, write


def rows_of(manifest: Manifest) -> dict[str, dict]:
    return {row["id"]: row for row in iter_rows(manifest)}


def rejections(manifest: Manifest) -> dict[str, str]:
    import pyarrow as pa

    if not manifest.rejected:
        return {}
    with pa.memory_map(str(manifest.file("rejected.arrow"))) as source:
        return {row["id"]: row["reason"] for row in pa.ipc.open_file(source).read_all().to_pylist()}


def contents(directory: Path) -> dict[str, str]:
    """Hash by name of everything an output holds but its manifest (which has a date in it)."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(directory).as_posix(): sha256_file(path) for path in files}


def table(src: Path, *lines: str, header: str = "file\ttext\tspeaker") -> Path:
    src.mkdir(parents=True, exist_ok=True)
    (src / "transcripts.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return src


def test_a_row_says_where_and_what(tmp_path):
    src = table(tmp_path / "src", "a/x.wav\tHello  there.\tann")
    write(src / "a" / "x.wav", voice(1.5, 22_050, 2), 22_050)
    manifest = ingest(src, tmp_path / "out", IngestConfig())
    (row,) = iter_rows(manifest)
    assert row == {
        "id": "tsv/a/x.wav#0",
        "audio_path": "a/x.wav",
        "offset_s": 0.0,
        "duration_s": 1.5,
        "sample_rate": 22_050,
        "channels": 2,
        "speaker": "ann",
        "text": "Hello there.",
        "language": "en",
        "sha256": sha256_file(src / "a" / "x.wav"),
    }
    assert manifest.schema == "lst.audio/1"
    assert manifest.totals == {"rows": 1, "hours": pytest.approx(1.5 / 3600), "transcribed": 1}
    assert manifest.config["corpus"] == "tsv"
    assert manifest.provenance == [{"corpus": "not stated", "licence": "not stated", "source": ""}]
    assert manifest.location == {"root": "../src"}
    assert len(open_row_audio(manifest, row)) == 24_000


BAD = {
    "unreadable.wav": "audio-unreadable",
    "empty.wav": "audio-empty",
    "no-samples.wav": "audio-empty",
    "one-sample.wav": "too-short",
    "silent.wav": "silent",
    "noise-floor.wav": "silent",
    "nan.wav": "not-finite",
    "clipped.wav": "clipped",
    "long.wav": "too-long",
    "missing.wav": "audio-missing",
    "other-script.wav": "text-other-script",
    "enormous.wav": "text-too-long",
    "wordy.wav": "text-too-long",
    "not-utf8.wav": "invalid-utf8",
    "untold.wav": "transcript-missing",
    "no-words.wav": "transcript-missing",
}


def test_every_bad_input_has_its_reason(tmp_path):
    src = tmp_path / "src"
    good = voice(1.0)
    texts = dict.fromkeys(BAD, b"words") | {"good.wav": b"words", "eight.wav": b"words"}
    texts["other-script.wav"] = "Добрый день".encode()
    texts["enormous.wav"] = b"word " * 400_000
    texts["wordy.wav"] = b"word " * 3_000
    texts["not-utf8.wav"] = b"caf\xe9"
    texts["untold.wav"] = b""
    texts["no-words.wav"] = b"..."
    for name in texts:
        write(src / name, good)
    (src / "unreadable.wav").write_bytes(b"RIFF nothing")
    (src / "empty.wav").write_bytes(b"")
    write(src / "no-samples.wav", good[:0])
    write(src / "one-sample.wav", good[:1])
    write(src / "silent.wav", np.zeros_like(good))
    write(src / "noise-floor.wav", good * 1e-3 + 0.2, subtype="FLOAT")  # quiet, on a constant offset
    write(src / "nan.wav", np.where(np.arange(16_000)[:, None] == 900, np.nan, good), subtype="FLOAT")
    write(src / "clipped.wav", np.clip(good * 20, -1, 1))
    write(src / "long.wav", voice(3.0))
    (src / "missing.wav").unlink()
    write(src / "eight.wav", voice(1.0, channels=8))
    lines = b"".join(name.encode() + b"\t" + text + b"\n" for name, text in texts.items())
    (src / "transcripts.tsv").write_bytes(b"file\ttext\n" + lines)

    manifest = ingest(src, tmp_path / "out", IngestConfig(max_s=2.0, require_text=True))
    assert rejections(manifest) == {f"tsv/{name}#0": reason for name, reason in BAD.items()}
    assert sum(manifest.rejected.values()) == len(BAD)
    assert sorted(rows_of(manifest)) == ["tsv/eight.wav#0", "tsv/good.wav#0"]
    assert str(tmp_path) not in (tmp_path / "out" / "rejected.arrow").read_bytes().decode("latin-1")


def test_a_missing_transcript_is_no_fault_by_itself(tmp_path):
    write(tmp_path / "src" / "x.wav", voice(0.5))
    manifest = ingest(tmp_path / "src", tmp_path / "out", IngestConfig())
    assert [row["text"] for row in iter_rows(manifest)] == [""]
    assert manifest.totals["transcribed"] == 0


def test_equal_names_in_other_folders_are_two_rows(tmp_path):
    src = tmp_path / "src"
    for name in ("a/x.wav", "b/x.wav", "b/x.flac"):
        write(src / name, voice(0.5))
        (src / name).with_suffix(".txt").write_text(f"this is {name[0]}")
    manifest = ingest(src, tmp_path / "out", IngestConfig())
    assert {key: row["text"] for key, row in rows_of(manifest).items()} == {
        "folder/a/x.wav#0": "this is a",
        "folder/b/x.wav#0": "this is b",
        "folder/b/x.flac#0": "this is b",
    }


def test_duplicate_ids_are_rejected(tmp_path):
    src = table(tmp_path / "src", "x.wav\tfirst\t", "./x.wav\tsecond\t")
    write(src / "x.wav", voice(0.5))
    manifest = ingest(src, tmp_path / "out", IngestConfig())
    assert [row["text"] for row in iter_rows(manifest)] == ["first"]
    assert manifest.rejected == {"duplicate-id": 1}


def test_names_and_texts_that_are_not_unicode(tmp_path):
    src = tmp_path / "src"
    write(src / "good.wav", voice(0.5))
    os.rename(write(src / "b.wav", voice(0.5)), os.fsencode(src) + b"/caf\xe9.wav")
    manifest = ingest(src, tmp_path / "out", IngestConfig())
    assert rejections(manifest) == {"folder/caf\\udce9.wav#0": "invalid-utf8"}
    assert list(rows_of(manifest)) == ["folder/good.wav#0"]


def test_parts_of_recordings(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    wave = voice(3.0, 44_100)
    write(tmp_path / "wav" / "r1.flac", wave, 44_100)
    (src / "wav.scp").write_text("r1 ../wav/r1.flac\n")
    (src / "text").write_text("u1 one\nu2 two\nu3 three\nu4 four\nu5 five\n")
    (src / "segments").write_text("u1 r1 0.5 1.25\nu2 r1 1.25 3.2\nu3 r1 2.0 9.0\nu4 r1 -1 2\nu5 r1 3.0 3.5\n")
    manifest = ingest(src, tmp_path / "out", IngestConfig(name="calls"))
    rows = rows_of(manifest)
    assert list(rows) == ["calls/r1.flac#500-1250", "calls/r1.flac#1250-3200"]
    assert [row["duration_s"] for row in rows.values()] == [0.75, pytest.approx(1.75)]
    assert set(rejections(manifest).values()) == {"outside-audio"}
    assert manifest.location == {"root": "../wav"}
    whole = open_row_audio(manifest, {**rows["calls/r1.flac#500-1250"], "offset_s": 0.0, "duration_s": 3.0})
    part = open_row_audio(manifest, rows["calls/r1.flac#500-1250"])
    np.testing.assert_allclose(part, whole[8_000:20_000], atol=2e-6)


def ten_hours(path: Path, rate: int) -> Path:
    """Ten hours of digital silence with 50 s of speech at either end, as a sparse file (at 16 kHz: 3 MB of 1.15 GB)."""
    size = 36_000 * 2 * rate
    with path.open("wb") as file:
        file.write(b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\x01\0\x01\0")
        file.write(rate.to_bytes(4, "little") + (2 * rate).to_bytes(4, "little") + b"\x02\0\x10\0data")
        file.write(size.to_bytes(4, "little"))
        speech = (voice(50.0, rate) * 32_767).astype("<i2").tobytes()
        file.write(speech)
        file.seek(44 + size - len(speech))
        file.write(speech)
    return path


def test_ten_hours_need_segmentation(tmp_path):
    (tmp_path / "src").mkdir()
    ten_hours(tmp_path / "src" / "day.wav", 2_000)
    with pytest.raises(LstError, match=r"every row was rejected.*1 too-long.*36000\.0 s"):
        ingest(tmp_path / "src", tmp_path / "out", IngestConfig())


@pytest.mark.slow
def test_ten_hours_are_cut_in_bounded_memory(tmp_path):
    import tracemalloc

    (tmp_path / "src").mkdir()
    ten_hours(tmp_path / "src" / "day.wav", 16_000)
    tracemalloc.start()
    manifest = ingest(tmp_path / "src", tmp_path / "out", IngestConfig(segment="energy"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert manifest.totals["hours"] * 3600 == pytest.approx(100, abs=1)
    assert list(rows_of(manifest))[-1].endswith("-36000000")
    assert peak < 150e6  # the samples would be 2.3 GB


def test_segments_are_traceable_to_their_recording(tmp_path):
    src = tmp_path / "src"
    pause = np.random.default_rng(0).standard_normal((16_000, 1)).astype(np.float32) * 3e-4
    blip = [pause, pause, voice(0.15), pause, pause]
    wave = np.concatenate([voice(2.0), pause, voice(3.0, seed=1), *blip, voice(2.0, seed=2)])
    write(src / "long.wav", wave)
    (src / "long.txt").write_text("a transcript of it all")
    write(src / "short.wav", voice(2.0))
    (src / "short.txt").write_text("its own transcript")
    config = IngestConfig(max_s=4.0, min_s=0.5, segment="energy")
    manifest = ingest(src, tmp_path / "out", config)
    rows = rows_of(manifest)
    assert rows.pop("folder/short.wav#0")["text"] == "its own transcript"
    assert len(rows) == 3
    end = 0
    for key, row in rows.items():
        start, stop = map(int, key.rsplit("#", 1)[1].split("-"))
        assert (start, stop) == (round(row["offset_s"] * 1000), round((row["offset_s"] + row["duration_s"]) * 1000))
        assert start >= end
        end = stop
        assert row["text"] == ""
        assert np.abs(open_row_audio(manifest, row)).max() > 0.1
    assert manifest.rejected == {"too-short": 1}
    assert manifest.totals["silence_hours"] * 3600 == pytest.approx(4.1, abs=0.6)
    needs_text = config.model_copy(update={"require_text": True})
    assert rejections(ingest(src, tmp_path / "out2", needs_text)) == {"folder/long.wav#0": "too-long"}


def test_no_audio_is_one_clear_sentence(tmp_path):
    with pytest.raises(LstError, match="does not exist"):
        ingest_spec(tmp_path / "none", IngestConfig())
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "notes.txt").write_text("no audio here")
    with pytest.raises(LstError, match=r"No recordings found in .*src \(looked for \.flac, \.mp3, .*\.wav\)"):
        ingest_spec(tmp_path / "src", IngestConfig())
    (tmp_path / "src" / "talk.m4a").write_bytes(b"x")
    with pytest.raises(LstError, match=r"talk\.m4a would have to be converted"):
        ingest_spec(tmp_path / "src", IngestConfig())
    with pytest.raises(LstError, match=r"metadata\.csv does not exist") as caught:
        ingest_spec(tmp_path / "src", IngestConfig(corpus="ljspeech"))
    assert "ljspeech" in str(caught.value)


def make_many(src: Path, count: int = 150) -> Path:
    for index in range(count):
        write(src / f"s{index % 7}" / f"{index:03d}.wav", voice(0.25 + 0.01 * (index % 9), seed=index))
        (src / f"s{index % 7}" / f"{index:03d}.txt").write_text(f"utterance number {index}")
    (src / "s0" / "000.wav").write_bytes(b"broken")
    return src


def test_workers_do_not_change_the_bytes(tmp_path):
    src = make_many(tmp_path / "src")
    steps: list[tuple[int, int, str]] = []
    one = ingest(src, tmp_path / "one", IngestConfig(), workers=1, progress=lambda *step: steps.append(step))
    assert steps == [(150, 150, "hashed"), *((done, 3, "shards") for done in range(4))]
    two = ingest(src, tmp_path / "two", IngestConfig(), workers=2)
    assert len(one.shards) == 3
    assert one.rows == 149
    assert one.id == two.id
    assert contents(one.path) == contents(two.path)


def test_a_killed_ingestion_continues(tmp_path):
    src = make_many(tmp_path / "src")
    whole = ingest(src, tmp_path / "whole", IngestConfig())
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from lst.audio.stage import IngestConfig, ingest\n"
        "def stop(done, total, unit):\n"
        "    if done == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "ingest(Path(sys.argv[1]), Path(sys.argv[2]), IngestConfig(), progress=stop)\n"
    )
    command = [sys.executable, "-c", script, str(src), str(tmp_path / "killed")]
    assert subprocess.run(command, check=False).returncode == -9
    assert not (tmp_path / "killed").exists()
    steps: list[tuple[int, str]] = []
    resumed = ingest(
        src, tmp_path / "killed", IngestConfig(), progress=lambda done, _, unit: steps.append((done, unit))
    )
    # Files a few seconds old are hashed again (their time of change does not prove anything yet); shards are not made.
    assert [done for done, unit in steps if unit == "shards"] == [2, 3]
    assert contents(resumed.path) == contents(whole.path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "src", "whole"]


def test_the_id_is_of_the_content_not_of_the_place(tmp_path):
    src = table(tmp_path / "src", "x.wav\thello\tann")
    write(src / "x.wav", voice(0.5))
    spec = ingest_spec(src, IngestConfig())
    moved = shutil.copytree(src, tmp_path / "far" / "away")
    assert ingest_spec(moved, IngestConfig()).id == spec.id
    assert ingest_spec(src, IngestConfig(corpus="tsv")).id == spec.id
    assert ingest_spec(src, IngestConfig(min_s=0.1)).id != spec.id

    manifest = ingest(src, tmp_path / "out", IngestConfig())
    assert manifest.id == spec.id
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    assert ingest(moved, tmp_path / "out", IngestConfig()).id == spec.id
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before

    table(moved, "x.wav\tgoodbye\tann")
    changed = ingest_spec(moved, IngestConfig())
    assert changed.id != spec.id
    with pytest.raises(LstError, match="other inputs or settings"):
        ingest(moved, tmp_path / "out", IngestConfig())
    assert ingest(moved, tmp_path / "out", IngestConfig(), force=True).id == changed.id
    write(moved / "x.wav", voice(0.5, seed=9))
    assert ingest_spec(moved, IngestConfig()).id != changed.id


def test_planning_imports_no_torch(tmp_path):
    src = table(tmp_path / "src", "x.wav\thello\tann")
    write(src / "x.wav", voice(0.5))
    script = (
        "import sys; from pathlib import Path; from lst.audio.stage import IngestConfig, ingest_spec;"
        "ingest_spec(Path(sys.argv[1]), IngestConfig());"
        "heavy = {'torch', 'torchaudio', 'pyarrow', 'soundfile'} & set(sys.modules); assert not heavy, heavy"
    )
    environment = {**os.environ, "HOME": "/nonexistent"}
    environment.pop("LST_CACHE")
    subprocess.run([sys.executable, "-c", script, str(src)], check=True, env=environment)


def test_corpus_json_names_the_rows_and_their_licences(tmp_path):
    src = table(tmp_path / "src", "a/x.wav\thello\t", "b/x.wav\thello\t")
    for name in ("a/x.wav", "b/x.wav"):
        write(src / name, voice(0.5))
    parts = [{"corpus": f"Corpus {part}", "licence": "CC0", "path": part} for part in "abc"]
    card = {"name": "mixed", "language": "de", "provenance": parts}
    (src / "corpus.json").write_text(json.dumps(card))
    spec = ingest_spec(src, IngestConfig())
    assert [entry["corpus"] for entry in spec.provenance] == ["Corpus a", "Corpus b"]
    assert (spec.config["name"], spec.config["language"]) == ("mixed", "de")
    parts[0]["licence"] = "CC BY 4.0"
    (src / "corpus.json").write_text(json.dumps(card))
    assert ingest_spec(src, IngestConfig()).id != spec.id
    assert ingest_spec(src, IngestConfig(name="mine")).config["name"] == "mine"
    for wrong, message in (("{", "cannot be read as JSON"), ('{"nam": 1}', "provenance: Field required")):
        (src / "corpus.json").write_text(wrong)
        with pytest.raises(LstError, match=message):
            ingest_spec(src, IngestConfig())


def test_rows_do_not_leave_the_source_and_notice_changes(tmp_path):
    src = table(tmp_path / "src", "x.wav\thello\t")
    write(src / "x.wav", voice(0.5))
    manifest = ingest(src, tmp_path / "out", IngestConfig())
    (row,) = iter_rows(manifest)
    for path in ("../secret.wav", "/etc/passwd", "a/../../x.wav"):
        with pytest.raises(LstError, match="outside the recordings"):
            row_audio_path(manifest, {**row, "audio_path": path})
    write(src / "x.wav", voice(0.5, seed=5))
    with pytest.raises(AudioError) as caught:
        open_row_audio(manifest, row)
    assert caught.value.reason == "audio-changed"
    (src / "x.wav").unlink()
    with pytest.raises(AudioError) as caught:
        open_row_audio(manifest, row)
    assert caught.value.reason == "audio-missing"


def test_manifest_and_source_move_together(tmp_path):
    src = table(tmp_path / "here" / "src", "x.wav\thello\t")
    write(src / "x.wav", voice(0.5))
    ingest(src, tmp_path / "here" / "out", IngestConfig())
    shutil.move(tmp_path / "here", tmp_path / "there")
    manifest = load_manifest(tmp_path / "there" / "out")
    (row,) = iter_rows(manifest)
    assert len(open_row_audio(manifest, row)) == 8_000
    assert relative_root(Path("/data/corpus"), Path("/home/me/out")) == "/data/corpus"


def test_archived_recordings_open_and_are_verified(tmp_path):
    import io
    import tarfile

    import soundfile

    src = tmp_path / "src"
    (src / "clean").mkdir(parents=True)
    buffer = io.BytesIO()
    soundfile.write(buffer, voice(0.5), 16_000, format="FLAC")
    tar = src / "clean" / "000.tar"
    with tarfile.open(tar, "w") as archive:
        for name in ("a.flac", "b.flac"):
            info = tarfile.TarInfo(name)
            info.size = len(buffer.getvalue())
            archive.addfile(info, io.BytesIO(buffer.getvalue()))
    data = {"training_data": {"name": ["a.flac", "b.flac"], "label": ["one", "two"]}}
    (src / "clean.json").write_text(json.dumps(data))
    manifest = ingest(src, tmp_path / "out", IngestConfig())
    rows = rows_of(manifest)
    assert list(rows) == ["peoples-speech/clean/000.tar/a.flac#0", "peoples-speech/clean/000.tar/b.flac#0"]
    assert manifest.provenance[0]["corpus"] == "People's Speech"
    row = rows["peoples-speech/clean/000.tar/b.flac#0"]
    assert len(open_row_audio(manifest, row)) == 8_000
    body = bytearray(tar.read_bytes())
    body[int(row["audio_path"].split("!")[1].split("+")[0]) + 300] ^= 1
    tar.write_bytes(body)
    with pytest.raises(AudioError) as caught:
        open_row_audio(manifest, row)
    assert caught.value.reason == "audio-changed"


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    import errno

    from lst.audio.plan import Plan

    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    src = table(tmp_path / "src", "x.wav\thello\t")
    write(src / "x.wav", voice(0.5))
    monkeypatch.setattr(Plan, "save", full)
    with pytest.raises(LstError, match="No space left"):
        ingest(src, tmp_path / "out", IngestConfig())


def test_the_configuration_checks_itself():
    with pytest.raises(ValueError, match="min_s"):
        IngestConfig(min_s=5.0, max_s=1.0)
    with pytest.raises(ValueError, match="corpus"):
        IngestConfig(corpus="librispech")
