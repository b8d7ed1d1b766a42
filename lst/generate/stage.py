"""`lst generate`: a continuation as a directory, `lst.waves/1`, with what went in and what came out.

continuation.json   prompt, spans in order, units, text, why it stopped
continuation.txt    the text of the continuation
continuation.wav    its speech; whole.wav: a spoken prompt's units and then the continuation, by the same vocoder
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, open_session
from lst.generate.tasks import CONTINUE, Continued, continue_prompt, read_prompt
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

        made = continue_prompt(session, given, config=config, on_token=on_token)
        report(config.max_tokens, config.max_tokens, "tokens")
        return write_continuation(directory, made, voice, session)

    return build_directory(out, spec, make, force=force)


def write_continuation(
    directory: Path, made: Continued, voice: "Vocoder | None", session: Session, prefix: str = ""
) -> DirectoryResult:
    """Write a continuation's files into `directory`, their names beginning with `prefix`."""
    names = [f"{prefix}{JSON_FILE}"]
    rows: list[dict[str, Any]] = []
    if made.text:
        names.append(f"{prefix}continuation.txt")
        write_atomic(directory / names[-1], made.text + "\n")
    if voice is not None and len(made.units):
        from lst.generate.voice import speak

        sounds = {"continuation": made.units}
        if len(made.prompt_units):
            sounds["whole"] = np.concatenate([made.prompt_units, made.units])
        for name, units in sounds.items():
            names.append(f"{prefix}{name}.wav")
            seconds = speak(voice, units, directory / names[-1])
            rows.append({"id": f"{prefix}{name}", "path": names[-1], "duration_s": seconds})
    write_json(directory / names[0], continuation_json(made, session))
    totals = {"units": len(made.units), "global_steps": made.global_steps, "text_characters": len(made.text)}
    return DirectoryResult(artifacts=names, totals=totals, rows=rows)


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
