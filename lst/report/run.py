"""The run that a report is about: what `lst run` recorded, and the manifests that are there."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lst.errors import LstError
from lst.manifest import Manifest, load_manifest, parse_schema
from lst.manifest.manifest import MANIFEST_FILE
from lst.pipeline.run import RUN_FILE, read_runs
from lst.pipeline.summary import stage_manifests


@dataclass(frozen=True)
class Run:
    """`stages`: what `run.json` says of each stage (id, seconds, peak_mb); `made`: the manifests that could be read."""

    path: Path
    recipe: str
    stages: dict[str, dict[str, Any]]
    made: dict[str, Manifest]

    @property
    def is_result(self) -> bool:
        """A result of `lst eval` by itself: there are scores, and nothing was run."""
        return bool(self.made) and not self.stages

    @property
    def missing(self) -> list[str]:
        """Stages that were made once and cannot be read now."""
        return [name for name in self.stages if name not in self.made]

    def of_schema(self, schema: str) -> dict[str, Manifest]:
        """The stages that made `schema` (`lst.model`), by name, in the order of the run."""
        return {name: item for name, item in self.made.items() if parse_schema(item.schema)[0] == schema}

    def first(self, schema: str) -> Manifest | None:
        """The first stage that made `schema`."""
        return next(iter(self.of_schema(schema).values()), None)

    def pretrained(self) -> Manifest | None:
        """The model that was trained from nothing."""
        models = self.of_schema("lst.model").values()
        return next((model for model in models if model.stage == "pretrain"), None)


def open_run(directory: Path) -> Run:
    """Read the run in `directory`, or a result of `lst eval` by itself. Raises LstError if it is neither."""
    file = directory / RUN_FILE
    if not file.is_file() and (directory / MANIFEST_FILE).is_file():
        result = load_manifest(directory, "lst.eval")
        return Run(directory, result.stage, {}, {result.stage: result})
    if not file.is_file():
        what = f"holds no {RUN_FILE}" if directory.exists() else "does not exist"
        raise LstError(
            f"{directory} {what}.",
            hint="Give the directory of a run, made by lst run, or of a result (lst eval).",
        )
    try:
        body = read_runs(directory)
        stages = {str(name): dict(entry) for name, entry in body["stages"].items()}
        return Run(directory, str(body["recipe"]), stages, stage_manifests(directory))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LstError(f"{file} is damaged.", hint="Run the recipe again: it is written anew.") from error


def read_json(manifest: Manifest, name: str) -> dict[str, Any]:
    """A JSON artifact. Raises LstError if it is missing or damaged."""
    try:
        body = json.loads(manifest.file(name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise LstError(f"{manifest.path / name} is not JSON.") from error
    if not isinstance(body, dict):
        raise LstError(f"{manifest.path / name} holds no JSON object.")
    return body


def read_lines(manifest: Manifest, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL artifact; a line that is cut short is left out."""
    with manifest.file(name).open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line
