"""`lst splice`."""

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add `lst splice`."""
    app.command("splice")(splice)


def splice(
    pairs: Path = typer.Argument(..., metavar="PAIRS", help="Paired speech (made by lst interleave)."),
    text: Path = typer.Argument(..., metavar="TEXT", help="A .txt or .jsonl file (or .gz of one), or a folder."),
    out: Path = typer.Option(..., help="Where to write the pairs, those of PAIRS included."),
    copies: int = typer.Option(1, help="By how many different voices each text is spoken."),
    max_words: int = typer.Option(60, help="Longest passage, in words, unless a sentence is longer."),
    voice_words: int = typer.Option(5000, help="Speakers with fewer words lend no voice."),
    readings: str = typer.Option("typical", help="typical: a voice says a word always alike; varied: as it fits."),
    seed: int = typer.Option(0, help="Of the choice of voices, and of varied readings."),
    workers: int = typer.Option(1, min=1, help="Processes."),
    force: bool = typer.Option(False, "--force", help="Replace an output made from other inputs or settings."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Speak texts with the words of recorded speech, as more pairs to train on.

    Example: lst splice out/pairs stories.txt --out out/spliced --copies 2
    """
    from lst.cli.common import print_manifest, stage_progress
    from lst.cli.eval_common import checked
    from lst.data.splice import SpliceConfig
    from lst.data.splice import splice as run
    from lst.manifest import load_manifest

    values = {"copies": copies, "max_words": max_words, "voice_words": voice_words, "readings": readings}
    config = checked(SpliceConfig, {"text": text, "seed": seed, **values})
    source = load_manifest(pairs, "lst.pairs")
    with stage_progress("splice") as progress:
        manifest = run(source, out, config, workers=workers, progress=progress, force=force)
    print_manifest(manifest, as_json=as_json)
