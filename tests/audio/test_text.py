"""Transcripts of any length and encoding."""

import pytest

from lst.audio.text import (
    LONGEST_LINE,
    clean_text,
    expected_script,
    read_lines,
    read_text,
    script_share,
)
from lst.errors import LstError


def test_lines_end_at_newlines_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\n  \ntwo\u2028still two\x0bstill\nthree".encode())
    lines = list(read_lines(path))
    assert [(line.number, line.text) for line in lines] == [
        (1, "one"),
        (4, "two\u2028still two\x0bstill"),
        (5, "three"),
    ]
    assert all(line.problem is None for line in lines)


def test_one_enormous_line_is_skipped_in_bounded_memory(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"id " + b"x" * (3 * LONGEST_LINE) + b"\nnext line\n" + b"y" * (LONGEST_LINE + 5))
    lines = list(read_lines(path))
    assert [line.problem and line.problem[0] for line in lines] == ["text-too-long", None, "text-too-long"]
    assert lines[0].text.startswith("id xxx")
    assert len(lines[0].text) <= 4096
    assert lines[1].text == "next line"


def test_a_line_of_just_the_limit(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * (LONGEST_LINE - 1) + b"\nb\n")
    assert [(len(line.text), line.problem) for line in read_lines(path)] == [(LONGEST_LINE - 1, None), (1, None)]


def test_invalid_utf8_spoils_its_own_line_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"k1 fine\nk2 caf\xe9\nk3 caf\xc3\xa9\n")
    first, second, third = read_lines(path)
    assert first.problem is third.problem is None
    assert second.text.startswith("k2 caf")
    assert second.problem == ("invalid-utf8", "a.txt, line 2: byte 0xe9 at 6 is not UTF-8")


def test_utf16_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("k1 text".encode("utf-16"))
    with pytest.raises(LstError, match="UTF-16"):
        list(read_lines(path))


def test_whole_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf two\nlines \n")
    assert read_text(path) == ("two lines", None)
    path.write_bytes(b"a" * (LONGEST_LINE + 1))
    assert read_text(path)[1][0] == "text-too-long"
    path.write_bytes(b"\xff")
    assert read_text(path)[1][0] == "invalid-utf8"
    assert read_text(tmp_path / "none.txt")[1] == ("transcript-unreadable", "none.txt: No such file or directory")
    with pytest.raises(LstError, match="cannot be read"):
        list(read_lines(tmp_path))


def test_texts_without_words_are_none():
    assert clean_text(" ... —\t") == ""
    assert clean_text("  8  \n pages ") == "8 pages"


@pytest.mark.parametrize(
    ("text", "script", "share"),
    [
        ("Hello, world", "latin", 1.0),
        ("café naïve ﬁne", "latin", 1.0),
        ("Привет мир", "latin", 0.0),
        ("Привет мир", "cyrillic", 1.0),
        ("1984, 8!", "latin", 1.0),
        ("今日は good", "japanese", 3 / 7),
        ("你好", "han", 1.0),
    ],
)
def test_scripts(text, script, share):
    assert script_share(text, script) == pytest.approx(share)


def test_the_script_follows_the_language():
    assert expected_script("auto", "en-US") == "latin"
    assert expected_script("auto", "ru") == "cyrillic"
    assert expected_script("auto", "xx") is None
    assert expected_script("any", "en") is None
    assert expected_script("greek", "en") == "greek"
