"""`lst eval`: the group; its commands are in `lst.cli.eval_*`, one file per kind of measurement."""

import typer

from lst.cli import eval_benchmarks, eval_losses, eval_speech, eval_tasks


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Measure a model.")
    for part in (eval_benchmarks, eval_losses, eval_speech, eval_tasks):
        part.register(group)
    app.add_typer(group, name="eval")
