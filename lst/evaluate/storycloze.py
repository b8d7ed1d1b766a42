"""The story cloze: which of two endings does the model find likelier, in each of four directions.

Every way of counting is reported; which one is the headline is fixed beforehand (`scoring.headline`), because the
choice moves results by ten points (method: section 6).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lst.errors import LstError
from lst.evaluate.scoring import MODES, ItemScores, Mode, credits, headline, score_items
from lst.evaluate.statistics import bootstrap_interval
from lst.generate.session import open_session
from lst.manifest import Manifest, Progress, iter_rows

Choice = Literal["all", "s-s", "t-t", "s-t", "t-s"]

FEW_ITEMS = 100
"""Below this an interval is wider than the differences people look for; the summary says so."""


@dataclass(frozen=True)
class Result:
    """`summary`: what `summary.json` holds; `items`: one entry per item and mode."""

    summary: dict[str, Any]
    items: list[ItemScores]


def evaluate_storycloze(
    model: Manifest,
    bench: Manifest,
    *,
    mode: Choice = "all",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Result:
    """Score `bench` (`lst.bench/1`) with `model` (`lst.model/1`).

    Raises LstError if the units are another tokenizer's, or if no item has the modalities of `mode`.
    """
    session = open_session(model.path, device=device)
    session.check_manifest(bench, "The benchmark")
    rows = list(iter_rows(bench))
    modes: tuple[Mode, ...] = MODES if mode == "all" else (mode,)
    items = score_items(session, rows, modes, progress=progress)
    if not items:
        raise LstError(
            f"No item of {bench.path} has what mode {mode} needs.",
            hint="s needs audio, t needs text, for the prompt and for both endings; --mode all does whatever is there.",
        )
    by_mode = {name: [item for item in items if item.mode == name] for name in modes}
    scored = {
        name: summarise_mode(chosen, len(rows), confidence=confidence, resamples=resamples, seed=seed)
        for name, chosen in by_mode.items()
        if chosen
    }
    summary: dict[str, Any] = {
        "benchmark": bench.provenance[0]["corpus"] if bench.provenance else bench.path.name,
        "bench_id": bench.id,
        "model_id": model.id,
        "tokenizer": session.fingerprints.get("tokenizer", ""),
        "protocol": "log p of the ending given the prompt; ties 1/k; headline: mean per unit (speech endings), "
        "per character (text endings)",
        "confidence": confidence,
        "rejected": bench.rejected,
        "modes": scored,
        "missing_modes": [name for name, chosen in by_mode.items() if not chosen],
    }
    summary["totals"] = {
        "items": len(rows),
        **{f"accuracy {name}": round(body["accuracy"], 4) for name, body in scored.items()},
    }
    return Result(summary, items)


def summarise_mode(
    items: Sequence[ItemScores], all_items: int, *, confidence: float, resamples: int, seed: int
) -> dict[str, Any]:
    """Accuracy of every variant with its interval; the headline's is repeated at the top."""
    groups = [item.group for item in items]
    variants = {}
    for name, earned in credits(items).items():
        interval = bootstrap_interval(earned, groups=groups, confidence=confidence, resamples=resamples, seed=seed)
        variants[name] = {"accuracy": interval.mean, "low": interval.low, "high": interval.high}
    chosen = headline(items[0].mode)
    choices = Counter(len(item.tokens) for item in items)
    chance = sum(count / size for size, count in choices.items()) / len(items)
    body = {"n": len(items), "chance": chance, "headline": chosen, **variants[chosen], "variants": variants}
    body["without_modality"] = all_items - len(items)
    body["truncated_prompts"] = sum(item.dropped > 0 for item in items)
    if len(items) < FEW_ITEMS:
        body["note"] = f"only {len(items)} items: the interval is wide"
    return body


def write_items(path: Path, items: Sequence[ItemScores]) -> None:
    """Per-item scores as Parquet: one row per item and mode, lists over the choices, `earned_*` per variant."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for mode in dict.fromkeys(item.mode for item in items):
        chosen = [item for item in items if item.mode == mode]
        earned = credits(chosen)
        for place, item in enumerate(chosen):
            row: dict[str, Any] = {"id": item.id, "group": item.group, "mode": item.mode, "label": item.label}
            for name in ("conditional", "unconditional", "tokens", "units", "characters", "patches"):
                row[name] = getattr(item, name).tolist()
            row["dropped"] = item.dropped
            rows.append(row | {f"earned_{name}": float(values[place]) for name, values in earned.items()})
    names = list(dict.fromkeys(name for row in rows for name in row))
    pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), path)
