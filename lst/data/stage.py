"""`interleave`: aligned speech and a text tokenizer become `lst.pairs/1`, what training reads.

Despite its name the stage draws no spans: interleaving happens when rows are loaded, so that every epoch differs. What
is done once is here: the words of every utterance are tokenized (with the range of tokens of each word), rows that
cannot be interleaved are rejected with a reason, and each row is put into the training or the validation split.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from lst.config import StageConfig
from lst.constants import FRAME_RATE
from lst.data.loader import text_fingerprint
from lst.data.vocabulary import NUM_UNITS
from lst.errors import LstError
from lst.manifest import (
    Manifest,
    Progress,
    Rejection,
    ShardResult,
    StageSpec,
    build_shards,
    load_manifest,
    merge_provenance,
    read_table,
    sha256_file,
)
from lst.text.tokenizer import TOKENIZER_FILE, TextTokenizer

VERSION = 1
_FRAME_SLACK = 2  # frames that rounding and the encoder's receptive field may take away from duration x 25


class InterleaveConfig(StageConfig):
    """Settings of the `interleave` stage."""

    valid_fraction: float = Field(
        default=0.02, ge=0, lt=1, description="share of texts that go to the validation split, by hash of the text"
    )
    held_out: list[str] = Field(
        default=[], description="folders (a part of the ids) and speakers that go to the validation split as a whole"
    )

    only: list[str] = Field(
        default=[], description="folders and speakers that are taken, such as the voice that a model is to speak with"
    )

    def as_json(self) -> dict[str, Any]:
        """The settings; an empty `held_out` or `only` is left out: it is what there was before there was the key."""
        empty = {name for name in ("held_out", "only") if not getattr(self, name)}
        return self.model_dump(mode="json", exclude=empty)


def interleave_spec(aligned: Manifest, text: Manifest | Path, config: InterleaveConfig) -> StageSpec:
    """What `interleave` would make. `text`: a `lst.text` manifest, whose tokenizer is used, or a SentencePiece file."""
    require_schema(aligned, "lst.aligned")
    inputs = {"aligned": aligned}
    files = {}
    if isinstance(text, Manifest):
        require_schema(text, "lst.text")
        inputs["text"] = text
        fingerprint = text_fingerprint(text)
        provenance = merge_provenance(aligned.provenance, text.provenance)
    else:
        if not text.is_file():
            raise LstError(f"The text tokenizer {text} does not exist.", hint="Give a SentencePiece .model file.")
        fingerprint = sha256_file(text)
        files[TOKENIZER_FILE] = fingerprint
        provenance = merge_provenance(aligned.provenance)
    return StageSpec(
        schema="lst.pairs/1",
        stage="interleave",
        version=VERSION,
        config=config.as_json(),
        inputs=inputs,
        fingerprints={**aligned.fingerprints, "text_tokenizer": fingerprint},
        provenance=provenance,
        files=files,
    )


def interleave(
    aligned: Manifest,
    text: Manifest | Path,
    out: Path,
    config: InterleaveConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    max_rejected: float = 1.0,
) -> Manifest:
    """Make `lst.pairs/1` at `out`, one shard per aligned shard, with the text tokenizer as artifact `tokenizer.model`.

    Rejects rows without words or units, with units that do not match the duration, or with words that lie outside the
    units or overlap. Totals: hours, units, words, tokens, and the rows of each split.
    """
    spec = interleave_spec(aligned, text, config)
    tokenizer = text.file(TOKENIZER_FILE) if isinstance(text, Manifest) else text
    load_tokenizer(tokenizer)  # a bad file fails here, before any work
    _check_names(aligned, config.only)
    worker = _Worker(aligned.path, tokenizer, config)
    return build_shards(
        out,
        spec,
        list(range(len(aligned.shards))),
        worker,
        workers=workers,
        progress=progress,
        force=force,
        max_rejected=max_rejected,
        artifacts={TOKENIZER_FILE: tokenizer},
    )


def find_text(aligned: Manifest) -> Manifest:
    """The one text manifest beside `aligned`, as `lst run` lays them out. Raises LstError unless there is one."""
    found = []
    for path in sorted(aligned.path.resolve().parent.glob("*/manifest.json")):
        try:
            found.append(load_manifest(path.parent, "lst.text"))
        except LstError:
            continue  # another kind of stage, or one that is damaged and so no candidate
    if len(found) == 1:
        return found[0]
    what = "no tokenized text" if not found else f"{len(found)} tokenized texts"
    raise LstError(
        f"There is {what} beside {aligned.path}, so the text tokenizer is not known.",
        hint="Name it with --text DIR (made by lst tokenize-text) or --tokenizer FILE.model.",
    )


def split_of(words: list[str], valid_fraction: float) -> str:
    """`valid` for about `valid_fraction` of all texts, else `train`.

    Decided by a hash of the text without case and punctuation: a text that is read twice is on one side only.
    """
    digest = hashlib.sha256(plain(words).encode()).digest()
    return "valid" if int.from_bytes(digest[:8], "big") < valid_fraction * 2**64 else "train"


def word_key(word: str) -> str:
    """A word without case and punctuation; empty if it is nothing else."""
    return "".join(char for char in word.casefold() if char.isalnum())


def plain(words: Iterable[str]) -> str:
    """Words without case and punctuation, in one line."""
    return " ".join(key for word in words if (key := word_key(word)))


def is_named(row_id: str, speaker: str, names: Sequence[str]) -> bool:
    """Whether one of `names` is the speaker of a row or a folder in its id (`corpus/FOLDER/…/file#0`)."""
    return not {speaker, *row_id.split("/")[:-1]}.isdisjoint(names)


def _check_names(aligned: Manifest, names: Sequence[str]) -> None:
    """Raise LstError if one of `names` is no folder or speaker of any row: nothing of it would be taken."""
    left = set(names)
    for shard in range(len(aligned.shards)):
        if not left:
            return
        table = read_table(aligned, shard).select(["id", "speaker"])
        for row_id, speaker in set(zip(*(table[name].to_pylist() for name in table.column_names), strict=True)):
            left -= {name for name in left if is_named(row_id, speaker, [name])}
    if left:
        raise LstError(
            f"only: no row of {aligned.path} is from {', '.join(sorted(left))}.",
            hint="Give a speaker, or a folder as it stands in the ids.",
        )


@dataclass(frozen=True)
class _Worker:
    """Makes the pairs of one aligned shard."""

    aligned: Path
    tokenizer: Path
    config: InterleaveConfig

    def __call__(self, shard: int) -> ShardResult:
        tokenizer = load_tokenizer(self.tokenizer)
        rows: list[dict[str, Any]] = []
        rejected = []
        totals = dict.fromkeys(("hours", "units", "words", "tokens", "train_rows", "valid_rows"), 0.0)
        for batch in read_table(load_manifest(self.aligned), shard).to_batches(max_chunksize=256):
            for row in batch.to_pylist():
                if self.config.only and not is_named(row["id"], row["speaker"], self.config.only):
                    continue
                problem = _problem(row)
                if problem is not None:
                    rejected.append(Rejection(row["id"], *problem))
                    continue
                words = [word["text"] for word in row["words"]]
                tokens, spans = tokenizer.encode_words(words)
                row["tokens"] = tokens
                row["token_spans"] = [{"start": start, "end": end} for start, end in spans]
                held_out = is_named(row["id"], row["speaker"], self.config.held_out)
                row["split"] = "valid" if held_out else split_of(words, self.config.valid_fraction)
                rows.append(row)
                totals["hours"] += row["duration_s"] / 3600
                totals["units"] += len(row["units"])
                totals["words"] += len(words)
                totals["tokens"] += len(tokens)
                totals[f"{row['split']}_rows"] += 1
        return ShardResult(rows, rejected, {name: _whole(value) for name, value in totals.items()})


def _problem(row: dict[str, Any]) -> tuple[str, str] | None:
    """Why a row cannot be used (reason, detail), or None."""
    units, words = row["units"], row["words"]
    if not units:
        return "no-units", "it has no speech units"
    if not words:
        return "no-words", "no word was aligned"
    if max(units) >= NUM_UNITS:
        return "unit-out-of-range", f"unit {max(units)} is above {NUM_UNITS - 1}"
    expected = row["duration_s"] * FRAME_RATE
    if abs(len(units) - expected) > _FRAME_SLACK:
        return "units-length-mismatch", f"{len(units)} units for {row['duration_s']:.2f} s ({expected:.0f} expected)"
    end = 0
    for word in words:
        if not word["text"]:
            return "empty-word", "an aligned word has no text"
        if word["end"] <= word["start"] or word["end"] > len(units) or word["start"] < 0:
            return "word-out-of-range", f"{word['text']!r} at {word['start']}..{word['end']} of {len(units)} units"
        if word["start"] < end:
            return "words-overlap", f"{word['text']!r} starts at {word['start']}, the word before it ends at {end}"
        end = word["end"]
    return None


@lru_cache(maxsize=2)
def load_tokenizer(path: Path) -> TextTokenizer:
    """The text tokenizer of a SentencePiece file, read once per process."""
    return TextTokenizer.from_file(path)


def require_schema(manifest: Manifest, schema: str) -> None:
    """Raise LstError unless `manifest` holds `schema` (a name without its version)."""
    if manifest.schema.split("/")[0] != schema:
        raise LstError(
            f"{manifest.path} holds {manifest.schema} (made by {manifest.stage}), but {schema} is needed here."
        )


def _whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value
