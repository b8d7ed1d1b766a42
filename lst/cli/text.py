"""`lst tokenize-text`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from lst.text.stage import TokenizeTextConfig


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tokenize-text")(tokenize_text)


def tokenize_text(
    src: Path = typer.Argument(..., help="A .txt or .jsonl file (or .gz of one), or a folder of them."),
    out: Path = typer.Option(..., help="Where the tokens go."),
    tokenizer: str = typer.Option("", help="SentencePiece model to use, such as Llama-2's tokenizer.model."),
    train_tokenizer: int = typer.Option(
        0, show_default=False, min=0, help="Train a tokenizer of so many pieces (default: 4096)."
    ),
    separator: str = typer.Option("line", help="What ends a document in .txt files: line or blank-line."),
    max_chars: int = typer.Option(100_000, help="Longer documents are divided after a sentence."),
    valid_fraction: float = typer.Option(0.01, help="Share of documents held out, by hash of their text."),
    held_out: list[str] = typer.Option([], help="A file or folder, by name, held out as a whole. May be repeated."),
    workers: int = typer.Option(
        0, show_default=False, min=0, help="Processes (default: all cores); the result does not depend on it."
    ),
    max_rejected: float = typer.Option(1.0, min=0.0, max=1.0, help="Fail if a larger share is rejected."),
    force: bool = typer.Option(False, "--force", help="Replace another manifest at --out."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Turn text into tokens, with your SentencePiece model or one trained on the spot.

    Example: lst tokenize-text data_manifests/stories --out outputs/text --train-tokenizer 4096
    """
    import os

    from lst.cli.common import print_manifest, stage_progress
    from lst.text.stage import tokenize_text as run

    config = _config(
        {
            "tokenizer": tokenizer or None,
            "train_tokenizer": train_tokenizer or None,
            "separator": separator,
            "max_chars": max_chars,
            "valid_fraction": valid_fraction,
            "held_out": held_out,
        }
    )
    with stage_progress("tokenize-text") as progress:
        made = run(
            src,
            out,
            config,
            workers=workers or os.cpu_count() or 1,
            progress=progress,
            force=force,
            max_rejected=max_rejected,
        )
    print_manifest(made, as_json=as_json)


def _config(values: dict[str, Any]) -> "TokenizeTextConfig":
    """Options as a checked configuration. Raises UsageError with the name of the wrong option."""
    from pydantic import ValidationError

    from lst.errors import UsageError
    from lst.text.stage import TokenizeTextConfig

    try:
        return TokenizeTextConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}" if first["loc"] else "tokenize-text"
        raise UsageError(f"{option}: {first['msg']}.") from error
