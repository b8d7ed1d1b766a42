"""`lst transcribe`, `lst synthesize`, `lst generate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from lst.generate.sampling import GenerateConfig
    from lst.generate.tasks import Speech

TOKENIZER = typer.Option(None, help="Unit tokenizer (default: the model's, by its fingerprint).")
VOCODER = typer.Option(None, help="Vocoder (default: the one made for the model's units).")
DEVICE = typer.Option("cpu", help="cpu or cuda.")
SEED = typer.Option(0, help="Of the draws.")
GREEDY = typer.Option(False, "--greedy", help="Always take the likeliest token.")
TEMPERATURE = typer.Option(0.8, help="Below 1 safer, above 1 wilder.")
TOP_P = typer.Option(0.95, help="Draw from the likeliest tokens with this probability in all.")
TOP_K = typer.Option(None, help="Draw from the k likeliest tokens.")
JSON = typer.Option(False, "--json", help="Print JSON.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("transcribe")(transcribe)
    app.command("synthesize")(synthesize)
    app.command("generate")(generate)


def transcribe(
    model: Path | None = typer.Option(None, help="Model fine-tuned for asr (default: lst-nano/asr, where it is)."),
    recordings: list[Path] = typer.Argument(..., metavar="WAV...", help="Sound files of any rate and length."),
    tokenizer: str | None = TOKENIZER,
    max_tokens: int = typer.Option(300, min=1, help="Longest transcript, in text tokens."),
    batch_size: int = typer.Option(8, min=1, help="Recordings at a time."),
    beam: int = typer.Option(4, min=1, help="Beams of the search; 1 is greedy: several times faster, more errors."),
    device: str = DEVICE,
    as_json: bool = JSON,
) -> None:
    """Write down what is said in recordings, one line each: the path, a tab, the text.

    Example: lst transcribe --model out/asr a.wav b.flac
    """
    from lst.cli.common import emit_json, err, model_directory, stage_progress
    from lst.errors import LstError
    from lst.generate.recognition import TRANSCRIBE
    from lst.generate.recognition import transcribe as run
    from lst.generate.session import open_session

    warn = _warner()
    if not any(recording.exists() for recording in recordings):
        raise LstError(f"{recordings[0]} does not exist.", hint="Give sound files.")
    session = open_session(model_directory(model, "asr"), device=device)
    with stage_progress("transcribe") as progress:
        results = run(
            session,
            recordings,
            tokenizer=tokenizer,
            config=TRANSCRIBE.model_copy(update={"max_tokens": max_tokens}),
            batch_size=batch_size,
            beams=beam,
            progress=progress,
            warn=warn,
        )
    failed = [result for result in results if result.error]
    if as_json:
        emit_json([{**vars(result), "path": str(result.path)} for result in results])
    else:
        for result in results:
            if not result.error:
                typer.echo(f"{result.path}\t{result.text}")
    for result in failed:
        err().print(f"lst: {result.error}", markup=False)
    cut = [str(result.path) for result in results if result.stopped in ("length", "context")]
    if cut:
        warn(f"Cut off before the model ended by itself: {', '.join(cut)}.")
    if failed:
        raise typer.Exit(1)


def synthesize(
    model: Path | None = typer.Option(None, help="Model fine-tuned for tts (default: lst-nano/tts, where it is)."),
    text: str = typer.Option(..., help="What to say."),
    out: Path = typer.Option(
        Path("outputs/said.wav"),
        metavar="WAV|-",
        help="Sound file to write; -: raw samples (16 kHz, 16 bits, mono) on stdout, as they come.",
    ),
    vocoder: str | None = VOCODER,
    drafts: int = typer.Option(
        1, min=1, help="Say it so many times and keep what a recogniser (--listener) hears best; not for --out -."
    ),
    listener: Path | None = typer.Option(
        None, help="Model fine-tuned for asr that hears the drafts (default: lst-nano/asr, where it is)."
    ),
    max_seconds: float = typer.Option(30.0, min=0.04, help="Longest speech."),
    greedy: bool = GREEDY,
    temperature: float = typer.Option(0.5, help="Below 1 safer, above 1 wilder."),
    top_p: float = TOP_P,
    top_k: int | None = TOP_K,
    seed: int = SEED,
    device: str = DEVICE,
    as_json: bool = JSON,
) -> None:
    """Say a text: units by the model, sound by the vocoder.

    Example: lst synthesize --model out/tts --text "Once upon a time there was a cat." --out cat.wav

    More clearly: lst synthesize --text … --drafts 5

    To hear it while it is made: lst synthesize … --out - | aplay -r 16000 -f S16_LE
    """
    import sys

    from lst.assets.models import find_model
    from lst.cli.common import emit_json, model_directory
    from lst.errors import UsageError
    from lst.generate.drafts import best_draft
    from lst.generate.session import open_session
    from lst.generate.tasks import SYNTHESIZE, SpeechStream
    from lst.generate.voice import open_vocoder, play_stream, write_stream

    live = str(out) == "-"
    if not live and (out.suffix.lower() != ".wav" or out.is_dir()):
        raise UsageError(f"--out {out}: the name of a .wav file is needed.")
    above = next((path for path in out.parents if path.exists()), None)
    if not live and above is not None and not above.is_dir():
        raise UsageError(f"--out {out}: {above} is a file, not a directory.")
    if live and as_json:
        raise UsageError("--json and --out - would both write to stdout.", hint="Give a file name with --json.")
    if live and drafts > 1:
        raise UsageError("--out -: drafts are compared whole, so none can be played while it is made.")
    if greedy and drafts > 1:
        raise UsageError("--greedy: nothing is drawn, so all drafts would be the same.")
    drawn = _drawing(greedy, temperature, top_p, top_k, seed)
    config = _checked(SYNTHESIZE, {**drawn, "max_tokens": max(1, round(25 * max_seconds))})
    session = open_session(model_directory(model, "tts"), device=device)
    voice = open_vocoder(session, vocoder)
    heard: dict[str, Any] = {}
    if drafts > 1:
        hearing = open_session(find_model(listener, "asr").directory, device=device)
        best = best_draft(session, hearing, text, drafts=drafts, config=config, warn=_warner())
        made: Speech | None = best.speech
        heard = {"heard": best.heard, "cer": round(best.cer, 4)}
        seconds = write_stream(out, [voice.synthesize(best.speech.units)], voice.sample_rate)
    else:
        with _token_progress("synthesize", config.max_tokens) as on_token:
            pieces = SpeechStream(session, text, voice, config=config, on_token=on_token, warn=_warner())
            if live:
                seconds = play_stream(sys.stdout.buffer, pieces, voice.sample_rate)
            else:
                seconds = write_stream(out, pieces, voice.sample_rate)
        made = pieces.speech
    assert made is not None
    if made.stopped != "end":
        _warner()(f"Cut off at {seconds:.1f} s before the model ended by itself.")
    if as_json:
        emit_json(
            {
                "path": str(out),
                "duration_s": seconds,
                "text": text,
                "units": made.units.tolist(),
                "tokenizer": session.fingerprints.get("tokenizer", ""),
                "stopped": made.stopped,
                "global_steps": made.global_steps,
                **heard,
            }
        )
    else:
        summary = f"{out}\t{seconds:.2f} s\t{len(made.units)} units\t{made.global_steps} global steps"
        typer.echo(summary, err=live)


def generate(
    model: Path | None = typer.Option(None, help="Pre-trained model (default: lst-nano/pretrained, where it is)."),
    prompt: str = typer.Option(..., metavar="WAV|TEXT", help="A sound file, or the text itself."),
    out: Path = typer.Option(
        Path("outputs/continued"),
        metavar="DIR|-",
        help="Directory for the continuation: JSON, text, WAV; -: raw samples (16 kHz, 16 bits, mono) on stdout.",
    ),
    modality: str = typer.Option(
        "", metavar="speech|text|any", help="What to continue with (default: that of the prompt)."
    ),
    max_tokens: int = typer.Option(250, min=1, help="Longest continuation: units (25 a second) and text tokens."),
    tokenizer: str | None = TOKENIZER,
    vocoder: str | None = VOCODER,
    greedy: bool = GREEDY,
    temperature: float = TEMPERATURE,
    top_p: float = TOP_P,
    top_k: int | None = TOP_K,
    seed: int = SEED,
    device: str = DEVICE,
    force: bool = typer.Option(False, "--force", help="Replace another result at --out."),
    as_json: bool = JSON,
) -> None:
    """Go on from a spoken or written prompt.

    Example: lst generate --model out/model --prompt story.wav

    To hear it while it is made: lst generate … --out - | aplay -r 16000 -f S16_LE
    """
    import json

    from lst.cli.common import emit_json, model_directory, stage_progress
    from lst.generate.stage import generate_continuation
    from lst.generate.tasks import AUDIO_SUFFIXES, CONTINUE

    spoken = prompt.lower().endswith(AUDIO_SUFFIXES)
    config = _checked(
        CONTINUE,
        {
            **_drawing(greedy, temperature, top_p, top_k, seed),
            "modality": modality or ("speech" if spoken else "text"),
            "max_tokens": max_tokens,
            "min_tokens": min(CONTINUE.min_tokens, max_tokens),
        },
    )
    directory = model_directory(model, "pretrained")
    if str(out) == "-":
        _play(directory, prompt, config, tokenizer, vocoder, device, as_json=as_json)
        return
    with stage_progress("generate") as progress:
        made = generate_continuation(
            directory,
            prompt,
            out,
            config=config,
            tokenizer=tokenizer,
            vocoder=vocoder,
            device=device,
            progress=progress,
            force=force,
        )
    body = json.loads(made.file("continuation.json").read_text(encoding="utf-8"))
    if body["prompt_ids_dropped"]:
        _warner()(
            f"The prompt is longer than the model's context: its first {body['prompt_ids_dropped']} ids were cut."
        )
    if as_json:
        emit_json({"path": str(made.path), **body})
        return
    if body["text"]:
        typer.echo(body["text"])
    for name in sorted(made.artifacts):
        typer.echo(str(made.path / name))


def _play(
    model: Path,
    prompt: str,
    config: "GenerateConfig",
    tokenizer: str | None,
    vocoder: str | None,
    device: str,
    *,
    as_json: bool,
) -> None:
    """The prompt's units and what follows, as raw samples on stdout while they are made."""
    import sys

    from lst.errors import UsageError
    from lst.generate.session import open_session
    from lst.generate.tasks import ContinuationStream, check_prompt, read_prompt
    from lst.generate.voice import open_vocoder, play_stream

    if config.modality == "text" or as_json:
        raise UsageError("--out - is for sound.", hint="Add --modality speech, and leave out --json.")
    check_prompt(prompt)
    session = open_session(model, device=device)
    given, voice = read_prompt(session, prompt, tokenizer=tokenizer), open_vocoder(session, vocoder)
    with _token_progress("generate", config.max_tokens) as on_token:
        pieces = ContinuationStream(session, given, voice, config=config, on_token=on_token)
        seconds = play_stream(sys.stdout.buffer, pieces, voice.sample_rate)
    made = pieces.continued
    assert made is not None
    typer.echo(f"{seconds:.2f} s\t{len(made.units)} units\t{made.global_steps} global steps", err=True)


def _drawing(greedy: bool, temperature: float, top_p: float, top_k: int | None, seed: int) -> dict[str, Any]:
    return {"greedy": greedy, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}


def _checked(default: Any, changes: dict[str, Any]) -> Any:
    """The settings with changes; a wrong one is wrong usage."""
    from pydantic import ValidationError

    from lst.errors import UsageError

    try:
        return type(default).model_validate({**default.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--{name.replace('_', '-')}: {first['msg']}.") from error


def _token_progress(title: str, total: int) -> Any:
    """A progress bar over the tokens of one document: gives an `on_token` callback."""
    from contextlib import contextmanager

    from lst.cli.common import stage_progress

    @contextmanager
    def bar() -> Any:
        with stage_progress(title) as progress:
            count = 0

            def on_token(_row: int, _token: int) -> None:
                nonlocal count
                count += 1
                progress(count, total, "units")

            yield on_token

    return bar()


def _warner() -> Any:
    """Prints a warning on stderr."""
    from lst.cli.common import err

    return lambda message: err().print(f"lst: {message}", markup=False)
