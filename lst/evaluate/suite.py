"""`lst eval all`: every benchmark in every direction it has, and the held-out losses, over one load of the model.

What cannot be measured is left out with one sentence that says why; the rest goes on. A killed run continues: finished
benchmarks are in the unfinished output, and batches of the one that was interrupted in the score store.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from lst.errors import LstError
from lst.evaluate.benchmark import CARD_FILE
from lst.evaluate.choices import bench_kind, evaluate_choices, write_items
from lst.evaluate.data import NoUnits, benchmark_for
from lst.evaluate.kinds import BENCHMARKS
from lst.evaluate.losses import LossesConfig, measure_losses
from lst.evaluate.readers import detect
from lst.evaluate.report import choices_markdown, losses_markdown, suite_markdown
from lst.evaluate.stage import (
    HEARD_FILE,
    ITEMS_FILE,
    SUMMARY_FILE,
    RecogniserConfig,
    eval_spec,
    open_recogniser,
    told_of,
    write_result,
)
from lst.generate.recognition import check_recogniser
from lst.generate.session import Session, open_session
from lst.manifest import DirectoryResult, Manifest, Progress, StageSpec, build_directory, load_manifest, open_input

LOSSES = "losses"
_TOPIC_NAMES = ("tsc", "topic-storycloze")


class SuiteConfig(RecogniserConfig):
    """How sure the results are, and how much the losses are measured on."""

    confidence: float = Field(0.95, gt=0, lt=1, description="of the bootstrap intervals")
    resamples: int = Field(10_000, ge=100, description="bootstrap resamples")
    seed: int = Field(0, ge=0, description="of the bootstrap and of the losses' rows")
    losses: LossesConfig = Field(LossesConfig(), description="held-out losses")


@dataclass
class Suite:
    """What will be measured: benchmarks by name, held-out data, and why what else was asked for is missing."""

    benches: dict[str, Manifest] = field(default_factory=dict)
    held_out: dict[str, Manifest] = field(default_factory=dict)
    """`pairs` and `text`, or nothing."""
    missing: dict[str, str] = field(default_factory=dict)


def shipped_benchmarks() -> list[Path]:
    """The benchmarks in the repository that this package runs from; none for an installed package."""
    home = Path(__file__).parent.parent.parent / "data_manifests"
    return sorted(card.parent for card in home.glob(f"*/{CARD_FILE}"))


def gather(
    model: Manifest,
    data: Sequence[str],
    *,
    pairs: Path | None = None,
    text: Path | None = None,
    tokenizer: str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Suite:
    """Import everything that `data` names, as far as that can be done.

    An entry of `data` is a benchmark, a directory of benchmarks, or BENCHMARK=PATH; without any, the shipped ones are
    taken. Without `pairs` the held-out losses are measured on what the model was trained with, if it is still there.
    """
    suite = Suite()
    wanted = [found for entry in data for found in _find(entry)] or [("auto", path) for path in shipped_benchmarks()]
    if not wanted:
        raise LstError("There is no benchmark to run.", hint="Name some: --data PATH, or --data hellaswag=PATH.")
    for kind, path in wanted:
        try:
            bench = _import(model, path, kind, tokenizer, workers, progress, suite)
        except LstError as error:
            suite.missing[path.name if kind == "auto" else kind] = error.message
            continue
        suite.benches[_name(bench, path, suite.benches)] = bench
    try:
        made = load_manifest(pairs, "lst.pairs") if pairs is not None else open_input(model, "pairs")
        suite.held_out["pairs"] = made
        suite.held_out["text"] = load_manifest(text, "lst.text") if text is not None else open_input(made, "text")
    except LstError as error:
        suite.held_out.clear()
        suite.missing[LOSSES] = error.message
    return suite


def _find(entry: str) -> list[tuple[str, Path]]:
    """(kind, path) of every benchmark that an entry of --data names."""
    kind, sign, rest = entry.partition("=")
    if sign and kind in BENCHMARKS:
        return [(kind, Path(rest))]
    path = Path(entry)
    if not path.is_dir() or (path / "manifest.json").is_file() or _readable(path):
        return [("auto", path)]
    return [("auto", below) for below in sorted(path.iterdir()) if not below.name.startswith(".")]


def _readable(path: Path) -> bool:
    try:
        detect(path)
    except LstError:
        return False
    return True


def _import(
    model: Manifest,
    path: Path,
    kind: str,
    tokenizer: str | None,
    workers: int,
    progress: Progress | None,
    suite: Suite,
) -> Manifest:
    """The benchmark, as text only if the model's unit tokenizer is not here: half the modes are better than none."""
    if kind == "auto" and path.stem.lower() in _TOPIC_NAMES:
        kind = "topic-storycloze"
    try:
        return benchmark_for(model, path, kind=kind, tokenizer=tokenizer, workers=workers, progress=progress)
    except NoUnits as error:
        suite.missing[f"{path.name}, speech"] = error.message
        return benchmark_for(model, path, kind=kind, text_only=True, workers=workers, progress=progress)


def _name(bench: Manifest, path: Path, taken: Mapping[str, Manifest]) -> str:
    """`hellaswag`; a second one of the same benchmark is told apart by its file, a third by a number."""
    name = bench_kind(bench).name
    if name in taken:
        name = re.sub(r"[^\w.-]+", "-", f"{name}-{path.stem}")
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}-{number}", number + 1
    return unique


def eval_all_spec(model: Manifest, suite: Suite, config: SuiteConfig) -> StageSpec:
    """What `eval_all` would make."""
    inputs = {"model": model, **{f"bench-{name}": bench for name, bench in suite.benches.items()}, **suite.held_out}
    more = {"missing": sorted(suite.missing), **told_of(config.recogniser)}
    return eval_spec("eval-all", inputs, config, more=more)


def eval_all(
    model: Manifest,
    suite: Suite,
    out: Path,
    config: SuiteConfig,
    *,
    progress: Callable[[str], Progress] | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Measure everything in `suite` and write `lst.eval/1` to `out`; `progress(title)` starts a part.

    Raises LstError if nothing could be measured, or if the recogniser is none.
    """

    def make(directory: Path) -> DirectoryResult:
        session = open_session(model.path, device=device)
        recogniser = open_recogniser(config.recogniser, device=device)
        if recogniser is not None:
            check_recogniser(session, recogniser)
        return _Run(session, recogniser, suite, config, directory, progress).all()

    return build_directory(out, eval_all_spec(model, suite, config), make, force=force)


@dataclass
class _Run:
    session: Session
    recogniser: Session | None
    suite: Suite
    config: SuiteConfig
    directory: Path
    progress: Callable[[str], Progress] | None
    artifacts: list[str] = field(default_factory=list)

    def all(self) -> DirectoryResult:
        missing = dict(self.suite.missing)
        parts: dict[str, dict[str, Any]] = {}
        work: dict[str, Callable[[Path, Progress | None], dict[str, Any]]] = {
            name: self._benchmark(bench) for name, bench in self.suite.benches.items()
        }
        if self.suite.held_out:
            work[LOSSES] = self._losses
        for name, measure in work.items():
            done = self._finished(name)
            if done is None:
                try:
                    home = self.directory / name
                    home.mkdir(exist_ok=True)
                    done = measure(home, self.progress(name) if self.progress is not None else None)
                except LstError as error:
                    missing[name] = error.message
                    continue
            parts[name] = done
            self.artifacts += [path.relative_to(self.directory).as_posix() for path in self._files(name)]
        if not parts:
            raise LstError("Nothing could be measured: " + " ".join(f"{name}: {why}" for name, why in missing.items()))
        losses = parts.pop(LOSSES, None)
        totals = {
            f"accuracy {name} {mode}": round(body["accuracy"], 4)
            for name, part in parts.items()
            for mode, body in part["modes"].items()
        }
        summary: dict[str, Any] = {
            "model_id": self.session.loaded.manifest.id if self.session.loaded.manifest else "",
            "benchmarks": parts,
            "missing": missing,
            "totals": totals | (losses["totals"] if losses else {}),
        }
        if losses:
            summary[LOSSES] = losses
        return write_result(self.directory, summary, suite_markdown(summary), self.artifacts)

    def _files(self, name: str) -> list[Path]:
        return sorted(path for path in (self.directory / name).iterdir() if not path.name.startswith("."))

    def _finished(self, name: str) -> dict[str, Any] | None:
        """What an interrupted run measured already: its summary is written last."""
        path = self.directory / name / SUMMARY_FILE
        if not path.is_file():
            return None
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary

    def _benchmark(self, bench: Manifest) -> Callable[[Path, Progress | None], dict[str, Any]]:
        def measure(home: Path, progress: Progress | None) -> dict[str, Any]:
            config = self.config
            result = evaluate_choices(
                self.session,
                bench,
                recogniser=self.recogniser,
                heard_file=home / HEARD_FILE,
                confidence=config.confidence,
                resamples=config.resamples,
                seed=config.seed,
                progress=progress,
            )
            write_items(home / ITEMS_FILE, result.items)
            write_result(home, result.summary, choices_markdown(result.summary), [])
            return result.summary

        return measure

    def _losses(self, home: Path, progress: Progress | None) -> dict[str, Any]:
        config = self.config.losses.model_copy(update={"seed": self.config.seed})
        pairs, text = self.suite.held_out["pairs"], self.suite.held_out["text"]
        summary = measure_losses(self.session, pairs, text, config, progress=progress)
        write_result(home, summary, losses_markdown(summary), [])
        return summary
