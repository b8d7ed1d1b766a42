"""Documents out of text files, in bounded memory: `.txt` (a line or a paragraph each), `.jsonl`, plain or gzipped."""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from lst.errors import LstError

EXTENSIONS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")

Separator = Literal["line", "blank-line"]

_SENTENCE_ENDS = (". ", "! ", "? ", "\n", '." ', '!" ', '?" ', ".” ", "!” ", "?” ", "。", "！", "？")


@dataclass(frozen=True)
class Document:
    """A document, or, if `reason` is set, why there is none. `id` is unique within its file."""

    id: str
    text: str
    licence: str = ""
    source: str = ""
    reason: str = ""


def text_files(src: Path) -> list[Path]:
    """The text files of `src`: itself, or those below it in a fixed order. Raises LstError if there are none."""
    if not src.exists():
        raise LstError(f"{src} does not exist.", hint="Give a text file or a folder of them.")
    if src.is_file():
        if not src.name.endswith(EXTENSIONS):
            raise LstError(f"{src} is not one of {', '.join(EXTENSIONS)}.", hint="Rename or convert it.")
        return [src]
    found = (path for path in src.rglob("*") if path.name.endswith(EXTENSIONS) and path.is_file())
    visible = [path for path in found if not any(part.startswith(".") for part in path.relative_to(src).parts)]
    if not visible:
        raise LstError(f"{src} holds no text file.", hint=f"Text files end in {', '.join(EXTENSIONS)}.")
    return sorted(visible, key=lambda path: path.relative_to(src).as_posix())


def read_documents(path: Path, *, separator: Separator = "line", max_chars: int = 100_000) -> Iterator[Document]:
    """Documents of one file, in order.

    `.txt`: one a line, or (separator `blank-line`) one a paragraph. `.jsonl`: one object a line with `text` and
    optionally `id`, `licence`, `source`. A document above `max_chars` characters becomes several, cut after a sentence
    where there is one. What cannot be used comes as a Document with a `reason`: invalid-utf8, invalid-json, no-text,
    line-too-long (JSON only), or file-damaged (the rest of a broken gzip file). Empty lines are no documents.
    Memory: a few times `max_chars`.
    """
    with _open(path) as stream:
        try:
            if ".jsonl" in path.suffixes:
                yield from _json_documents(stream, max_chars)
            elif separator == "line":
                yield from _line_documents(stream, max_chars)
            else:
                yield from _paragraph_documents(stream, max_chars)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield Document("end", f"{path.name} is damaged here: {error}", reason="file-damaged")


def split_text(text: str, max_chars: int) -> list[str]:
    """Cut a text into parts of at most `max_chars`, after sentences, else between words, else anywhere."""
    parts = []
    while len(text) > max_chars:
        cut = _cut(text, max_chars)
        parts.append(text[:cut].strip())
        text = text[cut:]
    return [part for part in [*parts, text.strip()] if part]


def _cut(text: str, limit: int) -> int:
    """Where to cut, so that the first part has 1 .. limit characters."""
    for marks in (_SENTENCE_ENDS, (" ",)):
        ends = [at + len(mark) for mark in marks if (at := text.rfind(mark, limit // 2, limit)) >= 0]
        if ends:
            return min(limit, max(ends))
    return limit


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        try:
            stream: IO[bytes] = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise LstError(f"Cannot read {path}: {error.strerror or error}.") from error
        if path.suffix == ".gz":
            unpacked: Any = gzip.GzipFile(fileobj=stream)
            stream = stack.enter_context(unpacked)
        yield stream


def _lines(stream: IO[bytes], limit: int) -> Iterator[tuple[int, bytes, bool]]:
    """(line number from 1, at most `limit` bytes of it, whether that is its end)."""
    number = 1
    while chunk := stream.readline(limit):
        ended = chunk.endswith(b"\n")
        yield number, chunk, ended
        number += ended


def _decoded(stream: IO[bytes], limit: int) -> Iterator[tuple[int, str | None, bool]]:
    """As `_lines`, decoded and without line ends; None once for a line that is not UTF-8, whose rest is skipped."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    broken = False
    for number, chunk, ended in _lines(stream, limit):
        if number == 1:
            chunk = chunk.removeprefix(codecs.BOM_UTF8)
        if not broken:
            try:
                text = decoder.decode(chunk, final=ended)
            except UnicodeDecodeError:
                broken = True
                yield number, None, ended
            else:
                yield number, text.rstrip("\r\n") if ended else text, ended
        if ended:
            broken = False
            decoder.reset()
    if not broken and decoder.getstate()[0]:
        yield number, None, True  # the file ends within a character


def _line_documents(stream: IO[bytes], max_chars: int) -> Iterator[Document]:
    buffer, current, part = "", 0, 0
    for number, text, ended in _decoded(stream, 4 * max_chars):
        if number != current:
            buffer, current, part = "", number, 0
        if text is None:
            yield Document(str(number), f"line {number} is not UTF-8", reason="invalid-utf8")
            buffer = ""
            continue
        buffer += text
        while len(buffer) > max_chars or (ended and buffer):
            cut = _cut(buffer, max_chars) if len(buffer) > max_chars else len(buffer)
            piece, buffer = buffer[:cut].strip(), buffer[cut:]
            part += 1
            if piece:
                yield Document(str(number) if part == 1 else f"{number}.{part}", piece)
    if buffer.strip():  # the last line has no line end
        yield Document(str(current) if part == 0 else f"{current}.{part + 1}", buffer.strip())


def _paragraph_documents(stream: IO[bytes], max_chars: int) -> Iterator[Document]:
    buffer, first, part = "", 0, 0
    for number, text, ended in _decoded(stream, 4 * max_chars):
        if text is None:
            yield Document(str(number), f"line {number} is not UTF-8", reason="invalid-utf8")
            continue
        if not text.strip() and ended:
            if buffer.strip():
                yield Document(str(first) if part == 0 else f"{first}.{part + 1}", buffer.strip())
            buffer, part = "", 0
            continue
        if not buffer and part == 0:
            first = number
        buffer += text + ("\n" if ended else "")
        while len(buffer) > max_chars:
            cut = _cut(buffer, max_chars)
            piece, buffer = buffer[:cut].strip(), buffer[cut:]
            part += 1
            if piece:
                yield Document(str(first) if part == 1 else f"{first}.{part}", piece)
    if buffer.strip():
        yield Document(str(first) if part == 0 else f"{first}.{part + 1}", buffer.strip())


def _json_documents(stream: IO[bytes], max_chars: int) -> Iterator[Document]:
    # A JSON line cannot be cut; escapes may take six bytes a character, and 64 documents in a line are enough.
    limit = 6 * 64 * max_chars
    skipping = False
    for number, chunk, ended in _lines(stream, limit):
        if skipping or (not ended and len(chunk) == limit):
            if not skipping:
                yield Document(str(number), f"line {number} has more than {limit} bytes", reason="line-too-long")
            skipping = not ended
            continue
        if chunk.strip():
            yield from _json_line(number, chunk, max_chars)


def _json_line(number: int, line: bytes, max_chars: int) -> Iterator[Document]:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield Document(str(number), f"line {number} is not UTF-8", reason="invalid-utf8")
        return
    try:
        entry: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield Document(str(number), f"line {number}: {error}", reason="invalid-json")
        return
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        yield Document(str(number), f'line {number} has no "text"', reason="no-text")
        return
    try:
        entry["text"].encode("utf-8")
    except UnicodeEncodeError:
        yield Document(str(number), f"line {number} has half a surrogate pair", reason="invalid-utf8")
        return
    parts = split_text(entry["text"], max_chars)
    if not parts:
        yield Document(str(number), f"line {number}: the text is empty", reason="no-text")
    own = entry.get("id")
    name = str(number) if own is None else f"{number}:{_label(own)}"
    licence = _label(entry.get("licence") or entry.get("license") or "")
    source = _label(entry.get("source") or "")
    for part, piece in enumerate(parts, 1):
        yield Document(name if part == 1 else f"{name}.{part}", piece, licence, source)


def _label(value: Any) -> str:
    """A short string that can be stored, whatever the JSON value."""
    return str(value)[:200].encode("utf-8", "replace").decode("utf-8")
