"""`lst run` and `lst plan`: whole recipes."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from lst.pipeline.run import StageRun, StageState

RECIPE = typer.Argument(..., help="YAML recipe, such as recipes/demo.yaml.")
OUT = typer.Option(None, "--out", help="Directory of the run (default: outputs/NAME).")
SET = typer.Option(None, "--set", help="Change a key of the recipe: STAGE.KEY=VALUE. May be repeated.")
ONLY = typer.Option(None, "--only", help="Only this stage and what it depends on. May be repeated.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run")(run)
    app.command("plan")(plan)


def run(
    recipe: Path = RECIPE,
    out: Path = OUT,
    why: bool = typer.Option(False, "--why", help="Say for every stage why it is made or not."),
    only: list[str] = ONLY,
    changes: list[str] = SET,
    workers: int = typer.Option(
        0, show_default=False, help="Processes for stages that can use several (default: all cores).", min=0
    ),
    jobs: int = typer.Option(1, help="Stages to make at once, each in a process of its own.", min=1),
    device: str = typer.Option("auto", help="cpu, cuda, or auto: a GPU if there is one."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Run a recipe from audio to a talking model; what is already made stays as it is.

    Example: lst run recipes/demo.yaml --set pretrain.seed=1 --why
    """
    import os

    from lst.cli.common import emit_json, err, stage_progress
    from lst.pipeline.recipe import load_recipe
    from lst.pipeline.run import run_recipe

    loaded = load_recipe(recipe, changes or [])
    directory = out or Path("outputs") / loaded.name
    console = err()

    def announce(state: "StageState") -> None:
        if why:
            console.print(_line(state), markup=False)

    def tell(run: "StageRun") -> None:
        if jobs > 1:
            console.print(f"{run.name}: made in {run.seconds:.0f} s", markup=False)

    runs = run_recipe(
        loaded,
        directory,
        only=only or [],
        workers=workers or os.cpu_count() or 1,
        jobs=jobs,
        device=device,
        open_progress=stage_progress,
        on_stage=announce,
        on_made=tell,
    )
    computed = [item.name for item in runs if item.computed]
    made = f"{len(computed)} of {len(runs)} stages made: {', '.join(computed)}" if computed else "Nothing to do."
    console.print(made, markup=False)
    from lst.pipeline.summary import run_summary, summary_rows, write_report

    complete = not only
    report = write_report(directory, changed=bool(computed)) if complete else None
    facts = run_summary(directory, report)
    if as_json:
        emit_json(facts)
        return
    _print_summary(summary_rows(facts))


def _print_summary(rows: list[tuple[str, str]]) -> None:
    from rich.table import Table

    from lst.cli.common import out

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    out().print(table)


def plan(
    recipe: Path = RECIPE,
    out: Path = OUT,
    only: list[str] = ONLY,
    changes: list[str] = SET,
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Say what a run would make and why, without making anything.

    Example: lst plan recipes/demo.yaml --set align.min_score=0.5
    """
    from lst.cli.common import emit_json
    from lst.cli.common import out as results
    from lst.pipeline.recipe import load_recipe
    from lst.pipeline.run import plan_recipe

    loaded = load_recipe(recipe, changes or [])
    states = plan_recipe(loaded, out or Path("outputs") / loaded.name, only or [])
    if as_json:
        emit_json([{"stage": state.name, "state": state.state, "reasons": state.reasons} for state in states])
        return
    for state in states:
        results().print(_line(state), markup=False)


def _line(state: "StageState") -> str:
    verdict = {"made": "up to date", "new": "to make", "continue": "to continue", "changed": "to make again"}
    text = verdict.get(state.state, "waits")
    reasons = f": {'; '.join(state.reasons)}" if state.reasons else ""
    return f"{state.name}: {text}{reasons}"
