"""Say a text several times and keep what a recogniser hears best.

Units are drawn, so now and then a word is blurred or left out. Which draft that is, a model fine-tuned for asr can tell
from the units alone: no sound is made, and no other recogniser is asked.
"""

from dataclasses import dataclass

import numpy as np

from lst.errors import LstError
from lst.generate.decoding import generate
from lst.generate.recognition import TRANSCRIBE, recognition_prompt
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, Warn
from lst.generate.tasks import SYNTHESIZE, Speech, synthesize


@dataclass(frozen=True)
class Draft:
    """One way to say a text: `heard` by the listener, with `cer` character errors per character of the text."""

    speech: Speech
    heard: str
    cer: float


def best_draft(
    session: Session,
    listener: Session,
    text: str,
    *,
    drafts: int,
    config: GenerateConfig = SYNTHESIZE,
    warn: Warn = lambda message: None,
) -> Draft:
    """Of `drafts` ways to say `text` (seeds `config.seed`, + 1, …) the one with the lowest `cer`, the first of equals.

    Raises as `synthesize`, and LstError for a listener that was not fine-tuned for asr or that reads other units.
    """
    check_listener(session, listener)
    said = [
        synthesize(session, text, config=config.model_copy(update={"seed": config.seed + number}), warn=warn)
        for number in range(drafts)
    ]
    return min((_heard(listener, speech) for speech in said), key=lambda draft: draft.cer)


def check_listener(session: Session, listener: Session) -> None:
    """Raises LstError for a listener that was not fine-tuned for asr, or that reads units of another tokenizer."""
    if listener.task != "asr":
        raise LstError(
            f"{listener.directory} was not fine-tuned to recognise: it cannot judge drafts.", hint="Give an asr model."
        )
    listener.check_units(session.fingerprints.get("tokenizer", ""), f"What {session.directory} says")


def _heard(listener: Session, speech: Speech) -> Draft:
    from lst.evaluate.words import simple_normalise, word_errors

    if not simple_normalise(speech.text):
        return Draft(speech, "", 0.0)  # no letter to compare: all drafts are alike
    try:
        prompt = recognition_prompt(listener, np.asarray(speech.units), "A draft")
    except LstError:  # nothing was said, or more than the listener reads at once
        return Draft(speech, "", 1.0)
    (made,) = generate(listener, [prompt], "text", TRANSCRIBE)
    heard = listener.text.decode(made.ids("text").tolist())
    return Draft(speech, heard, word_errors([speech.text], [heard], normaliser="simple").cer)
