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
    speaker: str = typer.Option("", help="Speaker, of a vocoder that has several."),
    style: str = typer.Option("", help="Style, of a vocoder that has several."),
    deduplicated: bool = typer.Option(False, "--deduplicated", help="The units have no repeats: predict durations."),
    workers: int = typer.Option(0, min=0, help="Processes (default: all cores); the result does not depend on it."),
    max_rejected: float = typer.Option(1.0, min=0.0, max=1.0, help="Fail if a larger share of rows is rejected."),
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Turn units into sound: 16 kHz, 40 ms per unit, one WAV per row.

    Example: lst vocode outputs/units --out outputs/waves --vocoder ridge-mfcc-501
    """
    import os

    from lst.cli.common import print_manifest, stage_progress
    from lst.errors import UsageError
    from lst.manifest import load_manifest
    from lst.vocoder.files import read_units_file
    from lst.vocoder.stage import VocodeConfig, vocode_list
    from lst.vocoder.stage import vocode as run

    values = {"vocoder": vocoder, "speaker": speaker, "style": style, "deduplicated": deduplicated}
    config = _config(VocodeConfig, values)
    if source.is_file() and source.name != "manifest.json":
        made = vocode_list(read_units_file(source), out, config, force=force)
    elif source.exists():
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
    out: Path = typer.Option(..., help="Where the vocoder goes; then usable as --vocoder."),
    kind: str = typer.Option("ridge", help="ridge: linear in a window of units; fitted in seconds."),
    waveform: str = typer.Option("source-filter", help="What makes the sound: source-filter or griffin-lim."),
    held_out: float = typer.Option(0.08, help="Share of utterances that measure the fit."),
    name: str = typer.Option("", help="What the vocoder calls itself (default: its kind)."),
    licence: str = typer.Option("", help="Licence on its card (default: those of the audio)."),
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Fit a vocoder on units and the recordings they were made from.

    Example: lst train-vocoder outputs/units --out my-vocoder --kind ridge
    """
    from lst.cli.common import print_manifest, stage_progress
    from lst.manifest import load_manifest, open_input
    from lst.vocoder.train import FitVocoderConfig, fit_vocoder

    values = {"kind": kind, "waveform": waveform, "held_out": held_out, "name": name, "licence": licence}
    config = _config(FitVocoderConfig, values)
    units = load_manifest(directory, "lst.units")
    with stage_progress("train-vocoder") as progress:
        made = fit_vocoder(units, open_input(units, "audio"), out, config, progress=progress, force=force)
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
