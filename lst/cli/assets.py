"""`lst assets list | pull | verify`."""

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the `assets` group."""
    group = typer.Typer(no_args_is_help=True, help="Tokenizers, aligners, vocoders and models: list, fetch, verify.")
    group.command("list")(show)
    group.command("pull")(pull)
    group.command("verify")(verify)
    app.add_typer(group, name="assets")


def show(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List every asset that lst knows, its licence, and whether it is on this machine.

    Example: lst assets list
    """
    from lst.assets.cards import EMBEDDED, all_cards
    from lst.cli.common import emit_json, out

    rows = []
    for name, (card, directory) in all_cards().items():
        state = "not here" if directory is None else "embedded" if directory.parent == EMBEDDED else "fetched"
        rows.append({"name": name, "kind": card.kind, "state": state, "licence": card.licence, "is": card.description})
    if as_json:
        emit_json(rows)
        return
    from rich.table import Table

    table = Table("name", "kind", "state", "licence", "what it is", box=None, pad_edge=False)
    for column in table.columns[:3]:
        column.no_wrap, column.overflow = True, "ignore"
    for row in rows:
        table.add_row(*row.values())
    out().print(table)


def pull(
    name: str = typer.Argument(..., help="Name of an asset; see `lst assets list`."),
    mirror: str = typer.Option(None, help="Fetch from URL/FILE instead of the card's address."),
    local: Path = typer.Option(None, "--from", help="Copy from this directory (or file) instead of downloading."),
    trust: bool = typer.Option(False, help="Accept files whose hash no card records, and record it."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Fetch an asset; a broken download goes on where it stopped, and nothing is used before its sha256 is right.

    Example: lst assets pull mhubert-base-25hz --from downloads
    """
    from lst.assets.cards import ALIASES, all_cards
    from lst.assets.pull import pull_asset
    from lst.cli.common import emit_json, err, out, stage_progress
    from lst.errors import UsageError

    cards = all_cards()
    name = ALIASES.get(name, name)
    if name not in cards:
        raise UsageError(f"No asset {name!r}.", hint=f"Known: {', '.join(cards)}.")
    with stage_progress(name) as progress:
        directory = pull_asset(cards[name][0], mirror=mirror, local=local, trust=trust, progress=progress)
    if as_json:
        emit_json({"name": name, "path": str(directory)})
    else:
        out().print(f"{directory}", markup=False)
    if further := cards[name][0].extra.get("next"):
        err().print(further, markup=False)


def verify(
    names: list[str] = typer.Argument(None, help="Names or directories; all that are here if none."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Check the files of assets against the hashes on their cards. Exits with 1 if any differs.

    Example: lst assets verify
    """
    from lst.assets.cards import all_cards, verify_asset
    from lst.cli.common import print_problems
    from lst.errors import UsageError

    cards = all_cards()
    directories = {name: directory for name, (_, directory) in cards.items() if directory is not None}
    if names:
        chosen = {name: directories.get(name) or (Path(name) if Path(name).is_dir() else None) for name in names}
        missing = [name for name, directory in chosen.items() if directory is None]
        if missing:
            raise UsageError(f"{', '.join(missing)}: not on this machine.", hint="See lst assets list.")
        directories = {name: directory for name, directory in chosen.items() if directory is not None}
    found = {name: verify_asset(directory) for name, directory in directories.items()}
    if print_problems(found, as_json=as_json):
        raise typer.Exit(1)
