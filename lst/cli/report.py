"""`lst report`."""

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    directory: Path = typer.Argument(..., metavar="DIR", help="Directory of a run, as lst run makes it."),
    out: Path = typer.Option(None, "--out", help="The HTML file to write; otherwise DIR/report.html."),
) -> None:
    """Write a run's figures, scores and sounds as one HTML file that needs no other.

    Example: lst report outputs/demo --out demo.html
    """
    from lst.pipeline.summary import REPORT_FILE
    from lst.report import report as make

    typer.echo(make(directory, out or directory / REPORT_FILE))
