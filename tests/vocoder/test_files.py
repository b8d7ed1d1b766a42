"""Names of sound files, and files of units."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from lst.errors import LstError
from lst.vocoder.files import UnitList, read_units_file, wav_name, write_wav


@given(ids=st.lists(st.text(), min_size=2, max_size=5, unique=True))
def test_names_are_safe_and_apart(ids: list[str]) -> None:
    names = [wav_name(row_id) for row_id in ids]
    assert len({name.lower() for name in names}) == len(ids)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*\.[0-9a-f]{12}\.wav", name) or name.startswith("wave.")
        assert len(name) <= 90


@pytest.mark.parametrize("row_id", ["../../etc/passwd", "/absolute#0", "..", "", "a" * 5000, "con", "ключ/файл.wav#3"])
def test_no_name_leaves_the_directory(row_id: str) -> None:
    name = wav_name(row_id)
    assert Path(name).name == name
    assert not name.startswith(".")


def test_names_stay_readable() -> None:
    assert re.fullmatch(r"LibriSpeech_dev_84_121123_84-121123-0001_flac-0\.[0-9a-f]{12}\.wav", wav_name(
        "LibriSpeech/dev/84/121123/84-121123-0001.flac#0"
    ))  # fmt: skip


def test_wav_is_16_bit_and_clipped(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([0, 0.5, 1.5, -1.5], np.float32), 16000)
    pcm, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert rate == 16000
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    assert pcm.tolist() == [0, 16384, 32767, -32768]
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("17 17 402\n", UnitList("u", [17, 17, 402])),
        ("17,17;402\n3\n\n", UnitList("u", [17, 17, 402, 3])),
        ("[17, 402]", UnitList("u", [17, 402])),
        ('{"units": [17, 402], "tokenizer": "mfcc-501"}', UnitList("u", [17, 402], "mfcc-501")),
        (' {"units": [], "tokenizer": null}', UnitList("u", [])),
        ("", UnitList("u", [])),
    ],
)
def test_units_from_files(tmp_path: Path, text: str, expected: UnitList) -> None:
    path = tmp_path / "u.txt"
    path.write_text(text)
    assert read_units_file(path) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"17 x 3", r"line 1: 'x' is not a unit"),
        (b"17\n-3", r"line 2: '-3' is not a unit"),
        (b"1.5", r"'1\.5' is not a unit"),
        (b"99999999999999999999", "is not a unit"),
        (b'{"units": [1, "a"]}', r"entry 1 of units is 'a'"),
        (b'{"units": [true]}', r"entry 0 of units is 'True'"),
        (b'{"unit": [1]}', "no list called units"),
        (b'{"units": 7}', "no list called units"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe1", "not text"),
    ],
)
def test_files_that_are_not_units(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "u.txt"
    path.write_bytes(content)
    with pytest.raises(LstError, match=message):
        read_units_file(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LstError, match="cannot be read"):
        read_units_file(tmp_path)
