"""Small data with the shape of real data: aligned utterances and tokenized text, made from a seed."""

from pathlib import Path
from typing import Any

import numpy as np

from lst.data.interleaving import Utterance
from lst.data.stage import InterleaveConfig, interleave
from lst.manifest import Manifest, ShardResult, StageSpec, build_shards
from lst.text.tokenizer import TextTokenizer
from lst.text.train import train_tokenizer

WORDS = (
    "the",
    "a",
    "cat",
    "dog",
    "ran",
    "over",
    "under",
    "red",
    "blue",
    "house",
    "tree",
    "and",
    "but",
    "slowly",
    "suddenly",
    "yesterday",
    "morning",
    "people",
    "were",
)


def tokenizer() -> TextTokenizer:
    """A tokenizer that splits some of `WORDS` into several pieces."""
    return TextTokenizer(train_tokenizer([" ".join(WORDS[:12])] * 20, 380))


def utterance(rng: np.random.Generator, words: int, name: str = "corpus/a.wav#0") -> Utterance:
    """Random units, words with gaps between them (some of no length), one to three tokens per word."""
    gaps = rng.integers(0, 4, words + 1)
    lengths = rng.integers(1, 12, words)
    starts = np.cumsum(gaps[:-1]) + np.cumsum(lengths) - lengths
    ends = starts + lengths
    total = int(ends[-1] + gaps[-1]) if words else 7
    token_ends = np.cumsum(rng.integers(1, 4, words))
    return Utterance(
        id=name,
        units=rng.integers(0, 501, total).astype(np.uint16),
        starts=starts.astype(np.int32),
        ends=ends.astype(np.int32),
        tokens=rng.integers(0, 50, int(token_ends[-1]) if words else 0).astype(np.int32),
        token_starts=np.concatenate(([0], token_ends[:-1]))[:words].astype(np.int32),
        token_ends=token_ends.astype(np.int32),
    )


def aligned_row(rng: np.random.Generator, name: str, words: int) -> dict[str, Any]:
    """A row of `lst.aligned/1`."""
    row = utterance(rng, words, name)
    texts = [WORDS[i] for i in rng.integers(0, len(WORDS), words)]
    spans = zip(texts, row.starts.tolist(), row.ends.tolist())
    return {
        "id": name,
        "duration_s": len(row.units) / 25,
        "units": row.units.tolist(),
        "speaker": "anna",
        "text": " ".join(texts),
        "words": [{"text": text, "start": start, "end": end, "score": 0.9} for text, start, end in spans],
    }


def make_aligned(
    out: Path, rows: int, *, shards: int = 3, seed: int = 0, extra: tuple[dict[str, Any], ...] = ()
) -> Manifest:
    """A `lst.aligned` manifest of `rows` utterances of 3 to 24 words (and `extra` ones in the first shard)."""
    rng = np.random.default_rng(seed)
    made = [aligned_row(rng, f"corpus/{i:04d}.wav#0", int(rng.integers(3, 25))) for i in range(rows)]
    parts = [made[k::shards] for k in range(shards)]
    parts[0] = [*parts[0], *extra]
    spec = StageSpec(
        "lst.aligned/1",
        "align",
        1,
        {"seed": seed, "rows": rows, "shards": shards, "extra": len(extra)},
        fingerprints={"tokenizer": "t" * 64, "aligner": "a" * 64},
        provenance=[{"corpus": "synthetic", "licence": "CC0-1.0", "source": "tests"}],
    )
    return build_shards(out, spec, range(shards), lambda k: ShardResult(parts[k]))


def make_text(out: Path, rows: int, *, shards: int = 2, seed: int = 1, longest: int = 60) -> Manifest:
    """A `lst.text` manifest of `rows` documents of 1 to `longest` words, a tenth of them in the validation split."""
    rng = np.random.default_rng(seed)
    model = tokenizer()
    made = []
    for i in range(rows):
        words = [WORDS[k] for k in rng.integers(0, len(WORDS), int(rng.integers(1, longest + 1)))]
        split = "valid" if i % 10 == 9 else "train"
        row = {
            "id": f"stories/{i:04d}",
            "text": " ".join(words),
            "tokens": model.encode(" ".join(words)),
            "split": split,
        }
        made.append({**row, "licence": "CC0-1.0", "source": "tests"})
    spec = StageSpec(
        "lst.text/1",
        "tokenize-text",
        1,
        {"seed": seed, "rows": rows, "shards": shards, "longest": longest},
        fingerprints={"text_tokenizer": model.fingerprint},
    )
    parts = [made[k::shards] for k in range(shards)]
    return build_shards(
        out, spec, range(shards), lambda k: ShardResult(parts[k]), artifacts={"tokenizer.model": model.model}
    )


def make_pairs(
    root: Path, rows: int, *, shards: int = 3, seed: int = 0, valid_fraction: float = 0.1
) -> tuple[Manifest, Manifest]:
    """(pairs, text) manifests below `root`, made by the stage itself."""
    text = make_text(root / "text", 2 * rows)
    aligned = make_aligned(root / "aligned", rows, shards=shards, seed=seed)
    return interleave(aligned, text, root / "pairs", InterleaveConfig(valid_fraction=valid_fraction)), text
