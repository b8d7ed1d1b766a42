"""Small random models on disk, and benchmarks for them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from lst.data.patching import PatchingConfig
from lst.data.unit_bpe import UnitBpe, train_unit_bpe
from lst.manifest import DirectoryResult, Manifest, ShardResult, StageSpec, build_directory, build_shards
from lst.model.checkpoint import write_weights
from lst.model.config import LSTConfig, TransformerConfig
from lst.model.init import build_model
from lst.text.tokenizer import TextTokenizer
from tests.data.synthetic import WORDS
from tests.data.synthetic import tokenizer as make_tokenizer

TOKENIZER = "t" * 64
"""The unit tokenizer's fingerprint in the synthetic data of `tests.data`."""


def tiny_config(text_size: int, mode: str = "static", *, text_local: bool = True, num_units: int = 501) -> LSTConfig:
    """A model of a few ten thousand parameters."""
    patching = PatchingConfig(mode=mode, size=4)  # type: ignore[arg-type]
    wide = TransformerConfig(layers=2, dim=32, heads=2)
    if mode in ("none", "bpe"):
        return LSTConfig(text_size=text_size, num_units=num_units, patching=patching, global_transformer=wide)
    local = TransformerConfig(layers=1, dim=16, heads=2, window=24)
    return LSTConfig(
        text_size=text_size,
        patching=patching,
        encoder=local,
        global_transformer=wide,
        decoder=local,
        text_local=text_local,
    )


def tiny_unit_bpe() -> UnitBpe:
    """A unit BPE that joins some neighbours, so that there are fewer pieces than units."""
    rng = np.random.default_rng(0)
    return train_unit_bpe([np.repeat(rng.integers(0, 30, 40), 3).astype(np.uint16) for _ in range(50)], size=560)


def make_model(
    out: Path,
    mode: str = "static",
    *,
    text_local: bool = True,
    tokenizer: str = TOKENIZER,
    task: str = "",
    context: int = 256,
    seed: int = 3,
    text: TextTokenizer | None = None,
    speech: float = 1.0,
) -> Manifest:
    """A model directory as training leaves it, with random weights large enough to have opinions."""
    text = text or make_tokenizer()
    bpe = tiny_unit_bpe() if mode == "bpe" else None
    num_units = bpe.size if bpe is not None else 501
    config = tiny_config(text.vocab_size, mode, text_local=text_local, num_units=num_units)
    settings: dict[str, Any] = {"mode": mode, "seed": seed, "trainer": {"batch": {"sequence_units": context}}}
    settings |= {"task": task} if task else {"mixture": {"speech": speech, "text": 2.0}}
    spec = StageSpec(
        "lst.model/1",
        "finetune" if task else "pretrain",
        1,
        settings,
        fingerprints={"tokenizer": tokenizer, "text_tokenizer": text.fingerprint},
        provenance=[{"corpus": "synthetic", "licence": "CC0-1.0", "source": "tests"}],
    )

    def make(directory: Path) -> DirectoryResult:
        model = build_model(config, seed=seed)
        model.head.weight.data.mul_(20)
        if model.text_head is not None:
            model.text_head.weight.data.mul_(20)
        names = write_weights(directory, model, config)
        names.append("tokenizer.model")
        (directory / "tokenizer.model").write_bytes(text.model)
        if bpe is not None:
            names.append("unit_bpe.model")
            (directory / "unit_bpe.model").write_bytes(bpe.model)
        return DirectoryResult(artifacts=names)

    return build_directory(out, spec, make)


def bench_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random items of several lengths, both modalities."""
    rng = np.random.default_rng(seed)

    def sentence(low: int, high: int) -> str:
        return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), int(rng.integers(low, high))))

    def units(low: int, high: int) -> list[int]:
        return rng.integers(0, 501, int(rng.integers(low, high))).tolist()  # type: ignore[no-any-return]

    return [
        {
            "id": f"item-{k}",
            "group": f"group-{k // 2}",
            "label": k % 2,
            "context_text": sentence(3, 12),
            "choices_text": [sentence(2, 6), sentence(2, 6)],
            "context_units": units(5, 60),
            "choices_units": [units(3, 30), units(3, 30)],
        }
        for k in range(count)
    ]


def make_bench(out: Path, rows: list[dict[str, Any]], *, tokenizer: str = TOKENIZER) -> Manifest:
    """A `lst.bench` manifest of these rows."""
    spec = StageSpec("lst.bench/1", "import-benchmark", 1, {"n": len(rows)}, fingerprints={"tokenizer": tokenizer})
    return build_shards(out, spec, [0], lambda _: ShardResult(rows))


def write_tone(path: Path, seconds: float, *, rate: int = 16_000, hz: float = 220.0) -> None:
    """A short sound file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, (0.3 * np.sin(2 * np.pi * hz * times)).astype(np.float32), rate)


class CountingTokenizer:
    """A unit tokenizer that needs no model: unit k of a file says how loud and how far in it is."""

    name = "counting"
    fingerprint = TOKENIZER
    num_units = 501

    def encode(self, samples: np.ndarray) -> np.ndarray:
        frames = len(samples) // 640
        loud = np.abs(samples[: frames * 640]).reshape(frames, 640).mean(axis=1)
        return ((np.arange(frames) + (loud * 100).astype(int)) % 501).astype(np.uint16)

    def encode_stream(self, chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        yield self.encode(np.concatenate(list(chunks)))
