"""`splice`: texts spoken with the words of recorded speech. `lst.pairs/1` and text in, `lst.pairs/1` out.

There is far more text than speech. Units for text can be made without sound: Zeng et al., "Scaling speech-text
pre-training with synthetic interleaved data" (2024), train a model from text to units for it. Here the units of single
words are joined, as unit-selection synthesis joins sound (`lst.data.word_bank`). The rows of the source come first,
unchanged; the spliced ones follow, all of split train.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from lst.config import StageConfig
from lst.constants import FRAME_RATE
from lst.data.random import generator, uniforms
from lst.data.stage import load_tokenizer, plain, require_schema, split_of, word_key
from lst.data.word_bank import MIN_WORDS, Readings, WordBank, sentences_of
from lst.errors import LstError
from lst.manifest import (
    Manifest,
    Progress,
    Rejection,
    ShardResult,
    StageSpec,
    build_shards,
    existing_output,
    load_manifest,
    merge_provenance,
    read_table,
    sha256_file,
    sha256_json,
)
from lst.text.documents import read_documents, text_files
from lst.text.sources import find_source
from lst.text.tokenizer import TOKENIZER_FILE, TextTokenizer

VERSION = 1
DOCUMENTS_PER_SHARD = 256


class SpliceConfig(StageConfig):
    """Settings of the `splice` stage."""

    text: Path = Field(description="what is to be said: a .txt or .jsonl file (or .gz of one), or a folder of them")
    copies: int = Field(default=1, ge=1, description="by how many different voices each text is spoken")
    max_words: int = Field(default=60, ge=1, description="longest passage, in words, unless a sentence is longer")
    voice_words: int = Field(
        default=5000, ge=1, description="speakers with fewer words lend no voice, only words that a voice lacks"
    )
    readings: Readings = Field(
        default="typical",
        description="typical: a voice says a word always the same way; varied: as it fits what stands beside it",
    )
    seed: int = Field(default=0, ge=0, description="of the choice of voices, and of varied readings")

    def as_json(self) -> dict[str, Any]:
        """The settings that determine the result. Of the text that is its hash (`splice_spec`), not its place."""
        return self.model_dump(mode="json", exclude={"text"})


def splice_spec(pairs: Manifest, config: SpliceConfig) -> StageSpec:
    """What `splice` would make. Reads the text files to hash them."""
    require_schema(pairs, "lst.pairs")
    if pairs.stage == "splice":
        raise LstError(
            f"{pairs.path} is spliced already.",
            hint="Give the pairs that it was made from, and one folder with all texts.",
        )
    source = find_source(config.text)
    named = [[name, sha256_file(path)] for name, path in source.named(text_files(config.text))]
    return StageSpec(
        schema="lst.pairs/1",
        stage="splice",
        version=VERSION,
        config=config.as_json(),
        inputs={"pairs": pairs},
        fingerprints=dict(pairs.fingerprints),
        provenance=merge_provenance(pairs.provenance, source.provenance),
        files={"text": sha256_json(named)},
    )


def splice(
    pairs: Manifest,
    out: Path,
    config: SpliceConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
) -> Manifest:
    """Make `lst.pairs/1` at `out`: the shards of `pairs`, then a shard per `DOCUMENTS_PER_SHARD` different texts.

    Totals as of `interleave`, and of the spliced rows: spliced_rows, spliced_hours, spliced_words, and the words of the
    text that were left out. Texts and the words of the source are held in memory. Raises LstError if the source has no
    voice, fewer voices than `copies`, or no word for any sentence of the text.
    """
    spec = splice_spec(pairs, config)
    made = existing_output(out, spec, force=force)
    if made is not None:
        return made
    bank = _load_bank(pairs.path, pairs.id, config.voice_words)
    if config.copies > len(bank.voices):
        raise LstError(
            f"{config.copies} copies need as many voices, and {pairs.path} has {len(bank.voices)}.",
            hint="Ask for fewer --copies, or for fewer words of a voice with --voice-words.",
        )
    texts, rejected = _read_texts(config.text)
    fraction = float(pairs.config.get("valid_fraction", 0.0))
    if not any(passages(text, bank, config.max_words, fraction)[0] for text in texts):
        raise LstError(
            f"{config.text} holds nothing that can be said with the words of {pairs.path}.",
            hint=f"A sentence is said if every word of it is spoken there; passages have at least {MIN_WORDS} words.",
        )
    parts = [texts[first : first + DOCUMENTS_PER_SHARD] for first in range(0, len(texts), DOCUMENTS_PER_SHARD)]
    tasks: list[int | _Texts] = [*range(len(pairs.shards)), *(_Texts(tuple(part)) for part in parts)]
    if rejected:
        tasks.append(_Texts((), tuple(rejected)))
    return build_shards(
        out,
        spec,
        tasks,
        _Worker(pairs.path, pairs.id, config, fraction),
        workers=workers,
        progress=progress,
        force=force,
        artifacts={TOKENIZER_FILE: pairs.file(TOKENIZER_FILE)},
    )


def passages(text: str, bank: WordBank, max_words: int, valid_fraction: float) -> tuple[list[list[str]], int]:
    """Runs of whole sentences that can be said, of at most `max_words` words, and the number of words left out.

    Left out are sentences with a word that nobody says and sentences that are held out; then runs of fewer than
    `MIN_WORDS` words, and those that `split_of` puts into the validation split. Words are what has letters or digits.
    """
    runs: list[list[str]] = [[]]
    total = 0
    for sentence in sentences_of(text):
        words = [word for word in sentence.split() if word_key(word)]
        total += len(words)
        usable = bank.says(words) and plain(words) not in bank.held_out
        if runs[-1] and (not usable or len(runs[-1]) + len(words) > max_words):
            runs.append([])
        if usable:
            runs[-1] += words
    kept = [run for run in runs if len(run) >= MIN_WORDS and split_of(run, valid_fraction) == "train"]
    return kept, total - sum(len(run) for run in kept)


def voices_of(text: str, bank: WordBank, copies: int, seed: int) -> list[int]:
    """The voices that say a text, all different: neighbours in the list of voices, from one drawn for the text."""
    first = int(uniforms(1, "splice", seed, text)[0] * len(bank.voices))
    return [bank.voices[(first + copy) % len(bank.voices)] for copy in range(copies)]


def spliced_row(
    row_id: str, words: Sequence[str], voice: int, bank: WordBank, tokenizer: TextTokenizer, config: SpliceConfig
) -> dict[str, Any]:
    """A row of `lst.pairs/1` in which `voice` says `words`. The score of a word is that of its reading."""
    chosen = bank.choose(words, voice, config.readings, generator("splice", config.seed, row_id))
    lengths = bank.stops[chosen] - bank.starts[chosen]
    starts = np.cumsum(lengths) - lengths
    ends = starts + bank.ends[chosen] - bank.starts[chosen]
    tokens, token_spans = tokenizer.encode_words(list(words))
    return {
        "id": row_id,
        "duration_s": int(lengths.sum()) / FRAME_RATE,
        "units": np.concatenate([bank.units[bank.starts[word] : bank.stops[word]] for word in chosen]).tolist(),
        "speaker": bank.speakers[voice],
        "text": " ".join(words),
        "words": [
            {"text": word, "start": start, "end": end, "score": score}
            for word, start, end, score in zip(
                words, starts.tolist(), ends.tolist(), bank.scores[chosen].tolist(), strict=True
            )
        ],
        "tokens": tokens,
        "token_spans": [{"start": start, "end": end} for start, end in token_spans],
        "split": "train",
    }


@dataclass(frozen=True)
class _Texts:
    """Texts of one shard, and what of the text files could not be read."""

    texts: tuple[str, ...]
    rejected: tuple[Rejection, ...] = ()


@dataclass(frozen=True)
class _Worker:
    """Copies a shard of the source, given its number, or makes one of texts."""

    pairs: Path
    pairs_id: str
    config: SpliceConfig
    valid_fraction: float

    def __call__(self, task: int | _Texts) -> ShardResult:
        pairs = load_manifest(self.pairs)
        if isinstance(task, int):
            return _copied(pairs, task)
        bank = _load_bank(self.pairs, self.pairs_id, self.config.voice_words)
        tokenizer = load_tokenizer(pairs.file(TOKENIZER_FILE))
        rows: list[dict[str, Any]] = []
        left_out = 0
        for text in task.texts:
            found, unsaid = passages(text, bank, self.config.max_words, self.valid_fraction)
            left_out += unsaid
            name = hashlib.sha256(text.encode()).hexdigest()[:16]
            for copy, voice in enumerate(voices_of(text, bank, self.config.copies, self.config.seed)):
                folder = f"spliced/{bank.speakers[voice] or 'unknown'}/{name}-{copy}"
                rows += [
                    spliced_row(f"{folder}-{place}", words, voice, bank, tokenizer, self.config)
                    for place, words in enumerate(found)
                ]
        totals: Counter[str] = Counter()
        for row in rows:
            totals["units"] += len(row["units"])
            totals["words"] += len(row["words"])
            totals["tokens"] += len(row["tokens"])
        hours = totals["units"] / FRAME_RATE / 3600
        spliced = {"spliced_rows": len(rows), "spliced_hours": hours, "spliced_words": totals["words"]}
        both = {"hours": hours, **totals, "train_rows": len(rows)}
        return ShardResult(rows, task.rejected, {**both, **spliced, "words_left_out": left_out})


def _copied(pairs: Manifest, shard: int) -> ShardResult:
    """A shard of the source as it is."""
    import pyarrow.compute as pc

    table = read_table(pairs, shard)
    valid = pc.sum(pc.not_equal(table["split"], "train")).as_py() or 0
    totals: dict[str, float] = {"hours": (pc.sum(table["duration_s"]).as_py() or 0.0) / 3600}
    for name in ("units", "words", "tokens"):
        totals[name] = pc.sum(pc.list_value_length(table[name])).as_py() or 0
    return ShardResult(table, [], {**totals, "train_rows": table.num_rows - valid, "valid_rows": valid})


def _read_texts(src: Path) -> tuple[list[str], list[Rejection]]:
    """The different texts of `src`, sorted: what is made of them does not depend on files and their order."""
    source = find_source(src)
    texts: set[str] = set()
    rejected = []
    for name, path in source.named(text_files(src)):
        for document in read_documents(path):
            if document.reason:
                rejected.append(Rejection(f"{source.name}/{name}#{document.id}", document.reason, document.text))
            else:
                texts.add(document.text)
    return sorted(texts), rejected


@lru_cache(maxsize=1)
def _load_bank(pairs: Path, pairs_id: str, voice_words: int) -> WordBank:
    """The words of `pairs`, read once per process; the id tells apart what lies at one place at different times."""
    return WordBank(load_manifest(pairs), voice_words)
