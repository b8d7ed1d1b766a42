"""Say a text several times and keep what a recogniser hears best.

Units are drawn, so now and then a word is blurred or left out. Which draft that is, a model fine-tuned for asr can tell
from the units alone: no sound is made, and no other recogniser is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lst.errors import LstError
from lst.generate.decoding import generate
from lst.generate.recognition import TRANSCRIBE, check_recogniser, recognition_prompt
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, Warn
from lst.generate.tasks import SYNTHESIZE, Speech, say


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
    """Of `drafts` ways to say `text` (`lst.generate.tasks.say`) the one with the lowest `cer`, the first of equals.

    Raises as `synthesize`, and LstError for a listener that was not fine-tuned for asr or that reads other units.
    """
    check_recogniser(session, listener)
    said = say(session, text, times=drafts, config=config, warn=warn)
    return min(_heard(listener, said), key=lambda draft: draft.cer)


def _heard(listener: Session, said: Sequence[Speech]) -> list[Draft]:
    """What the listener hears in each; one without sound, or too long for it, counts as wholly wrong."""
    from lst.evaluate.words import simple_normalise, word_errors

    prompts = {}
    for number, speech in enumerate(said):
        try:
            prompts[number] = recognition_prompt(listener, speech.units, "A draft")
        except LstError:
            continue
    made = generate(listener, list(prompts.values()), "text", TRANSCRIBE, batch_size=len(said))
    heard = {number: listener.text.decode(one.ids("text").tolist()) for number, one in zip(prompts, made, strict=True)}

    def errors(number: int, text: str) -> float:
        if not simple_normalise(text):
            return 0.0  # no letter to compare: all drafts are alike
        return word_errors([text], [heard[number]], normaliser="simple").cer if number in heard else 1.0

    return [Draft(speech, heard.get(number, ""), errors(number, speech.text)) for number, speech in enumerate(said)]
