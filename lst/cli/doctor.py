"""`lst doctor`: is this machine able to run every part?"""

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Check the machine and the installation: versions, sound formats, devices, assets. Exits with 1 on a problem.

    Example: lst doctor
    """
    from lst.cli.common import emit_json, out
    from lst.pipeline.doctor import examine

    checks = examine()
    if as_json:
        emit_json([vars(check) for check in checks])
    else:
        for check in checks:
            mark = (
                "[green]ok[/green]  " if check.ok else "[yellow]note[/yellow]" if check.optional else "[red]bad[/red] "
            )
            out().print(f"{mark} {check.name}: {check.detail}")
    if any(not check.ok and not check.optional for check in checks):
        raise typer.Exit(1)
