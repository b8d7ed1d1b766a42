"""Multiple choice: which of several endings does the model find likeliest, in each direction that the benchmark has.

Every way of counting is reported; which one is the headline is fixed beforehand (`lst.evaluate.kinds`).
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lst.errors import LstError, UsageError
from lst.evaluate.data import cache_home, hears
from lst.evaluate.heard import HEARD, as_heard
from lst.evaluate.items import ItemScores, credits, score_items
from lst.evaluate.kinds import BENCHMARKS, Benchmark, benchmark_named
from lst.evaluate.scoring import Mode
from lst.evaluate.statistics import bootstrap_interval, size_note
from lst.evaluate.store import ScoreStore
from lst.generate.recognition import check_recogniser
from lst.generate.session import Session
from lst.manifest import Manifest, Progress, iter_rows

Choice = Literal["all", "s-s", "t-t", "s-t", "t-s"]


@dataclass(frozen=True)
class Result:
    """`summary`: what `summary.json` holds; `items`: one entry per item and mode."""

    summary: dict[str, Any]
    items: list[ItemScores]


def evaluate_choices(
    session: Session,
    bench: Manifest,
    *,
    mode: Choice = "all",
    recogniser: Session | None = None,
    heard_file: Path | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Result:
    """Score `bench` (`lst.bench/1`). Batches that were scored before come from the user's cache.

    With a `recogniser` (an asr model), whose transcripts are kept in `heard_file`, its speech is also scored by way of
    text, as mode `heard` (`lst.evaluate.heard`).

    Raises LstError if the units are another tokenizer's, or if no item has the modalities of `mode`; UsageError for a
    mode that the benchmark does not have.
    """
    kind = bench_kind(bench)
    session.check_manifest(bench, "The benchmark")
    if mode != "all" and mode not in kind.modes:
        raise UsageError(f"{kind.title} has no mode {mode}.", hint=f"It has {', '.join(kind.modes)}.")
    rows = list(iter_rows(bench))
    modes: tuple[Mode, ...] = kind.modes if mode == "all" else (mode,)
    manifest = session.loaded.manifest
    if manifest is not None and not hears(manifest):
        modes = tuple(name for name in modes if "s" not in name)
    if not modes:
        raise LstError(f"{session.directory} was trained on text only: it has no mode {mode}.", hint="Use --mode t-t.")
    written: list[dict[str, Any]] = []
    if recogniser is not None and heard_file is not None:
        check_recogniser(session, recogniser)
        written = as_heard(recogniser, rows, heard_file, progress=progress)
    with open_store(session) as store:
        items = score_items(session, rows, modes, progress=progress, store=store)
        heard = score_items(session, written, ("t-t",), progress=progress, store=store)
    if not items:
        raise LstError(
            f"No item of {bench.path} has what mode {mode} needs.",
            hint="s needs audio, t needs text, for the prompt and for both endings; --mode all does whatever is there.",
        )
    items += [replace(item, mode=HEARD) for item in heard]
    by_mode = {name: [item for item in items if item.mode == name] for name in (*modes, HEARD)}
    scored = {
        name: summarise_mode(kind, chosen, len(rows), confidence=confidence, resamples=resamples, seed=seed)
        for name, chosen in by_mode.items()
        if chosen
    }
    summary: dict[str, Any] = {
        "benchmark": bench.provenance[0]["corpus"] if bench.provenance else bench.path.name,
        "kind": kind.name,
        "bench_id": bench.id,
        "model_id": manifest.id if manifest is not None else "",
        "tokenizer": session.fingerprints.get("tokenizer", ""),
        "protocol": _protocol(kind),
        "confidence": confidence,
        "rejected": bench.rejected,
        "modes": scored,
        "missing_modes": [name for name in kind.modes if name not in scored] if mode == "all" else [],
    }
    if recogniser is not None:
        told = recogniser.loaded.manifest
        summary["recogniser"] = told.id if told is not None else ""
        summary["missing_modes"] += [HEARD] if HEARD not in scored else []
    summary["totals"] = {
        "items": len(rows),
        **{f"accuracy {name}": round(body["accuracy"], 4) for name, body in scored.items()},
    }
    return Result(summary, items)


def bench_kind(bench: Manifest) -> Benchmark:
    """Which benchmark an imported one is; one that does not say is a story cloze."""
    name = str(bench.config.get("kind", "storycloze"))
    return benchmark_named(name) if name in BENCHMARKS else BENCHMARKS["storycloze"]


def open_store(session: Session) -> Any:
    """The scores that this model was given before (a context; None for a model that is still in training)."""
    manifest = session.loaded.manifest
    if manifest is None:
        return nullcontext()
    return ScoreStore(cache_home() / "scores" / f"{manifest.id}.sqlite")


def _protocol(kind: Benchmark) -> str:
    names = {"mean_unit": "mean per unit", "mean_char": "per character", "sum": "sum"}
    speech, text = names[kind.speech_headline], names[kind.text_headline]
    counted = "readings of a pair count once" if kind.by_group else "every item counts once"
    return (
        f"log p of the ending given the prompt; ties 1/k; {counted}; headline: {speech} (speech endings), {text} "
        "(text endings)"
    )


def summarise_mode(
    kind: Benchmark,
    items: Sequence[ItemScores],
    all_items: int,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Accuracy of every variant with its interval; the headline's is repeated at the top."""
    earned = credits(items)
    chosen = kind.headline(items[0].mode)
    variants = {}
    for name, values in earned.items():
        counted, groups = independent(kind, [item.group for item in items], values)
        interval = bootstrap_interval(counted, groups=groups, confidence=confidence, resamples=resamples, seed=seed)
        variants[name] = {"accuracy": interval.mean, "low": interval.low, "high": interval.high}
    choices = Counter(len(item.tokens) for item in items)
    chance = sum(count / size for size, count in choices.items()) / len(items)
    body: dict[str, Any] = {"n": len(items), "groups": len({item.group for item in items}), "chance": chance}
    body |= {"headline": chosen, **variants[chosen], "variants": variants}
    body["without_modality"] = all_items - len(items)
    body["truncated_prompts"] = sum(item.dropped > 0 for item in items)
    categories = by_category(items, earned[chosen])
    if categories:
        body["categories"] = categories
    note = size_note(variants[chosen]["low"], variants[chosen]["high"], body["groups"])
    if note:
        body["note"] = note
    return body


def independent(
    kind: Benchmark, groups: Sequence[str], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[str]]:
    """What is averaged and resampled: items with their groups, or one mean per group where readings count once."""
    if not kind.by_group:
        return values, list(groups)
    names = list(dict.fromkeys(groups))
    place = {name: index for index, name in enumerate(names)}
    which = np.array([place[group] for group in groups])
    return np.bincount(which, weights=values) / np.bincount(which), names


def by_category(items: Sequence[ItemScores], earned: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Accuracy and size of every category, if the benchmark has several."""
    parts: dict[str, list[float]] = {}
    for item, value in zip(items, earned, strict=True):
        parts.setdefault(item.category, []).append(float(value))
    if len(parts) < 2:
        return {}
    return {name: {"n": len(values), "accuracy": float(np.mean(values))} for name, values in sorted(parts.items())}


def write_items(path: Path, items: Sequence[ItemScores]) -> None:
    """Per-item scores as Parquet: one row per item and mode, lists over the choices, `earned_*` per variant."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for mode in dict.fromkeys(item.mode for item in items):
        chosen = [item for item in items if item.mode == mode]
        columns: dict[str, Any] = {}
        for name in vars(chosen[0]):
            values = [getattr(item, name) for item in chosen]
            columns[name] = [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
        columns |= {f"earned_{name}": values for name, values in credits(chosen).items()}
        tables.append(pa.table(columns))
    pq.write_table(pa.concat_tables(tables, promote_options="default"), path)
