"""`lst eval losses`, `lst eval words`."""

from pathlib import Path

import typer

from lst.cli.eval_common import (
    DEVICE,
    FORCE,
    JSON,
    MODEL,
    OUT,
    SEED,
    checked,
    kept_or_temporary,
    open_model,
    print_result,
    read_result,
)


def register(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("losses")(losses)
    group.command("words")(words)


def losses(
    model: Path = MODEL,
    data: Path = typer.Option(..., help="Pairs (made by lst interleave)."),
    text: Path | None = typer.Option(None, help="Tokenized text (default: what the pairs were made with)."),
    out: Path | None = OUT,
    seed: int = SEED,
    device: str = DEVICE,
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Held-out bits per second of speech and per text token.

    Example: lst eval losses --model out/model --data out/pairs --text out/text
    """
    from lst.cli.common import stage_progress
    from lst.evaluate.stage import LossesConfig
    from lst.evaluate.stage import losses as run
    from lst.manifest import load_manifest, open_input

    config = checked(LossesConfig, {"seed": seed})
    pairs = load_manifest(data, "lst.pairs")
    documents = load_manifest(text, "lst.text") if text is not None else open_input(pairs, "text")
    with stage_progress("losses") as progress, kept_or_temporary(out) as target:
        result = run(
            open_model(model),
            pairs,
            documents,
            target,
            config,
            progress=progress,
            force=force,
            device=device,
        )
        shown = read_result(result)
    print_result(*shown, as_json)


def words(
    model: Path = MODEL,
    data: Path = typer.Option(..., help="Aligned speech or pairs."),
    count: int = typer.Option(20, "--words", help="Most frequent words."),
    occurrences: int = typer.Option(30, help="Of each word at most."),
    least: int = typer.Option(5, help="Occurrences that a word must have."),
    patching: str = typer.Option("auto", metavar="auto|aligned|static", help="One patch per word, or as at inference."),
    out: Path | None = OUT,
    seed: int = SEED,
    device: str = DEVICE,
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Patch embeddings of words: similarity within and between words, silhouette, a t-SNE figure (kept with --out).

    Example: lst eval words --model out/model --data out/interleave --out out/eval-words
    """
    from lst.cli.common import stage_progress
    from lst.evaluate.word_embeddings import WordsConfig, evaluate_words
    from lst.manifest import load_manifest

    values = {"words": count, "occurrences": occurrences, "least": least, "patching": patching, "seed": seed}
    config = checked(WordsConfig, values)
    made, speech = open_model(model), load_manifest(data)
    with stage_progress("eval-words") as progress, kept_or_temporary(out) as target:
        result = evaluate_words(made, speech, target, config, progress=progress, force=force, device=device)
        shown = read_result(result)
    print_result(*shown, as_json)
