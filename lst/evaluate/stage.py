"""Evaluation as stages: a model and a benchmark (or held-out data) in, `lst.eval/1` out.

`lst.eval/1` holds `summary.json` (what the numbers are, with intervals and every variant), `summary.md` (the same as a
short table), and for a benchmark `items.parquet` (one row per item and mode: sums, counts, and what it earned); with a
recogniser also `heard.jsonl` (a hash of each piece of speech, and its transcript). Of `eval_all` each benchmark has a
directory with all of these.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from lst.assets.models import find_model
from lst.config import StageConfig
from lst.evaluate.choices import Choice, bench_kind, evaluate_choices, write_items
from lst.evaluate.losses import LossesConfig, measure_losses
from lst.evaluate.report import choices_markdown, losses_markdown
from lst.generate.session import Session, open_session
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    StageSpec,
    build_directory,
    load_manifest,
    merge_provenance,
    write_atomic,
    write_json,
)

__all__ = ["ChoicesConfig", "LossesConfig", "choices", "choices_spec", "losses", "losses_spec"]

VERSION = 3
SUMMARY_FILE = "summary.json"
TABLE_FILE = "summary.md"
ITEMS_FILE = "items.parquet"
HEARD_FILE = "heard.jsonl"


class RecogniserConfig(StageConfig):
    """Settings of what may hear a benchmark's speech as well."""

    recogniser: Path | None = Field(
        None, description="asr model that writes the speech down: adds the mode heard, speech by way of text"
    )

    def as_json(self) -> dict[str, Any]:
        """The settings; `recogniser` is left out: of it the model's id counts (`told_of`), not its place."""
        return {key: value for key, value in super().as_json().items() if key != "recogniser"}


class ChoicesConfig(RecogniserConfig):
    """What is scored, and how sure the result is. Batch sizes are not here: they do not change scores."""

    mode: Choice = Field("all", description="s-s, t-t, s-t, t-s, or all that the benchmark has")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the bootstrap interval")
    resamples: int = Field(10_000, ge=100, description="bootstrap resamples")
    seed: int = Field(0, ge=0, description="of the bootstrap")


def choices_spec(model: Manifest, bench: Manifest, config: ChoicesConfig) -> StageSpec:
    """What `choices` would make."""
    more = told_of(config.recogniser)
    return eval_spec(f"eval-{bench_kind(bench).name}", {"model": model, "bench": bench}, config, more=more)


def told_of(recogniser: Path | None) -> dict[str, Any]:
    """What a spec says of a recogniser: which one, not where it is."""
    return {} if recogniser is None else {"recogniser_id": load_manifest(find_model(recogniser, "asr").directory).id}


def open_recogniser(recogniser: Path | None, *, device: str) -> Session | None:
    """The recogniser of a directory, or of an asset's name."""
    return None if recogniser is None else open_session(find_model(recogniser, "asr").directory, device=device)


def choices(
    model: Manifest,
    bench: Manifest,
    out: Path,
    config: ChoicesConfig,
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
        session = open_session(model.path, device=device)
        recogniser = open_recogniser(config.recogniser, device=device)
        result = evaluate_choices(
            session,
            bench,
            **config.model_dump(exclude={"recogniser"}),
            recogniser=recogniser,
            heard_file=directory / HEARD_FILE,
            progress=progress,
        )
        write_items(directory / ITEMS_FILE, result.items)
        files = [ITEMS_FILE] if recogniser is None else [ITEMS_FILE, HEARD_FILE]
        return write_result(directory, result.summary, choices_markdown(result.summary), files)

    return build_directory(out, choices_spec(model, bench, config), make, force=force)


def losses_spec(model: Manifest, pairs: Manifest, text: Manifest, config: LossesConfig) -> StageSpec:
    """What `losses` would make."""
    return eval_spec("eval-losses", {"model": model, "pairs": pairs, "text": text}, config)


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
        session = open_session(model.path, device=device)
        summary = measure_losses(session, pairs, text, config, progress=progress)
        return write_result(directory, summary, losses_markdown(summary), [])

    return build_directory(out, losses_spec(model, pairs, text, config), make, force=force)


def eval_spec(
    stage: str, inputs: dict[str, Manifest], config: StageConfig, *, more: dict[str, Any] | None = None
) -> StageSpec:
    """An evaluation's spec: `inputs` has the role `model`; `more` is added to the settings."""
    model = inputs["model"]
    names = ("tokenizer", "text_tokenizer", "model")
    return StageSpec(
        schema="lst.eval/1",
        stage=stage,
        version=VERSION,
        config=config.as_json() | (more or {}),
        inputs=inputs,
        fingerprints={name: model.fingerprints[name] for name in names if name in model.fingerprints},
        provenance=merge_provenance(*(manifest.provenance for manifest in inputs.values())),
    )


def write_result(directory: Path, summary: dict[str, Any], table: str, more: list[str]) -> DirectoryResult:
    """Write `summary.json` and `summary.md` beside the files `more`; the summary's `totals` are the manifest's."""
    write_atomic(directory / TABLE_FILE, table)
    write_json(directory / SUMMARY_FILE, summary)  # last: where it is, everything is
    return DirectoryResult(artifacts=[SUMMARY_FILE, TABLE_FILE, *more], totals=summary["totals"])
