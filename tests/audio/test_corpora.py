"""Every corpus layout, made small."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from lst.audio import AudioError, probe, read_audio
from lst.audio.containers import container_of, readable_name
from lst.audio.corpora import READERS, Utterance, find_reader
from lst.errors import LstError, UsageError
from tests.audio.conftest import voice, write

BRIEF = voice(0.3)


def relative(src: Path, utterances) -> list[tuple]:
    """(path below src, text, speaker, reason) of utterances."""
    return [
        (
            Path(readable_name(one.audio)).relative_to(src).as_posix(),
            one.text,
            one.speaker,
            one.problem and one.problem[0],
        )
        for one in utterances
    ]


def read(src: Path, name: str) -> list[Utterance]:
    assert find_reader("auto", src).name == name
    return list(READERS[name].read(src))


def test_librispeech(tmp_path):
    chapter = tmp_path / "dev-clean" / "84" / "121123"
    write(chapter / "84-121123-0000.flac", BRIEF)
    write(chapter / "84-121123-0002.flac", BRIEF)
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT IN LESS\n")
    (tmp_path / "SPEAKERS.TXT").write_text("; a comment\n84 | F | dev-clean | 8.02 | Christie Nowak\n")
    write(tmp_path / "dev-clean" / "84" / "121123" / "._84-121123-0000.flac", BRIEF)
    assert relative(tmp_path, read(tmp_path, "librispeech")) == [
        ("dev-clean/84/121123/84-121123-0000.flac", "GO DO YOU HEAR", "84", None),
        ("dev-clean/84/121123/84-121123-0001.flac", "BUT IN LESS", "84", None),
        ("dev-clean/84/121123/84-121123-0002.flac", "", "84", None),
    ]


def test_librilight(tmp_path):
    book = tmp_path / "small" / "100" / "sea_fairies_0812_librivox_64kb_mp3"
    for name in ("01_baum", "02_baum", "03_baum"):
        write(book / f"{name}.flac", BRIEF)
    (book / "01_baum.json").write_text(json.dumps({"speaker": "100", "book_meta": {}, "voice_activity": [[0.1, 9.3]]}))
    (book / "02_baum.json").write_text("{damaged")
    (book / "02_baum.txt").write_text("from a recogniser")
    place = "small/100/sea_fairies_0812_librivox_64kb_mp3"
    assert relative(tmp_path, read(tmp_path, "librilight")) == [
        (f"{place}/01_baum.flac", "", "100", None),
        (f"{place}/02_baum.flac", "from a recogniser", "100", None),
        (f"{place}/03_baum.flac", "", "100", None),
    ]


def test_mls(tmp_path):
    split = tmp_path / "mls_german_opus" / "train"
    write(split / "audio" / "4800" / "10003" / "4800_10003_000000.opus", BRIEF)
    write(split / "audio" / "4800" / "10003" / "4800_10003_000007.opus", BRIEF)
    (split / "transcripts.txt").write_text(
        "4800_10003_000000\tguten tag\n4800_10003_000001\tauf wiedersehen\n../escape\tnein\n"
    )
    (split / "segments.txt").write_text("4800_10003_000000\thttp://example.org/a.mp3\t0.0\t0.3\n")
    utterances = read(tmp_path, "mls")
    assert {one.language for one in utterances if not one.problem} == {"de"}
    place = "mls_german_opus/train/audio"
    assert relative(tmp_path, utterances) == [
        (f"{place}/4800/10003/4800_10003_000000.opus", "guten tag", "4800", None),
        (f"{place}/4800/10003/4800_10003_000001.flac", "auf wiedersehen", "4800", None),
        (f"{place}/.._escape", "", "", "bad-line"),
        (f"{place}/4800/10003/4800_10003_000007.opus", "", "4800", None),
    ]


def test_peoples_speech_parquet(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, BRIEF, 16_000, format="FLAC")
    audio = [{"bytes": buffer.getvalue(), "path": f"{i}.flac"} for i in range(5)]
    table = pa.table(
        {"id": [str(i) for i in range(5)], "audio": audio, "duration_ms": [300] * 5, "text": list("abcde")}
    )
    (tmp_path / "clean").mkdir()
    path = tmp_path / "clean" / "train-00000-of-00002.parquet"
    pq.write_table(table, path, row_group_size=2)
    utterances = read(tmp_path, "peoples-speech")
    name = "clean/train-00000-of-00002.parquet"
    assert relative(tmp_path, utterances) == [(f"{name}/{i}", "abcde"[i], "", None) for i in range(5)]
    assert container_of(utterances[3].audio) == str(path)
    for one in (utterances[4], utterances[1]):
        assert probe(one.audio).frames == len(BRIEF)
        np.testing.assert_allclose(read_audio(one.audio), BRIEF[:, 0], atol=1e-4)
    with pytest.raises(AudioError) as caught:
        read_audio(f"{path}!5")
    assert caught.value.reason == "audio-missing"


def test_peoples_speech_tar_and_folder(tmp_path):
    train = tmp_path / "train"
    (train / "clean").mkdir(parents=True)
    buffer = io.BytesIO()
    soundfile.write(buffer, BRIEF, 16_000, format="FLAC")
    with tarfile.open(train / "clean" / "clean_000000.tar", "w") as archive:
        for name in ("./a.flac", "show/b.flac"):
            info = tarfile.TarInfo(name)
            info.size = len(buffer.getvalue())
            archive.addfile(info, io.BytesIO(buffer.getvalue()))
    write(train / "clean" / "c.flac", BRIEF)
    data = {"duration_ms": [300] * 4, "label": ["one", "two", "three", "four"]}
    data["name"] = ["a.flac", "show/b.flac", "c.flac", "gone.flac"]
    lines = [json.dumps({"identifier": "x", "training_data": data}), '{"training_data": {"name": []}}', "{broken"]
    (train / "clean.json").write_text("\n".join(lines))
    (train / "clean_000000.json").write_text(lines[0])  # a list of its own for the first tar
    utterances = read(tmp_path, "peoples-speech")
    assert relative(tmp_path, utterances) == [
        ("train/clean/clean_000000.tar/a.flac", "one", "", None),
        ("train/clean/clean_000000.tar/show/b.flac", "two", "", None),
        ("train/clean/c.flac", "three", "", None),
        ("train/clean/gone.flac", "four", "", None),
        ("train/clean/line-2", "", "", "bad-line"),
        ("train/clean/line-3", "", "", "bad-line"),
    ]
    np.testing.assert_allclose(read_audio(utterances[1].audio), BRIEF[:, 0], atol=1e-4)
    tar = train / "clean" / "clean_000000.tar"
    tar.write_bytes(tar.read_bytes()[:2_000])
    with pytest.raises(AudioError) as caught:
        read_audio(utterances[0].audio)
    assert caught.value.reason == "audio-truncated"


def test_damaged_archives_cost_their_own_rows(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    assert [one.problem[0] for one in READERS["peoples-speech"].read(tmp_path)] == ["audio-unreadable"]
    pq.write_table(pa.table({"sound": [1]}), tmp_path / "a.parquet")
    with pytest.raises(LstError, match="columns sound"):
        list(READERS["peoples-speech"].read(tmp_path))
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "x.tar").write_bytes(b"no tar")
    (tmp_path / "a.parquet").unlink()
    data = {"training_data": {"name": ["a.flac"], "label": ["x"]}}
    (tmp_path / "clean.json").write_text(json.dumps(data))
    assert relative(tmp_path, read(tmp_path, "peoples-speech")) == [("clean/a.flac", "x", "", None)]


def words(*times: float) -> list[dict[str, str]]:
    return [{"startTime": f"{t}s", "endTime": f"{t + 0.4:.3f}s", "word": "word"} for t in times]


def test_spotify(tmp_path):
    audio = tmp_path / "podcasts-audio" / "0" / "0" / "show_00Bn"
    texts = tmp_path / "podcasts-transcripts" / "0" / "0" / "show_00Bn"
    texts.mkdir(parents=True)
    for name in ("ep1", "ep2", "ep3"):
        write(audio / f"{name}.ogg", voice(1.0))
    results = [
        {"alternatives": [{"transcript": "one two", "confidence": 0.9, "words": words(0.5, 1.0)}]},
        {"alternatives": [{"transcript": "three", "words": words(1.5)}]},
        {"alternatives": [{}]},
        {"alternatives": [{"words": [{**words(0.5)[0], "speakerTag": 1}]}]},
    ]
    (texts / "ep1.json").write_text(json.dumps({"results": results}))
    (texts / "ep2.json").write_text('{"results": [{"alternatives": [{"transcript": "x", "words": [{}]}]}]}')
    (texts / "ep4.json").write_text("{}")
    utterances = read(tmp_path, "spotify")
    place = "podcasts-audio/0/0/show_00Bn"
    assert relative(tmp_path, utterances) == [
        (f"{place}/ep1.ogg", "one two", "00Bn", None),
        (f"{place}/ep1.ogg", "three", "00Bn", None),
        (f"{place}/ep2.ogg", "", "00Bn", "bad-line"),
        (f"{place}/ep3.ogg", "", "00Bn", None),
        ("podcasts-transcripts/0/0/show_00Bn/ep4.ogg", "", "00Bn", "audio-missing"),
    ]
    assert [(one.offset_s, one.duration_s) for one in utterances[:2]] == [(0.3, 1.15), (1.45, 0.65)]


def test_ljspeech(tmp_path):
    write(tmp_path / "wavs" / "LJ001-0001.wav", BRIEF, 22_050)
    write(tmp_path / "wavs" / "LJ001-0009.wav", BRIEF, 22_050)
    (tmp_path / "metadata.csv").write_text(
        "LJ001-0001|about 1455,|about fourteen fifty-five,\nLJ001-0002|only one text\nLJ001-0003\n"
    )
    assert relative(tmp_path, read(tmp_path, "ljspeech")) == [
        ("wavs/LJ001-0001.wav", "about fourteen fifty-five,", "linda_johnson", None),
        ("wavs/LJ001-0002.wav", "only one text", "linda_johnson", None),
        ("wavs/LJ001-0003.wav", "", "linda_johnson", None),
        ("wavs/LJ001-0009.wav", "", "linda_johnson", None),
    ]


def test_tsv(tmp_path):
    write(tmp_path / "a" / "x.wav", BRIEF)
    table = tmp_path / "list.tsv"
    table.write_text('File\ttext\tspeaker\tnotes\na/x.wav\tsaid "so"\tann\t-\na/y.wav\tonly two\n\t\t\t\n')
    expected = [("a/x.wav", 'said "so"', "ann", None), ("a/y.wav", "only two", "", "bad-line")]
    assert relative(tmp_path, read(tmp_path, "tsv")) == expected
    assert relative(tmp_path, READERS["tsv"].read(table)) == expected
    assert find_reader("auto", table).name == "tsv"
    (tmp_path / "other.tsv").write_text("file\ttext\n")
    with pytest.raises(LstError, match="several tables"):
        list(READERS["tsv"].read(tmp_path))
    (tmp_path / "a" / "transcripts.tsv").write_text("file\ttext\nx.wav\tbelow\n")
    assert relative(tmp_path, read(tmp_path, "tsv")) == [("a/x.wav", "below", "", None)]
    (tmp_path / "a" / "transcripts.tsv").write_text("path\tsentence\nx.wav\tbelow\n")
    with pytest.raises(LstError, match="no column file and no column text"):
        list(READERS["tsv"].read(tmp_path / "a"))


def test_kaldi(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write(tmp_path / "wav" / "r1.wav", BRIEF)
    (data / "wav.scp").write_text(f"r1 {tmp_path}/wav/r1.wav\nr2 ../wav/r2.wav\n")
    (data / "text").write_text("r1 hello there\nr3 nobody\nr1 again\n")
    (data / "utt2spk").write_text("r1 spk1\n")
    assert relative(tmp_path, read(data, "kaldi")) == [
        ("wav/r1.wav", "hello there", "spk1", "duplicate-id"),
        ("wav/r2.wav", "", "", None),
        ("data/r3", "nobody", "", None),
    ]
    (data / "text").write_text("u1 hello\nu2 there\n")
    (data / "utt2spk").write_text("u1 spk1\nu2 spk2\n")
    (data / "segments").write_text("u1 r1 0.00 0.15\nu2 r1 0.15 0.30\nu3 r1 x\nu4 r9 0 1\n")
    utterances = read(data, "kaldi")
    assert [
        (one.text, one.speaker, one.offset_s, one.duration_s, one.problem and one.problem[0]) for one in utterances
    ] == [
        ("hello", "spk1", 0.0, 0.15, None),
        ("there", "spk2", 0.15, 0.15, None),
        ("", "", 0.0, None, "bad-line"),
        ("", "", 0.0, 1.0, None),
    ]


@pytest.mark.parametrize("entry", ["r1 touch executed; sph2pipe x.sph |", "r1 | touch executed", "r1 audio.ark:15"])
def test_kaldi_commands_are_refused_not_run(tmp_path, entry):
    (tmp_path / "wav.scp").write_text(entry + "\n")
    with pytest.raises(LstError, match="r1 is") as caught:
        list(READERS["kaldi"].read(tmp_path))
    assert caught.value.hint
    assert not (tmp_path / "executed").exists()


def test_folder(tmp_path):
    write(tmp_path / "b" / "x.wav", BRIEF)
    write(tmp_path / "a" / "x.WAV".lower(), BRIEF)
    write(tmp_path / "y.mp3", BRIEF)
    (tmp_path / "b" / "x.txt").write_text("in b\nand more")
    (tmp_path / "y.txt").write_bytes(b"\xff\xfe broken")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert relative(tmp_path, read(tmp_path, "folder")) == [
        ("y.mp3", "\ufffd\ufffd broken", "", "invalid-utf8"),
        ("a/x.wav", "", "", None),
        ("b/x.wav", "in b and more", "", None),
    ]
    assert relative(tmp_path, read(tmp_path / "b" / "x.wav", "folder")) == [("b/x.wav", "in b and more", "", None)]


def test_an_unknown_layout_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="librispech"):
        find_reader("librispech", tmp_path)
