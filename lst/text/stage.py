"""The stage `tokenize-text`: text files -> `lst.text/1`, with the tokenizer as artifact `tokenizer.model`.

1. The documents are read once and spooled in pieces of `documents_per_shard` into the unfinished output.
2. Without a tokenizer of the user's, one is trained on a sample of them.
3. Every piece becomes a shard, in parallel. The spool disappears when the output is committed.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from lst.config import StageConfig
from lst.errors import LstError
from lst.manifest import (
    Manifest,
    Progress,
    Rejection,
    ShardResult,
    StageSpec,
    build_shards,
    existing_output,
    explain_os_errors,
    partial_path,
    sha256_file,
    sha256_json,
    write_atomic,
)
from lst.text.documents import Document, Separator, read_documents, text_files
from lst.text.sources import TextSource, find_source
from lst.text.tokenizer import TOKENIZER_FILE, TextTokenizer

SCHEMA = "lst.text/1"
VERSION = 1
DEFAULT_PIECES = 4096


class TokenizeTextConfig(StageConfig):
    """Which tokenizer, and how files divide into documents."""

    tokenizer: str | None = Field(
        default=None, description="SentencePiece model to use, such as Llama-2's tokenizer.model; empty: train one."
    )
    train_tokenizer: int | None = Field(
        default=None, ge=300, le=65_000, description="Pieces of the tokenizer to train [default: 4096]."
    )
    separator: Separator = Field(
        default="line", description="What ends a document in .txt files: every line, or a blank line."
    )
    max_chars: int = Field(
        default=100_000, ge=100, description="Longer documents are divided after a sentence, in characters."
    )
    valid_fraction: float = Field(
        default=0.01, ge=0, lt=1, description="Share of documents held out as split `valid`, by hash of their text."
    )
    held_out: list[str] = Field(default=[], description="Files and folders held out as a whole, by name.")
    documents_per_shard: int = Field(default=5000, ge=1, description="Documents in a shard.")
    training_mb: int = Field(default=64, ge=1, description="Megabytes of text that a new tokenizer is trained on.")

    @model_validator(mode="after")
    def _one_tokenizer(self) -> "TokenizeTextConfig":
        if self.tokenizer and self.train_tokenizer:
            raise ValueError("give tokenizer or train_tokenizer, not both")
        return self

    def as_json(self) -> dict[str, Any]:
        """The settings; an empty `held_out` is left out: it is what there was before there was the key."""
        return super().as_json() if self.held_out else self.model_dump(mode="json", exclude={"held_out"})


@dataclass(frozen=True)
class ShardTokenizer:
    """Turns one spooled piece into rows. Loads the tokenizer once per process."""

    spool: Path
    tokenizer: Path
    fingerprint: str
    valid_fraction: float
    held_out: tuple[str, ...] = ()

    def __call__(self, piece: int) -> ShardResult:
        """Rows of piece `piece`, in order."""
        tokenizer = _load(self.tokenizer, self.fingerprint)
        rows: list[dict[str, Any]] = []
        rejected = []
        for document in _read_piece(_piece_path(self.spool, piece)):
            if document.reason:
                rejected.append(Rejection(document.id, document.reason, document.text))
                continue
            rows.append(
                {
                    "id": document.id,
                    "text": document.text,
                    "tokens": tokenizer.encode(document.text),
                    "split": "valid" if self._is_valid(document) else "train",
                    "licence": document.licence,
                    "source": document.source,
                }
            )
        totals = {
            "tokens": sum(len(row["tokens"]) for row in rows),
            "words": sum(len(row["text"].split()) for row in rows),
            "characters": sum(len(row["text"]) for row in rows),
            "valid_documents": sum(row["split"] == "valid" for row in rows),
        }
        return ShardResult(rows, rejected, totals)

    def _is_valid(self, document: Document) -> bool:
        """Held out by its file or a folder above it (`source/FOLDER/FILE#1`), or by its text."""
        names = document.id.rsplit("#", 1)[0].split("/")
        return not set(names).isdisjoint(self.held_out) or in_valid_split(document.text, self.valid_fraction)


def in_valid_split(text: str, fraction: float) -> bool:
    """Whether a document is held out: a function of its text alone, so equal texts never fall into both splits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < fraction * 2**64


def tokenize_text_spec(src: Path, config: TokenizeTextConfig) -> StageSpec:
    """What `tokenize_text` would make. Reads the files to hash them; trains nothing."""
    source = find_source(Path(src))
    files = {"text": sha256_json([[name, sha256_file(path)] for name, path in source.named(text_files(Path(src)))])}
    settings = config.as_json()
    fingerprints = {}
    if config.tokenizer:
        fingerprints["text_tokenizer"] = TextTokenizer.from_file(config.tokenizer).fingerprint
        settings["tokenizer"] = TOKENIZER_FILE  # its path does not matter, its fingerprint does
    else:
        settings["train_tokenizer"] = config.train_tokenizer or DEFAULT_PIECES
    return StageSpec(
        schema=SCHEMA,
        stage="tokenize-text",
        version=VERSION,
        config=settings,
        fingerprints=fingerprints,
        provenance=source.provenance,
        files=files,
    )


def tokenize_text(
    src: Path,
    out: Path,
    config: TokenizeTextConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    max_rejected: float = 1.0,
) -> Manifest:
    """Tokenize the documents of a file or folder.

    Rejects documents by reason: invalid-utf8, invalid-json, no-text, line-too-long, file-damaged. Raises LstError if
    there is no text, the tokenizer cannot be used, or more than the share `max_rejected` is rejected.
    """
    src, out = Path(src), Path(out)
    spec = tokenize_text_spec(src, config)
    made = existing_output(out, spec, force=force)
    if made is not None:
        return made
    partial = partial_path(Path(os.path.abspath(out)), spec.id)
    with explain_os_errors(f"creating {partial}"):
        (partial / "spool").mkdir(parents=True, exist_ok=True)
        pieces = _spool(src, partial / "spool", config)
        tokenizer = _settle_tokenizer(partial, pieces, config)
    fingerprint = sha256_file(tokenizer)
    return build_shards(
        out,
        spec,
        range(pieces),
        ShardTokenizer(partial / "spool", tokenizer, fingerprint, config.valid_fraction, tuple(config.held_out)),
        workers=workers,
        progress=progress,
        force=force,
        max_rejected=max_rejected,
        artifacts={TOKENIZER_FILE: tokenizer.read_bytes()},
        fingerprints={"text_tokenizer": fingerprint},  # one trained here follows from the text and the settings
    )


def _spool(src: Path, spool: Path, config: TokenizeTextConfig) -> int:
    """Write the documents of `src` as numbered pieces and return how many; what a killed run completed is used."""
    complete = spool / "complete.json"
    if complete.is_file():
        return int(json.loads(complete.read_text(encoding="utf-8")))
    source = find_source(src)
    documents = chain.from_iterable(
        _named(source, name, read_documents(path, separator=config.separator, max_chars=config.max_chars))
        for name, path in source.named(text_files(src))
    )
    pieces = 0
    batch: list[str] = []
    size = 0
    usable = False
    for document in documents:
        usable = usable or not document.reason
        batch.append(json.dumps(list(vars(document).values()), ensure_ascii=True) + "\n")
        size += len(batch[-1])
        # Long documents make smaller pieces: a worker holds a piece in memory.
        if len(batch) == config.documents_per_shard or size > 64 << 20:
            _piece_path(spool, pieces).write_text("".join(batch), encoding="ascii")
            pieces, batch, size = pieces + 1, [], 0
    if batch:
        _piece_path(spool, pieces).write_text("".join(batch), encoding="ascii")
        pieces += 1
    if not usable:
        reasons = Counter(
            document.reason for piece in range(pieces) for document in _read_piece(_piece_path(spool, piece))
        )
        found = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "every line is empty"
        raise LstError(f"{src} holds no text that can be used: {found}.", hint="Give files with a document a line.")
    write_atomic(complete, json.dumps(pieces).encode())
    return pieces


def _named(source: TextSource, name: str, documents: Iterator[Document]) -> Iterator[Document]:
    """Documents with full ids, and the licence and source of their file where they state none."""
    part = source.part(name)
    for document in documents:
        yield Document(
            f"{source.name}/{name}#{document.id}",
            document.text,
            document.licence or part.get("licence", ""),
            document.source or part.get("source", ""),
            document.reason,
        )


def _piece_path(spool: Path, piece: int) -> Path:
    return spool / f"{piece:05d}.jsonl"


def _read_piece(path: Path) -> Iterator[Document]:
    with path.open(encoding="ascii") as lines:
        for line in lines:
            yield Document(*json.loads(line))


def _settle_tokenizer(partial: Path, pieces: int, config: TokenizeTextConfig) -> Path:
    """The model to use, as a file in the unfinished output."""
    path = partial / TOKENIZER_FILE
    if path.is_file():
        return path
    if config.tokenizer:
        model = TextTokenizer.from_file(config.tokenizer).model
    else:
        from lst.text.train import train_tokenizer

        limit = config.training_mb << 20
        sample = _sample(partial / "spool", pieces, limit, config.valid_fraction)
        model = train_tokenizer(sample, config.train_tokenizer or DEFAULT_PIECES, max_bytes=limit)
    write_atomic(path, model)
    return path


def _sample(spool: Path, pieces: int, limit: int, valid_fraction: float) -> Iterator[str]:
    """Training documents from the whole corpus, about `limit` bytes of them, chosen by hash."""
    size = sum(_piece_path(spool, piece).stat().st_size for piece in range(pieces))
    share = min(1.0, limit / max(size, 1))
    for piece in range(pieces):
        for document in _read_piece(_piece_path(spool, piece)):
            # A second use of the split's hash would pick what lies next to the held-out documents: salt it.
            if document.reason or in_valid_split(document.text, valid_fraction):
                continue
            if share == 1.0 or in_valid_split(f"tokenizer:{document.text}", share):
                yield document.text


@lru_cache(maxsize=2)
def _load(path: Path, fingerprint: str) -> TextTokenizer:
    tokenizer = TextTokenizer.from_file(path)
    if tokenizer.fingerprint != fingerprint:
        raise LstError(f"{path} changed while it was in use.", hint="Run the command again.")
    return tokenizer
