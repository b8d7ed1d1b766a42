"""Reading documents: formats, enormous lines, broken bytes, in bounded memory."""

import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lst.errors import LstError
from lst.text.documents import Document, read_documents, split_text, text_files


def documents(path: Path, content: bytes, **options: object) -> list[Document]:
    path.write_bytes(content)
    return list(read_documents(path, **options))  # type: ignore[arg-type]


def test_a_document_a_line(tmp_path: Path) -> None:
    found = documents(tmp_path / "a.txt", b"\xef\xbb\xbfOne.\r\n\n  \nTwo two.\nlast")
    assert [(item.id, item.text) for item in found] == [("1", "One."), ("4", "Two two."), ("5", "last")]


def test_paragraphs(tmp_path: Path) -> None:
    found = documents(tmp_path / "a.txt", b"a\nb\n\n\nc\n", separator="blank-line")
    assert [(item.id, item.text) for item in found] == [("1", "a\nb"), ("5", "c")]
    found = documents(tmp_path / "a.txt", b"one two. " * 30 + b"\nx\n\ny", separator="blank-line", max_chars=100)
    assert all(len(item.text) <= 100 for item in found)
    assert [item.text for item in found][-1] == "y"
    assert len({item.id for item in found}) == len(found)


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": "Hello.", "licence": "CC0", "source": "here", "id": 7}),
        "{broken",
        json.dumps({"no": "text"}),
        json.dumps({"text": "  "}),
        json.dumps(["text"]),
        '{"text": "half \\ud800"}',
        '{"text": "ok", "id": "\\ud800"}',
        "[" * 100_000,
    ]
    found = documents(tmp_path / "a.jsonl", "\n".join(lines).encode() + b"\n\xff\xfe\n")
    assert found[0] == Document("1:7", "Hello.", "CC0", "here")
    reasons = ["", "invalid-json", "no-text", "no-text", "no-text", "invalid-utf8", "", "invalid-json", "invalid-utf8"]
    assert [item.reason for item in found] == reasons
    found[6].id.encode()


def test_long_json_line_is_rejected_and_the_next_one_read(tmp_path: Path) -> None:
    long = json.dumps({"text": "a" * 50_000})
    found = documents(tmp_path / "a.jsonl", f'{long}\n{{"text": "b"}}\n'.encode(), max_chars=100)
    assert [item.reason for item in found] == ["line-too-long", ""]


def test_invalid_utf8_costs_only_its_line(tmp_path: Path) -> None:
    found = documents(tmp_path / "a.txt", "gut\nschl\xe9cht\nüber\n".encode("latin-1") + "ja ä\n".encode())
    assert [(item.reason, item.text) for item in found if not item.reason] == [("", "gut"), ("", "ja ä")]
    assert sum(item.reason == "invalid-utf8" for item in found) == 2
    found = documents(tmp_path / "a.txt", "ok\nab€".encode()[:-1])
    assert [item.reason for item in found] == ["", "invalid-utf8"]


def test_one_enormous_line_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    sentence = "Es war einmal ein süßes Mädchen. "
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(50):
            file.write((sentence * 1000).encode())
    tracemalloc.start()
    words = 0
    for item in read_documents(path, max_chars=10_000):
        assert not item.reason
        assert 0 < len(item.text) <= 10_000
        assert item.text.endswith(".")
        words += len(item.text.split())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert words == 50 * 1000 * 6
    assert peak < 1e6


def test_damaged_gzip_gives_what_is_readable(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
        for index in range(20_000):
            file.write(f"document number {index * 7919 % 1000003}\n".encode())
    found = documents(tmp_path / "a.txt.gz", buffer.getvalue()[:-2000])
    assert found[-1].reason == "file-damaged"
    assert len(found) > 1000
    assert not any(item.reason for item in found[:-1])
    assert [item.reason for item in documents(tmp_path / "b.txt.gz", b"no gzip")] == ["file-damaged"]


@given(st.text(max_size=400), st.integers(5, 50))
def test_split_text_loses_only_spaces(text: str, limit: int) -> None:
    parts = split_text(text, limit)
    assert all(0 < len(part) <= limit for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_files(tmp_path: Path) -> None:
    with pytest.raises(LstError, match="does not exist"):
        text_files(tmp_path / "none")
    with pytest.raises(LstError, match="holds no text file"):
        text_files(tmp_path)
    for name in ("b.txt", "a/c.jsonl.gz", "a/.hidden.txt", ".git/x.txt", "d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [path.relative_to(tmp_path).as_posix() for path in text_files(tmp_path)] == ["a/c.jsonl.gz", "b.txt"]
    with pytest.raises(LstError, match="not one of"):
        text_files(tmp_path / "d.csv")
