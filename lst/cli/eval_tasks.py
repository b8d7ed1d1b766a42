"""`lst eval asr`, `lst eval tts`: fine-tuned models at their task."""

from pathlib import Path

import typer

from lst.cli.eval_common import (
    DEVICE,
    FORCE,
    JSON,
    MODEL,
    OUT,
    SEED,
    TOKENIZER,
    WORKERS,
    checked,
    kept_or_temporary,
    open_model,
    print_result,
    read_result,
)

DATA = typer.Option(..., help="Recordings with transcripts: a corpus (LibriSpeech, …), or a manifest of lst.")
SPLIT = typer.Option("auto", metavar="auto|all|train|valid", help="Rows of pairs; auto: the held-out ones.")
NORMALISER = typer.Option("auto", metavar="auto|whisper|simple", help="Of both texts, before they are compared.")


def register(group: typer.Typer) -> None:
    """Add the commands to `lst eval`."""
    group.command("asr")(asr)
    group.command("tts")(tts)


def asr(
    model: Path = MODEL,
    data: Path = DATA,
    rows: int | None = typer.Option(None, help="At most so many utterances."),
    split: str = SPLIT,
    beam: int = typer.Option(1, help="Beams of the search; 1 is greedy."),
    max_tokens: int = typer.Option(300, help="Longest transcript, in text tokens."),
    normaliser: str = NORMALISER,
    out: Path | None = OUT,
    tokenizer: str | None = TOKENIZER,
    seed: int = SEED,
    device: str = DEVICE,
    workers: int = WORKERS,
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Word and character error rates, utterances that did not stop or were hallucinated, context used.

    Example: lst eval asr --model out/asr --data LibriSpeech/test-clean --out out/eval-asr
    """
    from lst.cli.common import stage_progress
    from lst.evaluate.recognition import AsrEvalConfig, evaluate_asr
    from lst.evaluate.speech_data import speech_for

    values = {"rows": rows, "split": split, "beam": beam, "max_tokens": max_tokens, "normaliser": normaliser}
    config = checked(AsrEvalConfig, values | {"seed": seed})
    made = open_model(model, "asr")
    with stage_progress("units") as progress:
        speech = speech_for(made, data, tokenizer=tokenizer, workers=workers, progress=progress)
    with stage_progress("eval-asr") as progress, kept_or_temporary(out) as target:
        result = evaluate_asr(made, speech, target, config, progress=progress, force=force, device=device)
        shown = read_result(result)
    print_result(*shown, as_json)


def tts(
    model: Path = MODEL,
    data: Path = DATA,
    rows: int = typer.Option(50, help="At most so many texts."),
    split: str = SPLIT,
    max_units: int = typer.Option(500, help="Longest speech, in units of 40 ms."),
    greedy: bool = typer.Option(False, "--greedy", help="Always the likeliest unit."),
    temperature: float = typer.Option(0.8, help="Of the draws: below 1 safer, above 1 wilder."),
    drafts: int = typer.Option(1, help="Say a text so many times and keep what a recogniser (--listener) hears best."),
    listener: Path | None = typer.Option(
        None, help="Model fine-tuned for asr that hears the drafts (default: lst-nano/asr, where it is)."
    ),
    vocoder: str | None = typer.Option(None, help="Name or directory (default: the one made for the model's units)."),
    judge: str = typer.Option("whisper-base", help="Recogniser: whisper-base, or whisper-tiny.en (faster)."),
    normaliser: str = NORMALISER,
    out: Path | None = OUT,
    tokenizer: str | None = TOKENIZER,
    seed: int = SEED,
    device: str = DEVICE,
    workers: int = WORKERS,
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Speech judged by Whisper and DNSMOS, beside the vocoder alone and the recordings; units and steps needed.

    Example: lst eval tts --model out/tts --data out/interleave --rows 50 --out out/eval-tts
    """
    from lst.cli.common import stage_progress
    from lst.evaluate.speech_data import speech_for
    from lst.evaluate.synthesis import TtsEvalConfig, evaluate_tts

    values = {"rows": rows, "split": split, "max_units": max_units, "greedy": greedy, "vocoder": vocoder}
    values |= {"temperature": temperature, "drafts": drafts, "listener": listener}
    config = checked(TtsEvalConfig, values | {"judge": judge, "normaliser": normaliser, "seed": seed})
    made = open_model(model, "tts")
    with stage_progress("units") as progress:
        speech = speech_for(made, data, tokenizer=tokenizer, workers=workers, progress=progress)
    with stage_progress("eval-tts") as progress, kept_or_temporary(out) as target:
        result = evaluate_tts(made, speech, target, config, progress=progress, force=force, device=device)
        shown = read_result(result)
    print_result(*shown, as_json)
