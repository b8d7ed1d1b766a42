"""Toy data and models: pairs and text manifests of repeating units and words, small enough to train in seconds."""

from pathlib import Path
from typing import Any

import numpy as np

from lst.data.patching import PatchingConfig
from lst.manifest import Manifest, ShardResult, StageSpec, build_shards
from lst.model.config import LSTConfig, TransformerConfig

WORDS = ("the", "small", "boat", "went", "over", "a", "calm", "sea")


def tokenizer_model() -> bytes:
    """A SentencePiece model over `WORDS`."""
    import io

    import sentencepiece

    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, size=8)) for _ in range(200)]
    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=sink,
        model_type="bpe",
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return sink.getvalue()


def _words(index: int) -> list[str]:
    rng = np.random.default_rng(index)
    return [str(word) for word in rng.choice(WORDS, size=6 + index % 5)]


class PairsWorker:
    """Rows of `lst.pairs/1`: each word is a fixed run of units, with silence (unit 0) between words."""

    def __init__(self, model: bytes, rows: int) -> None:
        self.model, self.rows = model, rows

    def __call__(self, shard: int) -> ShardResult:
        from lst.text.tokenizer import TextTokenizer

        tokenizer = TextTokenizer(self.model)
        rows: list[dict[str, Any]] = []
        for index in range(shard * self.rows, (shard + 1) * self.rows):
            words = _words(index)
            units, spans = [], []
            for word in words:
                units += [0, 0]
                start = len(units)
                units += [10 + 3 * WORDS.index(word) + step // 2 for step in range(4 + len(word) % 3)]
                spans.append({"text": word, "start": start, "end": len(units), "score": 1.0})
            tokens, ranges = tokenizer.encode_words(words)
            rows.append(
                {
                    "id": f"toy/{index}",
                    "duration_s": len(units) / 25,
                    "units": units,
                    "speaker": "",
                    "text": " ".join(words),
                    "words": spans,
                    "tokens": tokens,
                    "token_spans": [{"start": start, "end": end} for start, end in ranges],
                    "split": "valid" if index % 8 == 0 else "train",
                }
            )
        return ShardResult(rows)


class TextWorker:
    """Rows of `lst.text/1`."""

    def __init__(self, model: bytes, rows: int) -> None:
        self.model, self.rows = model, rows

    def __call__(self, shard: int) -> ShardResult:
        from lst.text.tokenizer import TextTokenizer

        tokenizer = TextTokenizer(self.model)
        rows = []
        for index in range(shard * self.rows, (shard + 1) * self.rows):
            text = " ".join(_words(1000 + index))
            split = "valid" if index % 8 == 0 else "train"
            row = {"id": f"text/{index}", "text": text, "tokens": tokenizer.encode(text), "split": split}
            rows.append(row | {"licence": "", "source": ""})
        return ShardResult(rows)


def toy_data(
    directory: Path, *, rows: int = 40, units: str = "toy-units", text: str = "toy-text"
) -> tuple[Manifest, Manifest]:
    """A pairs and a text manifest of two shards of `rows` rows each; `units`, `text`: fingerprints of tokenizers."""
    model = tokenizer_model()
    prints = {"tokenizer": units, "text_tokenizer": text}
    provenance = [{"corpus": "toy", "licence": "none", "source": "made up"}]
    artifacts: dict[str, Path | bytes] = {"tokenizer.model": model}
    pairs = build_shards(
        directory / "pairs",
        StageSpec("lst.pairs/1", "interleave", 1, {"rows": rows}, fingerprints=prints, provenance=provenance),
        [0, 1],
        PairsWorker(model, rows),
        artifacts=artifacts,
    )
    documents = build_shards(
        directory / "text",
        StageSpec("lst.text/1", "tokenize-text", 1, {"rows": rows}, fingerprints={"text_tokenizer": text}),
        [0, 1],
        TextWorker(model, rows),
        artifacts=artifacts,
    )
    return pairs, documents


def toy_model(text_size: int, mode: str = "static") -> LSTConfig:
    """A model of a few thousand parameters."""

    def stack(layers: int, dim: int, window: int | None = None) -> TransformerConfig:
        return TransformerConfig(layers=layers, dim=dim, heads=2, window=window)  # type: ignore[call-arg]

    local = None if mode == "none" else stack(1, 16, 32)
    return LSTConfig(  # type: ignore[call-arg]
        text_size=text_size,
        patching=PatchingConfig(mode=mode),  # type: ignore[arg-type,call-arg]
        encoder=local,
        global_transformer=stack(2, 32),
        decoder=local,
    )
