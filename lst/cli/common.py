"""What every command shares: where output goes, and the progress bar."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from lst.assets.models import Part
    from lst.manifest import Manifest, Progress


def err() -> "Console":
    """The console for everything that is not a result: stderr, with colours only on a terminal."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def out() -> "Console":
    """The console for results: stdout."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def emit_json(value: Any) -> None:
    """A result for machines, on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def model_directory(given: Path | None, part: "Part") -> Path:
    """Where the model is that a user named; without a name that in the box (its `part`), and stderr says so."""
    from lst.assets.models import find_model

    found = find_model(given, part)
    if given is None:
        err().print(f"lst: with {found.name}, the model in the box; --model names another.", markup=False)
    return found.directory


@contextmanager
def stage_progress(title: str) -> Iterator["Progress"]:
    """A progress callback: a rich bar on a terminal, elsewhere a plain line whenever another tenth is done."""
    console = err()
    if console.is_terminal:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=False) as bar:
            task = bar.add_task(title, total=None, unit="")

            def update(done: int, total: int, unit: str) -> None:
                bar.update(task, completed=done, total=total, unit=unit)

            yield update
        return

    last = -1

    def line(done: int, total: int, unit: str) -> None:
        nonlocal last
        tenth = 10 * done // total if total else 10
        if tenth != last:
            last = tenth
            console.print(f"{title}: {done}/{total} {unit}", markup=False)

    yield line


def print_manifest(manifest: "Manifest", *, as_json: bool = False) -> None:
    """What a stage made, in a few lines (or as JSON)."""
    if as_json:
        emit_json(summary(manifest))
        return
    import typer  # rich alone would take half as long to load as everything else here

    path = typer.style(manifest.path, bold=True)
    typer.echo(f"{path}  {manifest.schema}  id {manifest.id[:12]}  by {manifest.stage}")
    if manifest.totals:
        typer.echo("  " + ", ".join(counted(value, name) for name, value in manifest.totals.items()))
    if manifest.rejected:
        typer.echo("  rejected: " + ", ".join(f"{count} {reason}" for reason, count in manifest.rejected.items()))


def print_problems(found: Mapping[str, Sequence[str]], *, as_json: bool) -> bool:
    """What a check found, by the name of what was checked; True if there is any problem."""
    if as_json:
        emit_json([{"name": name, "intact": not problems, "problems": problems} for name, problems in found.items()])
    else:
        for name, problems in found.items():
            for problem in problems:
                err().print(problem, markup=False)
            if not problems:
                out().print(f"{name}: intact", markup=False)
    return any(found.values())


def summary(manifest: "Manifest") -> dict[str, Any]:
    """A manifest as plain JSON, as `--json` prints it."""
    return {
        "path": str(manifest.path),
        "schema": manifest.schema,
        "id": manifest.id,
        "stage": manifest.stage,
        "config": manifest.config,
        "inputs": {role: vars(entry) for role, entry in manifest.inputs.items()},
        "fingerprints": manifest.fingerprints,
        "totals": manifest.totals,
        "rejected": manifest.rejected,
        "provenance": manifest.provenance,
        "shards": len(manifest.shards),
        "artifacts": sorted(manifest.artifacts),
        "created": manifest.created,
        "tool": manifest.tool,
    }


def counted(value: float, name: str) -> str:
    """`1,024 speech patches` and `1 row`, from the name of a total."""
    name = name.replace("_", " ")
    if value == 1 and name.endswith("s") and not name.endswith("ss"):
        name = name.removesuffix("es") if name.endswith("ches") else name.removesuffix("s")
    return f"{format_number(value)} {name}"


def format_number(value: float) -> str:
    """12,345 for whole numbers, four significant digits otherwise; 1.129e+21 where nobody counts digits."""
    if abs(value) >= 1e12:
        return f"{value:.4g}"
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
