"""`lst tokenize-audio`, `lst train-tokenizer`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from lst.constants import DEFAULT_TOKENIZER

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
    tokenizer: str = typer.Option(DEFAULT_TOKENIZER, help="Name of a unit tokenizer, or the directory of one."),
    device: str = typer.Option("cpu", help="cpu or cuda (for HuBERT)."),
    workers: int = typer.Option(
        0, show_default=False, min=0, help="Processes (default: all cores); the result does not depend on it."
    ),
    max_rejected: float = typer.Option(1.0, min=0.0, max=1.0, help="Fail if a larger share of rows is rejected."),
    force: bool = typer.Option(False, "--force", help="Replace another manifest at --out."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Turn audio into units: 25 per second, ids 0 to 500.

    Example: lst tokenize-audio outputs/audio --out outputs/units --workers 2
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
    changes: list[str] = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="Settings, with dotted keys: hubert.training.steps=20000"
    ),
    out: Path = typer.Option(..., help="Where the tokenizer goes; then usable as --tokenizer."),
    kind: str = typer.Option(None, help="mfcc: MFCC-39 and k-means. hubert: masked prediction of clusters."),
    config: Path = typer.Option(None, help="YAML file with the settings."),
    valid: Path = typer.Option(None, help="Another audio manifest (other speakers) to validate a HuBERT on."),
    targets: str = typer.Option(
        None, help="Whose features a HuBERT predicts: mfcc, a tokenizer, or the directory of a CTranslate2 Whisper."
    ),
    units: int = typer.Option(None, help="Number of clusters, at most 501 (default: 501)."),
    seed: int = typer.Option(None, help="Of the sample of frames, of k-means, and of the training (default: 0)."),
    max_frames: int = typer.Option(None, help="Frames that k-means sees: bounds memory (default: 500000)."),
    name: str = typer.Option(None, help="What the tokenizer calls itself (default: KIND-UNITS)."),
    licence: str = typer.Option(None, help="Licence on its card (default: those of the audio)."),
    device: str = typer.Option("cpu", help="cpu or cuda (for HuBERT)."),
    force: bool = typer.Option(False, "--force", help="Replace another manifest at --out."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Make a unit tokenizer from your own audio. Stopped by a signal, it saves; the same command continues.

    Example: lst train-tokenizer outputs/audio --out my-tokenizer --kind hubert hubert.training.steps=20000
    """
    import json

    from lst.cli.common import print_manifest, stage_progress
    from lst.manifest import load_manifest
    from lst.pipeline.recipe import read_yaml
    from lst.train.options import settings_of
    from lst.units.train import TrainTokenizerConfig
    from lst.units.train import train_tokenizer as run

    options = {
        "kind": kind,
        "units": units,
        "seed": seed,
        "max_frames": max_frames,
        "name": name,
        "licence": licence,
    }
    given = {key: value for key, value in options.items() if value is not None}
    _config(TrainTokenizerConfig, given)  # a wrong option is named as the option it is
    if targets is not None:
        given["hubert.targets"] = targets
    # JSON is YAML, which KEY=VALUE is read as.
    settled = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    body = read_yaml(config) if config is not None else {}
    settings = settings_of(TrainTokenizerConfig, body, [*settled, *(changes or [])], str(config or ""))
    audio = load_manifest(directory, "lst.audio")
    held_out = load_manifest(valid, "lst.audio") if valid is not None else None
    with stage_progress("train-tokenizer") as progress:
        made = run(audio, out, settings, valid=held_out, device=device, progress=progress, force=force)
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
