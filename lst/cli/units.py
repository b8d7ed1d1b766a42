"""`lst tokenize-audio`, `lst train-tokenizer`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from lst.config import StageConfig

    Config = TypeVar("Config", bound=StageConfig)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("tokenize-audio")(tokenize_audio)
    app.command("train-tokenizer")(train_tokenizer)


def tokenize_audio(
    directory: Path = typer.Argument(..., metavar="DIR", help="An audio manifest, made by lst ingest."),
    out: Path = typer.Option(..., help="Where the units go."),
    tokenizer: str = typer.Option("mfcc-501", help="Name of a unit tokenizer, or the directory of one."),
    device: str = typer.Option("cpu", help="cpu or cuda (for HuBERT)."),
    workers: int = typer.Option(0, min=0, help="Processes (default: all cores); the result does not depend on it."),
    max_rejected: float = typer.Option(1.0, min=0.0, max=1.0, help="Fail if a larger share of rows is rejected."),
    force: bool = typer.Option(False, "--force", help="Replace another manifest at --out."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Turn audio into units: 25 per second, ids 0 to 500.

    Example: lst tokenize-audio outputs/audio --out outputs/units --tokenizer mfcc-501 --workers 2
    """
    import os

    from lst.cli.common import print_manifest, stage_progress
    from lst.manifest import load_manifest
    from lst.units.stage import TokenizeAudioConfig
    from lst.units.stage import tokenize_audio as run

    config = _config(TokenizeAudioConfig, {"tokenizer": tokenizer, "device": device})
    with stage_progress("tokenize-audio") as progress:
        made = run(
            load_manifest(directory, "lst.audio"),
            out,
            config,
            workers=workers or os.cpu_count() or 1,
            progress=progress,
            force=force,
            max_rejected=max_rejected,
        )
    print_manifest(made, as_json=as_json)


def train_tokenizer(
    directory: Path = typer.Argument(..., metavar="AUDIO_MANIFEST", help="An audio manifest, made by lst ingest."),
    out: Path = typer.Option(..., help="Where the tokenizer goes; then usable as --tokenizer."),
    kind: str = typer.Option("mfcc", help="mfcc: MFCC-39 and k-means, HuBERT's first iteration."),
    units: int = typer.Option(501, help="Number of clusters, at most 501."),
    seed: int = typer.Option(0, help="Of the sample of frames and of k-means."),
    max_frames: int = typer.Option(500_000, help="Frames that k-means sees: bounds memory."),
    name: str = typer.Option("", help="What the tokenizer calls itself (default: KIND-UNITS)."),
    licence: str = typer.Option("", help="Licence on its card (default: those of the audio)."),
    force: bool = typer.Option(False, "--force", help="Replace another manifest at --out."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Fit a unit tokenizer on your own audio.

    Example: lst train-tokenizer outputs/audio --out my-tokenizer --kind mfcc
    """
    from lst.cli.common import print_manifest, stage_progress
    from lst.manifest import load_manifest
    from lst.units.train import TrainTokenizerConfig
    from lst.units.train import train_tokenizer as run

    config = _config(
        TrainTokenizerConfig,
        {"kind": kind, "units": units, "seed": seed, "max_frames": max_frames, "name": name, "licence": licence},
    )
    with stage_progress("train-tokenizer") as progress:
        made = run(load_manifest(directory, "lst.audio"), out, config, progress=progress, force=force)
    print_manifest(made, as_json=as_json)


def _config(kind: "type[Config]", values: dict[str, Any]) -> "Config":
    """Options as a checked configuration. Raises UsageError with the name of the wrong option."""
    from pydantic import ValidationError

    from lst.errors import UsageError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"--{option}: {first['msg']} (it is {first['input']!r}).") from error
