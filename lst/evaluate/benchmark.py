"""Benchmark items as a manifest: `lst.bench/1`, text as it is and speech as units of one tokenizer.

The tokenizer's fingerprint travels with the units, so that a model trained on others refuses them
(`Session.check_units`). The content id covers every file that is read: the index and the audio, not their paths.
"""

import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lst.config import StageConfig
from lst.constants import DEFAULT_TOKENIZER
from lst.errors import LstError
from lst.evaluate.kinds import BENCHMARKS, benchmark_named, kind_of
from lst.evaluate.readers import Format, Source, SourceItem, read_source
from lst.manifest import (
    Manifest,
    Progress,
    Rejection,
    ShardResult,
    StageSpec,
    build_shards,
    inside,
    sha256_file,
    sha256_json,
)

if TYPE_CHECKING:
    import numpy as np

STAGE = "import-benchmark"
VERSION = 2
ITEMS_PER_SHARD = 100
CARD_FILE = "benchmark.json"
"""Optional, beside the items: {"corpus", "licence", "source"}, the manifest's provenance, and {"kind"}."""


class BenchmarkConfig(StageConfig):
    """How a benchmark becomes items."""

    format: Format | Literal["auto"] = Field("auto", description="layout of the source; auto: by what is there")
    kind: str = Field("auto", description=f"{', '.join(BENCHMARKS)}; auto: as its card or its layout says")
    tokenizer: str | None = Field(
        DEFAULT_TOKENIZER, description="unit tokenizer of the model to be tested; null: text only"
    )
    min_units: int = Field(2, ge=1, description="shortest spoken prompt or ending, in units of 40 ms")


@dataclass(frozen=True)
class _Task:
    root: str
    items: tuple[SourceItem, ...]


@dataclass(frozen=True)
class _Worker:
    """Turns items into rows; a pure function of its task and of these settings."""

    tokenizer: str | None
    min_units: int

    def __call__(self, task: _Task) -> ShardResult:
        rows: list[dict[str, Any]] = []
        rejected: list[Rejection] = []
        totals = {"units": 0, "seconds": 0.0, "spoken": 0, "written": 0}
        cache_of_units: dict[str, np.ndarray] = {}
        for item in task.items:
            outcome = self._row(item, Path(task.root), cache_of_units)
            if isinstance(outcome, Rejection):
                rejected.append(outcome)
                continue
            rows.append(outcome)
            units = len(outcome["context_units"]) + sum(len(choice) for choice in outcome["choices_units"])
            totals["units"] += units
            totals["seconds"] += units / 25
            totals["spoken"] += bool(outcome["choices_units"])
            totals["written"] += bool(outcome["choices_text"])
        return ShardResult(rows, rejected, totals)

    def _row(self, item: SourceItem, root: Path, known: dict[str, "np.ndarray"]) -> dict[str, Any] | Rejection:
        from lst.audio import AudioError, read_audio

        if self.tokenizer is None and not item.choices_text:
            return Rejection(item.id, "no-text", "speech only, and no unit tokenizer was asked for")
        if self.tokenizer is not None:
            for name in item.audio_paths:
                if name in known:
                    continue
                try:
                    samples = read_audio(inside(root, name, what=item.id))
                except AudioError as error:
                    return Rejection(item.id, error.reason, error.message)
                units = _tokenizer(self.tokenizer).encode(samples)
                if len(units) < self.min_units:
                    return Rejection(item.id, "empty-audio", f"{name} is {len(samples) / 16000:.2f} s long")
                known[name] = units
        return {
            "id": item.id,
            "group": item.group or item.id,
            "category": item.category,
            "label": item.label,
            "context_text": item.context_text,
            "choices_text": list(item.choices_text),
            "context_units": known.get(item.context_audio, []),
            "choices_units": [known[name] for name in item.choices_audio if name in known],
        }


@cache
def _tokenizer(name: str) -> Any:
    from lst.units import load_tokenizer

    return load_tokenizer(name)


def import_benchmark_spec(src: Path, config: BenchmarkConfig) -> StageSpec:
    """What `import_benchmark` would make of the benchmark at `src`: its files are hashed, none is decoded."""
    return _spec(_read(Path(src), config), Path(src), config)


def import_benchmark(
    src: Path,
    out: Path,
    config: BenchmarkConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    max_rejected: float = 1.0,
) -> Manifest:
    """Read a benchmark (`lst.evaluate.readers` says which layouts) and write it to `out` as `lst.bench/1`.

    Raises LstError if the source is not understood or is another benchmark than `config.kind`, if no item is usable,
    or if more than the share `max_rejected` of them is not.
    """
    source = _read(Path(src), config)
    spec = _spec(source, Path(src), config)
    return _build(source, spec, out, config, workers, progress, force=force, max_rejected=max_rejected)


def cached_benchmark(
    src: Path, home: Path, config: BenchmarkConfig, *, workers: int = 1, progress: Progress | None = None
) -> Manifest:
    """The benchmark at `src` as `lst.bench/1` in a directory of `home` that its content names: made once."""
    source = _read(src, config)
    if not any(item.audio_paths for item in source.items):
        config = config.model_copy(update={"tokenizer": None})
    spec = _spec(source, src, config)
    home.mkdir(parents=True, exist_ok=True)
    return _build(source, spec, home / f"{src.resolve().stem}-{spec.id[:16]}", config, workers, progress)


def read_benchmark(src: Path, config: BenchmarkConfig) -> tuple[Source, str, dict[str, str]]:
    """The items at `src`, which benchmark they are, and their provenance. Raises LstError as `import_benchmark`."""
    source = _read(src, config)
    return source, _kind(source, config), _provenance(source, src)


def has_audio(src: Path, kind: str = "auto") -> bool:
    """Whether the benchmark at `src` speaks. Raises LstError as `import_benchmark` does."""
    return any(item.audio_paths for item in _read(src, BenchmarkConfig(kind=kind)).items)


def _build(
    source: Source,
    spec: StageSpec,
    out: Path,
    config: BenchmarkConfig,
    workers: int,
    progress: Progress | None,
    *,
    force: bool = False,
    max_rejected: float = 1.0,
) -> Manifest:
    tasks = [
        _Task(str(source.root), tuple(source.items[start : start + ITEMS_PER_SHARD]))
        for start in range(0, len(source.items), ITEMS_PER_SHARD)
    ]
    worker = _WithEarlier(_Worker(config.tokenizer, config.min_units), tasks[0], tuple(source.rejected))
    return build_shards(
        out, spec, tasks, worker, workers=workers, progress=progress, force=force, max_rejected=max_rejected
    )


@dataclass(frozen=True)
class _WithEarlier:
    """Adds what the reader rejected to the first shard's rejections, so that the manifest counts it."""

    worker: _Worker
    first: _Task
    rejected: tuple[Rejection, ...]

    def __call__(self, task: _Task) -> ShardResult:
        result = self.worker(task)
        if task == self.first:
            result.rejected = [*self.rejected, *result.rejected]
        return result


def _read(src: Path, config: BenchmarkConfig) -> Source:
    source = read_source(src, config.format)
    kind = _kind(source, config)
    if kind == "topic-storycloze" and source.format == "storycloze-csv":
        source = with_topic_endings(source)
    return source


def _kind(source: Source, config: BenchmarkConfig) -> str:
    """Which benchmark it is: as asked for, as its card says, or as its layout says. Raises LstError if they differ."""
    own, card = kind_of(source.format), str(_card(source).get("kind", ""))
    if card and card not in BENCHMARKS:
        raise LstError(
            f"{source.root / CARD_FILE}: there is no benchmark {card!r}.", hint=f"kind: {', '.join(BENCHMARKS)}."
        )
    if config.kind == "auto":
        return card or own
    asked = benchmark_named(config.kind).name
    if asked == "topic-storycloze" and source.format == "storycloze-csv":
        return asked  # made from StoryCloze: `with_topic_endings`
    # lst's own layout and the story clozes' fit more than one benchmark, as far as no card says which it is.
    said = card or (own if own != "storycloze" else asked)
    if said != asked:
        where = source.root / CARD_FILE if card else source.index[0] if source.index else source.root
        raise LstError(f"{where} says that this is {said}, not {asked}.", hint=f"Run lst eval {said} on it.")
    return asked


def with_topic_endings(source: Source) -> Source:
    """A topic story cloze from StoryCloze: the wrong ending is the right one of another story, drawn by the ids.

    That is how TWIST (arXiv 2305.13009, section 4.2) made it; its draw is not published, so items differ from theirs.
    """
    ring = sorted(source.items, key=lambda item: sha256_json(["topic", item.id]))
    items = []
    for item, other in zip(ring, [*ring[1:], *ring[:1]], strict=True):
        endings = (item.choices_text[item.label], other.choices_text[other.label])
        items.append(replace(item, label=0, choices_text=endings))
    order = {item.id: place for place, item in enumerate(source.items)}
    return replace(source, items=sorted(items, key=lambda item: order[item.id]))


def _spec(source: Source, src: Path, config: BenchmarkConfig) -> StageSpec:
    speaks = config.tokenizer is not None and any(item.audio_paths for item in source.items)
    files = {"items": sha256_json([asdict(item) for item in source.items] + [vars(item) for item in source.rejected])}
    fingerprints = {}
    settings = config.as_json() | {"kind": _kind(source, config)}
    if speaks and config.tokenizer is not None:
        from lst.units import tokenizer_fingerprint, tokenizer_name

        names = sorted({name for item in source.items for name in item.audio_paths})
        files["audio"] = sha256_json([[name, sha256_file(inside(source.root, name, what=str(src)))] for name in names])
        fingerprints["tokenizer"] = tokenizer_fingerprint(config.tokenizer)
        settings["tokenizer"] = tokenizer_name(config.tokenizer)  # never a path
    else:
        settings["tokenizer"] = None
    return StageSpec(
        schema="lst.bench/1",
        stage=STAGE,
        version=VERSION,
        config=settings,
        fingerprints=fingerprints,
        provenance=[_provenance(source, src)],
        files=files,
    )


def _provenance(source: Source, src: Path) -> dict[str, str]:
    about = {"corpus": src.stem if src.is_file() else src.resolve().name, "licence": "unknown", "source": source.format}
    card = _card(source)
    return about | {key: str(card[key]) for key in about if key in card}


def _card(source: Source) -> dict[str, Any]:
    """What `benchmark.json` says, if there is one."""
    path = source.root / CARD_FILE
    if not path.is_file():
        return {}
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LstError(f"{path} is not valid JSON.", hint="Mend it or remove it.") from error
    return body if isinstance(body, dict) else {}
