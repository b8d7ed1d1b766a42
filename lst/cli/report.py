"""`lst report`, `lst compare`."""

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("report")(report)
    app.command("compare")(compare)


def report(
    directory: Path = typer.Argument(..., metavar="DIR", help="Directory of a run, or of a result of lst eval."),
    out: Path = typer.Option(None, "--out", help="The HTML file to write; otherwise DIR/report.html."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Write a run's figures, scores and sounds as one HTML file that needs no other.

    Example: lst report outputs/demo --out demo.html
    """
    from lst.cli.common import emit_json
    from lst.pipeline.summary import REPORT_FILE
    from lst.report import report as make

    path = make(directory, out or directory / REPORT_FILE)
    if as_json:
        emit_json({"path": str(path)})
    else:
        typer.echo(path)


def compare(
    directories: list[Path] = typer.Argument(..., metavar="DIR...", help="Pre-trained models, or runs that hold some."),
    out: Path = typer.Option(..., "--out", help="Where to write curves.csv, curves.png and table.md."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Compare pre-trained models by their held-out losses; models that differ in the seed only are averaged.

    Example: lst compare outputs/nano-patchings --out outputs/nano-patchings/comparison
    """
    from lst.cli.common import emit_json
    from lst.report.compare import compare as make
    from lst.report.compare import markdown_table, summary

    curves = make(directories, out)
    if as_json:
        emit_json(summary(curves))
    else:
        typer.echo(markdown_table(curves), nl=False)
