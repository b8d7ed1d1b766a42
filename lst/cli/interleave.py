"""`lst interleave`."""

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add `lst interleave`."""
    app.command("interleave")(interleave)


def interleave(
    directory: Path = typer.Argument(..., metavar="DIR", help="Aligned speech (made by lst align)."),
    out: Path = typer.Option(..., help="Where to write the pairs."),
    text: Path = typer.Option(None, help="Tokenized text whose tokenizer to use; else the one beside DIR."),
    tokenizer: Path = typer.Option(None, help="A SentencePiece .model file to use instead."),
    valid_fraction: float = typer.Option(None, help="Share of texts held out for validation."),
    held_out: list[str] = typer.Option([], help="A folder or speaker held out as a whole. May be repeated."),
    only: list[str] = typer.Option([], help="Only this folder or speaker. May be repeated."),
    preview: int = typer.Option(0, min=0, metavar="N", help="Print the first N documents as training would read them."),
    workers: int = typer.Option(1, min=1, help="Processes."),
    max_rejected: float = typer.Option(1.0, help="Fail if more than this share of the rows is rejected."),
    force: bool = typer.Option(False, "--force", help="Replace an output made from other inputs or settings."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Pair speech with text tokens, ready for training; spans of text and speech are drawn when it is read.

    Example: lst interleave out/aligned --out out/pairs --preview 3
    """
    from lst.cli.common import emit_json, print_manifest, stage_progress, summary
    from lst.cli.common import out as stdout
    from lst.data.preview import preview as preview_documents
    from lst.data.stage import InterleaveConfig, find_text
    from lst.data.stage import interleave as run
    from lst.errors import UsageError
    from lst.manifest import load_manifest

    if text is not None and tokenizer is not None:
        raise UsageError("--text and --tokenizer both name a text tokenizer.", hint="Give one of them.")
    aligned = load_manifest(directory, "lst.aligned")
    source = tokenizer or (load_manifest(text, "lst.text") if text is not None else find_text(aligned))
    if valid_fraction is not None and not 0 <= valid_fraction < 1:
        raise UsageError(f"--valid-fraction must be at least 0 and below 1, not {valid_fraction:g}.")
    fraction = {} if valid_fraction is None else {"valid_fraction": valid_fraction}
    config = InterleaveConfig.model_validate({"held_out": held_out, "only": only, **fraction})
    with stage_progress("interleave") as progress:
        manifest = run(
            aligned, source, out, config, workers=workers, progress=progress, force=force, max_rejected=max_rejected
        )
    documents = preview_documents(manifest, preview)
    if as_json:
        emit_json({**summary(manifest), "preview": [{"id": name, "document": line} for name, line in documents]})
        return
    print_manifest(manifest)
    for name, line in documents:
        stdout().print(f"\n{name}\n  {line}", markup=False)
