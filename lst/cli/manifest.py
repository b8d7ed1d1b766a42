"""`lst manifest show | verify | lineage | diff`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from lst.manifest.inspect import LineageNode

DIRECTORY = typer.Argument(..., help="Directory of a finished stage.")
AS_JSON = typer.Option(False, "--json", help="Print JSON.")


def register(app: typer.Typer) -> None:
    """Add the `manifest` group."""
    group = typer.Typer(no_args_is_help=True, help="Look at what a stage made: its summary, integrity, lineage.")
    group.command("show")(show)
    group.command("verify")(verify)
    group.command("lineage")(show_lineage)
    group.command("diff")(diff)
    app.add_typer(group, name="manifest")


def show(
    directory: Path = DIRECTORY,
    rows: int = typer.Option(0, help="Print the first N rows instead, one JSON object a line.", min=0),
    rejected: int = typer.Option(0, help="Print the first N rejected rows instead, with their reasons.", min=0),
    as_json: bool = AS_JSON,
) -> None:
    """Print what a manifest says.

    Example: lst manifest show outputs/demo/align --rows 1
    """
    from lst.cli.common import print_manifest
    from lst.manifest.manifest import load_manifest

    manifest = load_manifest(directory)
    if not rows and not rejected:
        print_manifest(manifest, as_json=as_json)
        return
    import json
    from itertools import islice

    from lst.manifest.inspect import rejected_rows
    from lst.manifest.tables import iter_rows

    for row in [*islice(iter_rows(manifest), rows), *rejected_rows(manifest)[:rejected]]:
        typer.echo(json.dumps(row, ensure_ascii=False))


def verify(
    directories: list[Path] = typer.Argument(..., help="Directories of finished stages."), as_json: bool = AS_JSON
) -> None:
    """Check every file of a manifest against its recorded size, sha256 and columns. Exits with 1 if anything differs.

    Example: lst manifest verify outputs/demo/*
    """
    from lst.cli.common import print_problems
    from lst.manifest.inspect import verify_manifest

    if print_problems({str(directory): verify_manifest(directory) for directory in directories}, as_json=as_json):
        raise typer.Exit(1)


def show_lineage(directory: Path = DIRECTORY, as_json: bool = AS_JSON) -> None:
    """Print the tree from this output back to the corpora and their licences.

    Example: lst manifest lineage outputs/demo/pretrain
    """
    import dataclasses

    from lst.cli.common import emit_json
    from lst.manifest.inspect import lineage
    from lst.manifest.manifest import load_manifest

    root = lineage(load_manifest(directory))
    if as_json:
        emit_json(dataclasses.asdict(root))
    else:
        _print_tree(root, 0)


def _print_tree(node: "LineageNode", depth: int) -> None:
    indent = "  " * depth
    role = f"{node.role}: " if node.role else ""
    typer.echo(f"{indent}{role}{typer.style(node.stage, bold=True)} {node.schema} {node.id[:12]}")
    for entry in node.provenance:
        known = (entry.get(key, "") for key in ("corpus", "licence", "source"))
        typer.echo(f"{indent}  {' · '.join(filter(None, known))}")
    for source in node.inputs:
        _print_tree(source, depth + 1)


def diff(
    old: Path = typer.Argument(..., help="Directory of a finished stage."),
    new: Path = typer.Argument(..., help="Another one."),
    as_json: bool = AS_JSON,
) -> None:
    """Print which settings, inputs and totals differ between two outputs.

    Example: lst manifest diff outputs/a/align outputs/b/align
    """
    from lst.cli.common import emit_json, out
    from lst.manifest.inspect import diff_manifests
    from lst.manifest.manifest import load_manifest

    rows: list[tuple[str, Any, Any]] = diff_manifests(load_manifest(old), load_manifest(new))
    if as_json:
        emit_json([{"key": key, "old": before, "new": after} for key, before, after in rows])
        return
    for key, before, after in rows:
        out().print(f"{key}: {before} -> {after}", markup=False)
    if not rows:
        out().print("no difference", markup=False)
