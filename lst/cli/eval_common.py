"""What the commands of `lst eval` share: options, where results are kept, how they are shown."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from lst.assets.models import Part
    from lst.manifest import Manifest

MODEL = typer.Option(..., help="Model to be tested (made by lst pretrain or lst finetune), or a name: lst-nano.")
OUT = typer.Option(None, help="Keep the result here: summary.json, summary.md, per-item scores as Parquet.")
SEED = typer.Option(0, help="Of the bootstrap, or of the choice of rows.")
DEVICE = typer.Option("cpu", help="cpu or cuda.")
FORCE = typer.Option(False, "--force", help="Replace another result at --out.")
JSON = typer.Option(False, "--json", help="Print the summary as JSON.")
TOKENIZER = typer.Option(None, help="Unit tokenizer (default: the model's, by its fingerprint).")
WORKERS = typer.Option(1, min=1, help="Processes that turn the benchmark's audio into units.")


def open_model(given: Path, part: "Part" = "pretrained") -> "Manifest":
    """The model that --model names. `part`: what is measured of an asset that is named as a whole."""
    from lst.assets.models import find_model
    from lst.manifest import load_manifest

    return load_manifest(find_model(given, part).directory, "lst.model")


def kept_or_temporary(out: Path | None) -> Any:
    """`out`, or a place that is gone when the result has been shown."""
    from contextlib import contextmanager, nullcontext
    from tempfile import TemporaryDirectory

    if out is not None:
        return nullcontext(out)

    @contextmanager
    def temporary() -> Any:
        with TemporaryDirectory(prefix="lst-eval-") as directory:
            yield Path(directory) / "result"

    return temporary()


def read_result(result: "Manifest") -> tuple[dict[str, Any], str]:
    """The summary of an evaluation, and its table."""
    import json

    summary: dict[str, Any] = json.loads(result.file("summary.json").read_text(encoding="utf-8"))
    return summary, result.file("summary.md").read_text(encoding="utf-8")


def print_result(summary: dict[str, Any], table: str, as_json: bool) -> None:
    """The table for people, or the summary for machines."""
    from lst.cli.common import emit_json

    if as_json:
        emit_json(summary)
    else:
        typer.echo(table.rstrip("\n"))


def checked(kind: Any, values: dict[str, Any]) -> Any:
    """A checked configuration; a wrong value is wrong usage."""
    from pydantic import ValidationError

    from lst.errors import UsageError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--{name.replace('_', '-')}: {first['msg']}.") from error
