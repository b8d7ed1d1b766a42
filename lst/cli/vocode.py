"""`lst vocode`, `lst train-vocoder`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from lst.config import StageConfig

    Config = TypeVar("Config", bound=StageConfig)

FORCE = typer.Option(False, "--force", help="Replace another manifest at --out.")
JSON = typer.Option(False, "--json", help="Print the result as JSON.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("vocode")(vocode)
    app.command("train-vocoder")(train_vocoder)


def vocode(
    source: Path = typer.Argument(
        ..., metavar="DIR|UNITS", help="Manifest with units, or a file of them (text, JSON)."
    ),
    out: Path = typer.Option(..., help="Where the sound files go."),
    vocoder: str = typer.Option(None, help="Name or directory (default: the one made for these units)."),
    tokenizer: str = typer.Option("", help="Whose units they are, for a file that does not say: name or directory."),
    speaker: str = typer.Option("", help="Speaker, of a vocoder that has several."),
    style: str = typer.Option("", help="Style, of a vocoder that has several."),
    deduplicated: bool = typer.Option(False, "--deduplicated", help="The units have no repeats: predict durations."),
    workers: int = typer.Option(
        0, show_default=False, min=0, help="Processes (default: all cores); the result does not depend on it."
    ),
    max_rejected: float = typer.Option(1.0, min=0.0, max=1.0, help="Fail if a larger share of rows is rejected."),
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Turn units into sound: 16 kHz, 40 ms per unit, one WAV per row.

    Example: lst vocode outputs/units --out outputs/waves --vocoder griffin-lim
    """
    import os
    from dataclasses import replace

    from lst.cli.common import print_manifest, stage_progress
    from lst.errors import UsageError
    from lst.manifest import load_manifest
    from lst.vocoder.files import read_units_file
    from lst.vocoder.stage import VocodeConfig, vocode_list
    from lst.vocoder.stage import vocode as run

    values = {"vocoder": vocoder, "speaker": speaker, "style": style, "deduplicated": deduplicated}
    config = _config(VocodeConfig, values)
    if source.is_file() and source.name != "manifest.json":
        units = read_units_file(source)
        if tokenizer and units.tokenizer not in ("", tokenizer):
            raise UsageError(f"--tokenizer: {source} says that its units are those of {units.tokenizer}.")
        made = vocode_list(replace(units, tokenizer=tokenizer or units.tokenizer), out, config, force=force)
    elif source.exists():
        if tokenizer:
            raise UsageError("--tokenizer is for a file of units: a manifest says whose they are.")
        with stage_progress("vocode") as progress:
            made = run(
                load_manifest(source),
                out,
                config,
                workers=workers or os.cpu_count() or 1,
                progress=progress,
                force=force,
                max_rejected=max_rejected,
            )
    else:
        raise UsageError(f"{source} does not exist.", hint="Give the directory of a manifest, or a file of units.")
    print_manifest(made, as_json=as_json)


def train_vocoder(
    directory: Path = typer.Argument(..., metavar="UNITS_MANIFEST", help="Units, made by lst tokenize-audio."),
    changes: list[str] = typer.Argument(None, metavar="[KEY=VALUE]...", help="Settings with dotted keys: steps=8000"),
    out: Path = typer.Option(..., help="Where the vocoder goes; then usable as --vocoder."),
    kind: str = typer.Option(
        "ridge",
        help="ridge, exemplar: fitted in a minute; convnext: a network, trained in minutes; gan: for GPUs.",
    ),
    config: Path = typer.Option(None, help="YAML file of settings; KEY=VALUE comes on top."),
    name: str = typer.Option("", help="What the vocoder calls itself (default: its kind)."),
    licence: str = typer.Option("", help="Licence on its card (default: those of the audio)."),
    device: str = typer.Option("cpu", help="cpu or cuda (for convnext and gan)."),
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Train a vocoder on units and the recordings they were made from. Stopped by a signal, convnext and gan save;
    the same command continues.

    Example: lst train-vocoder outputs/units --out my-vocoder --kind convnext steps=4000
    """
    from lst.cli.common import print_manifest, stage_progress
    from lst.errors import UsageError
    from lst.manifest import load_manifest, open_input
    from lst.pipeline.recipe import read_yaml
    from lst.train.options import settings_of

    settings = {**(read_yaml(config) if config is not None else {})}
    settings |= {key: value for key, value in {"name": name, "licence": licence}.items() if value}
    units = load_manifest(directory, "lst.units")
    audio = open_input(units, "audio")
    with stage_progress("train-vocoder") as progress:
        if kind == "ridge":
            from lst.vocoder.train import FitVocoderConfig, fit_vocoder

            fitted = settings_of(FitVocoderConfig, settings, changes or [], str(config or ""))
            made = fit_vocoder(units, audio, out, fitted, progress=progress, force=force)
        elif kind == "exemplar":
            from lst.vocoder.exemplar_train import FitExemplarConfig, fit_exemplar_vocoder

            nearest = settings_of(FitExemplarConfig, settings, changes or [], str(config or ""))
            made = fit_exemplar_vocoder(units, audio, out, nearest, progress=progress, force=force)
        elif kind == "convnext":
            from lst.vocoder.convnext_train import TrainConvnextConfig, train_convnext

            trained = settings_of(TrainConvnextConfig, settings, changes or [], str(config or ""))
            made = train_convnext(units, audio, out, trained, progress=progress, force=force, device=device)
        elif kind == "gan":
            from lst.vocoder.gan_config import TrainGanConfig
            from lst.vocoder.gan_train import train_gan

            duelled = settings_of(TrainGanConfig, settings, changes or [], str(config or ""))
            made = train_gan(units, audio, out, duelled, progress=progress, force=force, device=device)
        else:
            raise UsageError(f"--kind: {kind!r} is none of ridge, exemplar, convnext, gan.")
    print_manifest(made, as_json=as_json)


def _config(kind: "type[Config]", values: dict[str, Any]) -> "Config":
    """Options as a checked configuration. Raises UsageError with the name of the wrong option."""
    from pydantic import ValidationError

    from lst.errors import UsageError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-") if first["loc"] else kind.__name__
        raise UsageError(f"--{option}: {first['msg']} (it is {first['input']!r}).") from error
