"""Two models on the same items: the difference, how sure it is, and whether the items are enough to tell.

Each side is one result of `lst eval`, or several of models that differ in their seed. Over seeds an item's credit is
averaged before the paired test, which says what these items show about these models; how much training again moves a
result is the standard deviation beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lst.errors import LstError
from lst.evaluate.choices import independent
from lst.evaluate.kinds import BENCHMARKS, Benchmark
from lst.evaluate.stage import ITEMS_FILE, SUMMARY_FILE
from lst.evaluate.statistics import Seeds, holm, over_seeds, paired_test
from lst.manifest import Manifest, load_manifest

SURE = 0.05
"""The p-value, adjusted for the number of comparisons, up to which two results are called different."""


@dataclass(frozen=True)
class Part:
    """One benchmark of one result, in one mode: ids, groups and credits by variant, in the file's order."""

    kind: Benchmark
    bench_id: str
    headline: str
    ids: list[str]
    groups: list[str]
    earned: dict[str, NDArray[np.float64]]


def compare(a: Sequence[Path], b: Sequence[Path], *, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """Paired comparison of results (`lst.eval/1`) A and B, for every benchmark and mode that all of them have.

    Returns {"rows": […], "only": what one side lacks}; a row has the means, the difference with its interval, the
    p-value (and Holm's over all headlines), and a note where the items are too few. Raises LstError if they have
    nothing in common.
    """
    sides = [[read_parts(load_manifest(path, "lst.eval")) for path in side] for side in (a, b)]
    everyone = [parts for side in sides for parts in side]
    common = [key for key in everyone[0] if all(key in parts for parts in everyone)]
    only = sorted({" ".join(key) for parts in everyone for key in parts if key not in common})
    if not common:
        raise LstError(
            f"{a[0]} and {b[0]} have no benchmark and mode in common.",
            hint="Measure both models on the same benchmarks: lst eval all.",
        )
    rows = [
        row
        for key in common
        for row in _rows(key, [[parts[key] for parts in side] for side in sides], confidence=confidence, seed=seed)
    ]
    headlines = [row for row in rows if row["is_headline"]]
    for row, p_value in zip(headlines, holm([row["p_value"] for row in headlines]), strict=True):
        row["p_holm"] = p_value
    return {"a": [str(path) for path in a], "b": [str(path) for path in b], "rows": rows, "only": only}


def seeds(results: Sequence[Path]) -> dict[str, Any]:
    """Mean and standard deviation over results of models that differ in their seed, per benchmark, mode and variant."""
    everyone = [read_parts(load_manifest(path, "lst.eval")) for path in results]
    rows = []
    for key in [key for key in everyone[0] if all(key in parts for parts in everyone)]:
        parts = [found[key] for found in everyone]
        for variant in parts[0].earned:
            if all(variant in part.earned for part in parts):
                found = over_seeds([_accuracy(part, variant) for part in parts])
                rows.append(
                    {
                        "benchmark": key[0],
                        "mode": key[1],
                        "variant": variant,
                        "is_headline": variant == parts[0].headline,
                        "items": len(parts[0].ids),
                        **vars(found),
                    }
                )
    if not rows:
        raise LstError("These results have no benchmark and mode in common.", hint="Run lst eval all on each model.")
    return {"results": [str(path) for path in results], "rows": rows}


def _rows(key: tuple[str, str], sides: list[list[Part]], *, confidence: float, seed: int) -> list[dict[str, Any]]:
    """One row per variant; items are matched by id."""
    parts = [part for side in sides for part in side]
    first = parts[0]
    shared = set(first.ids).intersection(*(part.ids for part in parts[1:]))
    if not shared:
        raise LstError(f"The results of {' '.join(key)} have no item in common.", hint="Use the same benchmark.")
    order = sorted(shared)
    groups = [first.groups[place] for place in _places(first, order)]
    rows = []
    for variant in first.earned:
        if not all(variant in part.earned for part in parts):
            continue
        means = [np.mean([part.earned[variant][_places(part, order)] for part in side], axis=0) for side in sides]
        counted = [independent(first.kind, groups, values) for values in means]
        test = paired_test(counted[0][0], counted[1][0], groups=counted[0][1], confidence=confidence, seed=seed)
        over = [over_seeds([_accuracy(part, variant) for part in side]) for side in sides]
        row: dict[str, Any] = {
            "benchmark": key[0],
            "mode": key[1],
            "variant": variant,
            "is_headline": variant == first.headline,
            "a": float(counted[0][0].mean()),
            "b": float(counted[1][0].mean()),
            **{f"{side}_seeds": vars(found) for side, found in zip("ab", over, strict=True)},
            **vars(test),
        }
        notes = [test.note, _seed_note(*over)]
        if len({part.bench_id for part in parts}) > 1:
            notes.append(f"the benchmark differs between the results: {len(order)} common items are compared")
        rows.append(row | {"note": "; ".join(filter(None, notes))})
    return rows


def _seed_note(a: Seeds, b: Seeds) -> str:
    """A warning if training again with another seed may turn the result round."""
    if a.std is None or b.std is None:
        return "" if a.n == b.n == 1 else "one side has a single seed"
    spread = float(np.sqrt(a.std**2 / a.n + b.std**2 / b.n))
    if spread and abs(a.mean - b.mean) < 2 * spread:
        return f"within the spread of seeds ({100 * spread:.1f} points)"
    return ""


def _accuracy(part: Part, variant: str) -> float:
    return float(independent(part.kind, part.groups, part.earned[variant])[0].mean())


def _places(part: Part, ids: Sequence[str]) -> list[int]:
    place = {name: index for index, name in enumerate(part.ids)}
    return [place[name] for name in ids]


def read_parts(manifest: Manifest) -> dict[tuple[str, str], Part]:
    """What the items of a result (`lst.eval/1`) earned, by benchmark and mode."""
    import json

    import pyarrow.parquet as pq

    summary = json.loads(manifest.file(SUMMARY_FILE).read_text(encoding="utf-8"))
    found: dict[tuple[str, str], Part] = {}
    several = summary.get("benchmarks")
    for name, body in (several or {summary.get("kind", "storycloze"): summary}).items():
        if "modes" not in body:
            continue
        table = pq.read_table(manifest.file(f"{name}/{ITEMS_FILE}" if several else ITEMS_FILE)).to_pydict()
        for mode, part in body["modes"].items():
            chosen = [place for place, value in enumerate(table["mode"]) if value == mode]
            earned = {}
            for column, values in table.items():
                credit = [values[place] for place in chosen] if column.startswith("earned_") else []
                if credit and None not in credit:
                    earned[column.removeprefix("earned_")] = np.array(credit, dtype=np.float64)
            found[name, mode] = Part(
                BENCHMARKS[body.get("kind", "storycloze")],
                body["bench_id"],
                part["headline"],
                [table["id"][place] for place in chosen],
                [table["group"][place] for place in chosen],
                earned,
            )
    return found
