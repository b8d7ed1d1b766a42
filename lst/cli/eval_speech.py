"""`lst eval align`, `lst eval vocoder`, `lst eval units`: the speech parts, measured."""

from pathlib import Path

import typer

from lst.cli.eval_common import DEVICE, FORCE, JSON, OUT, SEED, checked, kept_or_temporary, print_result, read_result
from lst.constants import DEFAULT_TOKENIZER


def register(group: typer.Typer) -> None:
    """Add the commands to `lst eval`."""
    group.command("align")(align)
    group.command("vocoder")(vocoder)
    group.command("units")(units)


def align(
    directory: Path = typer.Argument(..., metavar="UNITS", help="Units of recordings with transcripts."),
    aligner: str = typer.Option("pocketsphinx", help="pocketsphinx, the name of a CTC aligner, or the path of one."),
    words: Path | None = typer.Option(None, help="True times of the words (JSON lines, of a synthesiser)."),
    other: str | None = typer.Option(None, help="Another aligner to compare with."),
    rows: int = typer.Option(100, help="Utterances."),
    false_rejection: float = typer.Option(0.02, help="Share of right transcripts that may be rejected."),
    out: Path | None = OUT,
    seed: int = SEED,
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Word boundaries against true times or another aligner, wrong transcripts noticed, and speed.

    Example: lst eval align outputs/units --words speech/words.jsonl --other my-aligner
    """
    from lst.cli.common import stage_progress
    from lst.evaluate.align import AlignEvalConfig, evaluate_align
    from lst.manifest import load_manifest, open_input

    values = {"aligner": aligner, "other": other, "rows": rows, "false_rejection": false_rejection, "seed": seed}
    config = checked(AlignEvalConfig, values)
    units = load_manifest(directory, "lst.units")
    with stage_progress("eval-align") as progress, kept_or_temporary(out) as target:
        made = evaluate_align(
            units, open_input(units, "audio"), target, config, words=words, progress=progress, force=force
        )
        shown = read_result(made)
    print_result(*shown, as_json)


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
    from lst.evaluate.vocoder import VocoderEvalConfig, evaluate_vocoder
    from lst.manifest import load_manifest, open_input

    values = {"vocoder": vocoder, "speaker": speaker, "rows": rows, "judge": judge, "language": language, "seed": seed}
    config = checked(VocoderEvalConfig, values)
    units = load_manifest(directory, "lst.units")
    with stage_progress("eval-vocoder") as progress, kept_or_temporary(out) as target:
        made = evaluate_vocoder(units, open_input(units, "audio"), target, config, progress=progress, force=force)
        shown = read_result(made)
    print_result(*shown, as_json)


def units(
    directory: Path = typer.Argument(
        ..., metavar="AUDIO", help="Transcribed audio (made by lst ingest) of speakers the tokenizer has not heard."
    ),
    tokenizer: str = typer.Option(DEFAULT_TOKENIZER, help="Name of a unit tokenizer, or the directory of one."),
    aligner: str = typer.Option("pocketsphinx", help="Finds the phones."),
    minutes: float = typer.Option(40.0, help="Aligned speech that units are compared with."),
    disturbed_minutes: float = typer.Option(10.0, help="Speech that is disturbed."),
    abx_triples: int = typer.Option(20_000, help="Triples of each ABX error; 0: no ABX."),
    base: bool = typer.Option(False, "--base", help="Compare the speed with HuBERT-base of random weights."),
    out: Path | None = OUT,
    seed: int = SEED,
    device: str = DEVICE,
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """How good are units? PNMI against phones, speaker NMI, ABX, robustness, invariance, speed.

    Example: lst eval units outputs/heldout/audio --tokenizer hubert-nano-25hz-501
    """
    from lst.cli.common import stage_progress
    from lst.evaluate.units import UnitsConfig
    from lst.evaluate.units import units as run
    from lst.manifest import load_manifest

    values = {"tokenizer": tokenizer, "aligner": aligner, "minutes": minutes, "disturbed_minutes": disturbed_minutes}
    config = checked(UnitsConfig, {**values, "abx_triples": abx_triples, "base": base, "seed": seed})
    audio = load_manifest(directory, "lst.audio")
    with stage_progress("eval-units") as progress, kept_or_temporary(out) as target:
        result = run(audio, target, config, progress=progress, force=force, device=device)
        shown = read_result(result)
    print_result(*shown, as_json)
