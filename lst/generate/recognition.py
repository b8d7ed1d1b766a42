"""Recordings written down by a model: `<s> units <asr> text <end>`, long ones in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lst.constants import FRAME_RATE
from lst.errors import LstError
from lst.generate.beam import beam_search
from lst.generate.decoding import Generation, Tokens, generate, global_units
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, Warn
from lst.manifest import Progress

if TYPE_CHECKING:
    from lst.units import UnitTokenizer

TRANSCRIBE = GenerateConfig(modality="text", greedy=True, max_tokens=300)
"""Recognition has one right answer: no sampling."""
PIECE_S, PAD_S = 20.0, 0.1
"""Seconds of a recording that are recognised at once, as models are trained on utterances; longer ones are cut at their
pauses, of which this much is kept on both sides."""


@dataclass(frozen=True)
class Transcript:
    """What the model wrote for a recording. `error` says why there is nothing, and then all else is empty.

    `stopped`: "end" if the model ended by itself; "length" or "context" if it was cut off.
    """

    path: Path
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    units: int = 0
    stopped: str = ""
    error: str = ""


def transcribe(
    session: Session,
    paths: Sequence[Path],
    *,
    tokenizer: str | None = None,
    config: GenerateConfig = TRANSCRIBE,
    batch_size: int = 8,
    beams: int = 1,
    progress: Progress | None = None,
    warn: Warn = lambda message: None,
) -> list[Transcript]:
    """Transcribe recordings, each on its own. One that cannot be read gets an `error`; others go on.

    A recording of more than `PIECE_S` seconds is cut at its pauses. `beams`: of a beam search, one piece at a time; 1
    is `config`'s way. Raises LstError if the model's unit tokenizer is not here, or if it was fine-tuned to speak.
    """
    from lst.audio import AudioError

    units_of = session.unit_tokenizer(tokenizer)
    session.check_task("asr", warn)
    prompts: list[Tokens] = []
    pieces: list[list[NDArray[np.uint16]]] = []  # of each recording; none where there is an error
    errors: dict[int, str] = {}
    for place, path in enumerate(paths):
        try:
            units = [units_of_file(units_of, path, *part) for part in _parts(session, path)]
            prompts += [recognition_prompt(session, piece, str(path)) for piece in units]
            pieces.append(units)
        except (AudioError, LstError) as error:
            errors[place] = str(error)
            pieces.append([])
    config = config.model_copy(update={"modality": "text"})
    if beams > 1:
        made = [beam_search(session, prompt, "text", config, beams=beams) for prompt in prompts]
    else:
        made = generate(session, prompts, "text", config, batch_size=batch_size, progress=progress)
    left = iter(made)
    return [
        Transcript(Path(path), error=errors[place])
        if place in errors
        else _joined(session, Path(path), pieces[place], [next(left) for _ in pieces[place]])
        for place, path in enumerate(paths)
    ]


def _joined(
    session: Session, path: Path, units: Sequence[NDArray[np.uint16]], made: Sequence[Generation]
) -> Transcript:
    """What the model wrote for the pieces of one recording."""
    ids = [generation.ids("text").tolist() for generation in made]
    return Transcript(
        path,
        text=" ".join(filter(None, map(session.text.decode, ids))),
        tokens=list(chain.from_iterable(ids)),
        units=sum(map(len, units)),
        stopped=next((generation.stopped for generation in made if generation.stopped != "end"), "end"),
    )


def _parts(session: Session, path: Path) -> list[tuple[float, float | None]]:
    """(offset, length) in seconds of what is heard at once: all of a short recording, a long one cut at its pauses.

    Raises AudioError, or LstError for a long recording without a sound.
    """
    from lst.audio import probe
    from lst.audio.cut import cut_at_pauses, detect_speech

    longest_s = min(PIECE_S, session.context // 2 * session.patch_size / FRAME_RATE)
    if probe(path).duration_s <= longest_s:
        return [(0.0, None)]
    found = cut_at_pauses(detect_speech(path, "energy"), max_s=longest_s, pad_s=PAD_S)
    if not found:
        raise LstError(f"There is no speech in {path}.", hint="Give a recording in which somebody talks.")
    return [(start, end - start) for start, end in found]


def check_recogniser(session: Session, recogniser: Session) -> None:
    """Raises LstError unless `recogniser` was fine-tuned for asr and reads the units that `session` knows."""
    if recogniser.task != "asr":
        raise LstError(f"{recogniser.directory} was not fine-tuned to recognise.", hint="Give an asr model.")
    recogniser.check_units(session.fingerprints.get("tokenizer", ""), f"What {session.directory} reads and says")


def recognition_prompt(session: Session, units: NDArray[Any], name: str) -> Tokens:
    """`<s> units <asr>`. Raises LstError if there are no units, or more than the context holds; `name` begins it."""
    if len(units) == 0:
        raise LstError(f"{name} is too short: it has no unit of {1000 // FRAME_RATE} ms.")
    names = session.vocabulary
    last = names.asr if session.task == "asr" else names.text_marker
    prompt = np.concatenate(([names.speech_marker], session.encode_units(units), [last])).astype(np.int32)
    if global_units(session, prompt) >= session.context:
        raise _too_long(session, name, len(units) / FRAME_RATE)
    return prompt


def _too_long(session: Session, name: str, seconds: float) -> LstError:
    most = (session.context - 3) * session.patch_size / FRAME_RATE
    return LstError(
        f"{name} is {seconds:.1f} s long; this model reads at most {most:.1f} s at once.",
        hint="Cut it into utterances first: lst ingest --segment.",
    )


def units_of_file(
    tokenizer: "UnitTokenizer", path: Path, offset_s: float = 0.0, duration_s: float | None = None
) -> NDArray[np.uint16]:
    """Units `(n,)` of a recording of any length, or of a part of it, in bounded memory. Raises AudioError."""
    from lst.audio import stream_audio

    chunks = stream_audio(path, offset_s=offset_s, duration_s=duration_s)
    return np.concatenate([*tokenizer.encode_stream(chunks), np.empty(0, dtype=np.uint16)])
