"""`lst align`, `lst train-aligner`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from lst.align.stage import AlignConfig


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("align")(align)
    app.command("train-aligner")(train_aligner)


def align(
    directory: Path = typer.Argument(..., metavar="DIR", help="Units, made by lst tokenize-audio."),
    out: Path = typer.Option(..., help="Where the aligned units go."),
    aligner: str = typer.Option(
        "pocketsphinx",
        help="pocketsphinx (English), the name of a CTC aligner, or the path of a wav2vec 2.0 with CTC head.",
    ),
    min_score: float = typer.Option(
        -1.0,
        min=-1.0,
        max=1.0,
        show_default=False,
        help="Reject rows that score lower (default: what suits the aligner).",
    ),
    language: str = typer.Option("", help="Of the transcripts, such as en or de (default: the aligner's own)."),
    max_s: float = typer.Option(3600.0, help="Reject rows longer than this, in seconds."),
    workers: int = typer.Option(
        0, show_default=False, min=0, help="Processes (default: all cores); the result does not depend on it."
    ),
    max_rejected: float = typer.Option(1.0, min=0.0, max=1.0, help="Fail if a larger share of rows is rejected."),
    force: bool = typer.Option(False, "--force", help="Replace another manifest at --out."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Find the words of every transcript in its recording, on the 25 Hz grid of the units.

    Rows whose transcript does not fit are rejected; report.json says how many, why, and how good the others are.

    Example: lst align outputs/units --out outputs/aligned --workers 2
    """
    import os

    from lst.align.report import coverage
    from lst.align.stage import align as run
    from lst.align.stage import find_audio
    from lst.cli.common import err, print_manifest, stage_progress
    from lst.manifest import load_manifest

    config = _config(
        {
            "aligner": aligner,
            "min_score": None if min_score < 0 else min_score,
            "language": language or None,
            "max_s": max_s,
        }
    )
    units = load_manifest(directory, "lst.units")
    audio = find_audio(units)
    with stage_progress("align") as progress:
        made = run(
            units,
            audio,
            out,
            config,
            workers=workers or os.cpu_count() or 1,
            progress=progress,
            force=force,
            max_rejected=max_rejected,
        )
    print_manifest(made, as_json=as_json)
    share, score = coverage(made)
    err().print(f"{share:.1%} of the words aligned, mean score {score:.2f}; details in {made.path / 'report.json'}")


def train_aligner(
    directory: Path = typer.Argument(..., metavar="AUDIO_MANIFEST", help="Recordings with text, made by lst ingest."),
    changes: list[str] = typer.Argument(None, metavar="[KEY=VALUE]...", help="Settings with dotted keys: steps=8000"),
    out: Path = typer.Option(..., help="Where the aligner goes; then usable as --aligner."),
    tokenizer: str = typer.Option(None, help="Unit tokenizer whose network it starts from (default: from nothing)."),
    words: Path = typer.Option(None, help="True times of words in some recordings (JSON lines), to calibrate on."),
    config: Path = typer.Option(None, help="YAML file of settings; KEY=VALUE comes on top."),
    language: str = typer.Option("en", help="How digits are read."),
    name: str = typer.Option("", help="What the aligner calls itself (default: ctc)."),
    licence: str = typer.Option("", help="Licence on its card (default: those of the audio)."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    force: bool = typer.Option(False, "--force", help="Replace another manifest at --out."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Train a CTC aligner on recordings and transcripts, any alphabet. Stopped by a signal, it saves; the same command
    continues.

    Example: lst train-aligner outputs/audio --out my-aligner --tokenizer my-tokenizer steps=4000
    """
    from lst.align.train import TrainAlignerConfig
    from lst.align.train import train_aligner as run
    from lst.cli.common import print_manifest, stage_progress
    from lst.manifest import load_manifest
    from lst.pipeline.recipe import read_yaml
    from lst.train.options import settings_of

    given = {"name": name, "licence": licence, "language": "" if language == "en" else language}
    settings = (read_yaml(config) if config is not None else {}) | {key: value for key, value in given.items() if value}
    checked = settings_of(TrainAlignerConfig, settings, changes or [], str(config or ""))
    audio = load_manifest(directory, "lst.audio")
    with stage_progress("train-aligner") as progress:
        made = run(audio, out, checked, tokenizer=tokenizer, words=words, progress=progress, force=force, device=device)
    print_manifest(made, as_json=as_json)


def _config(values: dict[str, Any]) -> "AlignConfig":
    """Options as a checked configuration. Raises UsageError with the name of the wrong option."""
    from pydantic import ValidationError

    from lst.align.stage import AlignConfig
    from lst.errors import UsageError

    try:
        return AlignConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}.") from error
