"""`lst ingest`: recordings to a manifest."""

from pathlib import Path

import typer

SOURCE = typer.Argument(..., help="Folder of a corpus, a .tsv that lists recordings, or one recording.")
OUT = typer.Option(..., "--out", help="Directory to make.")
CORPUS = typer.Option(
    "auto",
    help="Layout: auto, librispeech, librilight, peoples-speech, mls, spotify, ljspeech, tsv, kaldi, folder.",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ingest")(ingest)


def ingest(
    src: Path = SOURCE,
    out: Path = OUT,
    corpus: str = CORPUS,
    segment: bool = typer.Option(False, "--segment", help="Cut recordings longer than --max-seconds at their pauses."),
    vad: str = typer.Option("energy", help="Finds the pauses: energy, or silero (needs the extra `vad`)."),
    name: str = typer.Option("", help="Begins the ids of rows (else: from corpus.json, or the layout)."),
    language: str = typer.Option("", help="Language of rows that do not say (else: of the corpus, or en)."),
    script: str = typer.Option("auto", help="Script transcripts must be in: auto (by language), any, latin, ..."),
    require_text: bool = typer.Option(False, "--require-text", help="Reject utterances without a transcript."),
    min_seconds: float = typer.Option(0.2, help="Reject what is shorter."),
    max_seconds: float = typer.Option(40.0, help="Reject what is longer (with --segment: cut it)."),
    workers: int = typer.Option(0, show_default=False, help="Processes (default: all cores).", min=0),
    max_rejected: float = typer.Option(1.0, help="Fail if a larger share of rows is rejected.", min=0.0, max=1.0),
    force: bool = typer.Option(False, "--force", help="Replace an output made from other inputs or settings."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Check the recordings of a corpus and list those that can be used. Nothing is copied or converted.

    Example: lst ingest data_manifests/sample --out outputs/sample/audio --corpus tsv
    """
    import os

    from pydantic import ValidationError

    from lst.audio.stage import IngestConfig
    from lst.audio.stage import ingest as run
    from lst.cli.common import print_manifest, stage_progress
    from lst.errors import UsageError

    try:
        config = IngestConfig.model_validate(
            {
                "corpus": corpus,
                "name": name,
                "language": language,
                "script": script,
                "require_text": require_text,
                "min_s": min_seconds,
                "max_s": max_seconds,
                "segment": vad if segment else "none",
            }
        )
    except ValidationError as error:
        options = {"segment": "vad", "min_s": "min-seconds", "max_s": "max-seconds", "require_text": "require-text"}
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        option = f"--{options.get(key, key)}: " if key else ""
        raise UsageError(f"{option}{first['msg']}.", hint="See lst ingest --help.") from error
    with stage_progress("ingest") as progress:
        manifest = run(
            src,
            out,
            config,
            workers=workers or os.cpu_count() or 1,
            progress=progress,
            force=force,
            max_rejected=max_rejected,
        )
    print_manifest(manifest, as_json=as_json)
