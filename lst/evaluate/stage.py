"""Evaluation as stages: a model and a benchmark (or held-out data) in, `lst.eval/1` out.

`lst.eval/1` holds `summary.json` (what the numbers are, with intervals and every variant), `summary.md` (the same as a
short table), and for a benchmark `items.parquet` (one row per item and mode: sums, counts, and what it earned).
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from lst.config import StageConfig
from lst.evaluate.losses import LossesConfig, measure_losses
from lst.evaluate.report import losses_markdown, storycloze_markdown
from lst.evaluate.storycloze import Choice, evaluate_storycloze, write_items
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    StageSpec,
    build_directory,
    merge_provenance,
    write_atomic,
    write_json,
)

__all__ = ["LossesConfig", "StoryclozeConfig", "losses", "losses_spec", "storycloze", "storycloze_spec"]

VERSION = 1
SUMMARY_FILE = "summary.json"
TABLE_FILE = "summary.md"
ITEMS_FILE = "items.parquet"


class StoryclozeConfig(StageConfig):
    """What is scored, and how sure the result is. Batch sizes are not here: they do not change scores."""

    mode: Choice = Field("all", description="s-s, t-t, s-t, t-s, or all that the benchmark has")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the bootstrap interval")
    resamples: int = Field(10_000, ge=100, description="bootstrap resamples")
    seed: int = Field(0, ge=0, description="of the bootstrap")


def storycloze_spec(model: Manifest, bench: Manifest, config: StoryclozeConfig) -> StageSpec:
    """What `storycloze` would make."""
    return _spec("eval-storycloze", {"model": model, "bench": bench}, config)


def storycloze(
    model: Manifest,
    bench: Manifest,
    out: Path,
    config: StoryclozeConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Score a benchmark of two or more endings per item (method: section 6) and write `lst.eval/1` to `out`.

    `workers` is ignored: one process scores in batches. Raises LstError if the benchmark's units are another
    tokenizer's, or if it lacks the modalities asked for.
    """

    def make(directory: Path) -> DirectoryResult:
        result = evaluate_storycloze(
            model,
            bench,
            mode=config.mode,
            confidence=config.confidence,
            resamples=config.resamples,
            seed=config.seed,
            progress=progress,
            device=device,
        )
        write_items(directory / ITEMS_FILE, result.items)
        return write_result(directory, result.summary, storycloze_markdown(result.summary), [ITEMS_FILE])

    return build_directory(out, storycloze_spec(model, bench, config), make, force=force)


def losses_spec(model: Manifest, pairs: Manifest, text: Manifest, config: LossesConfig) -> StageSpec:
    """What `losses` would make."""
    return _spec("eval-losses", {"model": model, "pairs": pairs, "text": text}, config)


def losses(
    model: Manifest,
    pairs: Manifest,
    text: Manifest,
    out: Path,
    config: LossesConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Held-out bits per second of speech and per text token, and write them as `lst.eval/1` to `out`."""

    def make(directory: Path) -> DirectoryResult:
        summary = measure_losses(model, pairs, text, config, progress=progress, device=device)
        return write_result(directory, summary, losses_markdown(summary), [])

    return build_directory(out, losses_spec(model, pairs, text, config), make, force=force)


def _spec(stage: str, inputs: dict[str, Manifest], config: StageConfig) -> StageSpec:
    model = inputs["model"]
    names = ("tokenizer", "text_tokenizer", "model")
    return StageSpec(
        schema="lst.eval/1",
        stage=stage,
        version=VERSION,
        config=config.as_json(),
        inputs=inputs,
        fingerprints={name: model.fingerprints[name] for name in names if name in model.fingerprints},
        provenance=merge_provenance(*(manifest.provenance for manifest in inputs.values())),
    )


def write_result(directory: Path, summary: dict[str, Any], table: str, more: list[str]) -> DirectoryResult:
    """Write `summary.json` and `summary.md` beside the files `more`; the summary's `totals` are the manifest's."""
    write_atomic(directory / TABLE_FILE, table)
    write_json(directory / SUMMARY_FILE, summary)  # last: where it is, everything is
    return DirectoryResult(artifacts=[SUMMARY_FILE, TABLE_FILE, *more], totals=summary["totals"])
