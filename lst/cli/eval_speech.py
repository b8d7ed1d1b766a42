"""`lst eval vocoder`: the speech parts, measured."""

from pathlib import Path

import typer

OUT = typer.Option(None, help="Keep the result here: summary.json, summary.md, and what was heard.")
FORCE = typer.Option(False, "--force", help="Replace another result at --out.")
JSON = typer.Option(False, "--json", help="Print the summary as JSON.")
SEED = typer.Option(0, help="Of the choice of rows and of the intervals.")


def register(group: typer.Typer) -> None:
    """Add the commands to `lst eval`."""
    group.command("vocoder")(vocoder)


def vocoder(
    directory: Path = typer.Argument(..., metavar="UNITS", help="Units of held-out recordings with transcripts."),
    vocoder: str | None = typer.Option(None, help="Name or directory (default: the one made for these units)."),
    speaker: str = typer.Option("", help="Speaker, of a vocoder that has several."),
    rows: int = typer.Option(100, help="Utterances."),
    judge: str = typer.Option("whisper-base", help="Recogniser: whisper-base, or whisper-tiny.en (English, faster)."),
    language: str = typer.Option("en", help="What is spoken."),
    out: Path | None = OUT,
    seed: int = SEED,
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Units to speech, judged by Whisper and DNSMOS beside the recordings; real-time factor. Needs the extra judge.

    Example: lst eval vocoder outputs/units --vocoder my-vocoder --rows 50
    """
    from lst.cli.common import stage_progress
    from lst.cli.evaluate import _config, _directory, _print, _read
    from lst.evaluate.vocoder import VocoderEvalConfig, evaluate_vocoder
    from lst.manifest import load_manifest, open_input

    values = {"vocoder": vocoder, "speaker": speaker, "rows": rows, "judge": judge, "language": language, "seed": seed}
    config = _config(VocoderEvalConfig, values)
    units = load_manifest(directory, "lst.units")
    with stage_progress("eval-vocoder") as progress, _directory(out) as target:
        made = evaluate_vocoder(units, open_input(units, "audio"), target, config, progress=progress, force=force)
        shown = _read(made)
    _print(*shown, as_json)
