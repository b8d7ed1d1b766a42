"""`lst generate`: a continuation as a directory, `lst.waves/1`, with what went in and what came out.

continuation.json   prompt, spans in order, units, text, why it stopped
continuation.txt    the text of the continuation
continuation.wav    its speech; whole.wav: a spoken prompt's units and then the continuation, by the same vocoder
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, open_session
from lst.generate.tasks import CONTINUE, ContinuationStream, Continued, check_prompt, continue_prompt, read_prompt
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    StageSpec,
    build_directory,
    load_manifest,
    sha256_bytes,
    write_atomic,
    write_json,
)

if TYPE_CHECKING:
    from lst.vocoder import Vocoder

VERSION = 1
JSON_FILE = "continuation.json"
TEXT_FILE = "continuation.txt"


def generate_continuation(
    model: Path,
    prompt: str,
    out: Path,
    *,
    config: GenerateConfig = CONTINUE,
    tokenizer: str | None = None,
    vocoder: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    force: bool = False,
) -> Manifest:
    """Continue `prompt`, a text or the path of a recording, and write the result to `out`.

    Raises LstError if the prompt cannot be read, if the model's tokenizer or a vocoder for its units is not here, or
    if `out` is something else.
    """
    manifest = load_manifest(model, "lst.model")
    check_prompt(prompt)
    session = open_session(model, device=device)
    given = read_prompt(session, prompt, tokenizer=tokenizer)
    voice = None
    if config.modality != "text":
        from lst.generate.voice import open_vocoder

        voice = open_vocoder(session, vocoder)
    what = {"text": given} if isinstance(given, str) else {"units": sha256_bytes(np.ascontiguousarray(given).tobytes())}
    fingerprints = {**session.fingerprints, **({"vocoder": voice.fingerprint} if voice is not None else {})}
    spec = StageSpec(
        schema="lst.waves/1",
        stage="generate",
        version=VERSION,
        config={**config.as_json(), "prompt": what},
        inputs={"model": manifest},
        fingerprints=fingerprints,
        provenance=manifest.provenance,
    )

    def make(directory: Path) -> DirectoryResult:
        report = progress or (lambda *_: None)
        count = 0

        def on_token(_row: int, _token: int) -> None:
            nonlocal count
            count += 1
            report(count, config.max_tokens, "tokens")

        rows: list[dict[str, Any]] = []
        if voice is None:
            made = continue_prompt(session, given, config=config, on_token=on_token)
        else:
            made, rows = _speak(directory, session, given, voice, config, on_token)
        report(config.max_tokens, config.max_tokens, "tokens")
        names = [JSON_FILE, *(row["path"] for row in rows)]
        write_json(directory / JSON_FILE, continuation_json(made, session))
        if made.text:
            names.append(TEXT_FILE)
            write_atomic(directory / TEXT_FILE, made.text + "\n")
        totals = {"units": len(made.units), "global_steps": made.global_steps, "text_characters": len(made.text)}
        return DirectoryResult(artifacts=names, totals=totals, rows=rows)

    return build_directory(out, spec, make, force=force)


def _speak(
    directory: Path,
    session: Session,
    given: str | NDArray[Any],
    voice: "Vocoder",
    config: GenerateConfig,
    on_token: Callable[[int, int], None],
) -> tuple[Continued, list[dict[str, Any]]]:
    """Continue `given` and write the sound while units come. Rows of the sound files; none if there were no units."""
    from lst.generate.voice import speak, write_stream

    pieces = ContinuationStream(session, given, voice, config=config, on_token=on_token)
    name = "continuation" if isinstance(given, str) else "whole"
    seconds = {name: write_stream(directory / f"{name}.wav", pieces, voice.sample_rate)}
    made = pieces.continued
    assert made is not None
    if not len(made.units):
        (directory / f"{name}.wav").unlink()
        return made, []
    if name == "whole":
        seconds["continuation"] = speak(voice, made.units, directory / "continuation.wav")
    return made, [{"id": each, "path": f"{each}.wav", "duration_s": seconds[each]} for each in sorted(seconds)]


def continuation_json(made: Continued, session: Session) -> dict[str, Any]:
    """What `continuation.json` holds."""
    prompt: dict[str, Any] = {"modality": made.prompt_modality}
    if made.prompt_modality == "text":
        prompt["text"] = made.prompt_text
    else:
        prompt["units"] = made.prompt_units.tolist()
    return {
        "prompt": prompt,
        "prompt_ids_dropped": made.dropped,
        "spans": made.spans,
        "text": made.text,
        "units": made.units.tolist(),
        "tokenizer": session.fingerprints.get("tokenizer", ""),
        "stopped": made.stopped,
        "global_steps": made.global_steps,
        "patch_size": session.patch_size,
    }
