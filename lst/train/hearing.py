"""Error rates while a fine-tuning goes on: what the model in training makes of a few held-out utterances.

    asr   they are transcribed greedily: WER, CER, and the share that did not stop
    tts   their texts are said, vocoded, and heard by a small Whisper (extra `judge`): WER, CER

Losses tell early progress better (method, section 5); these say when the model begins to be of use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lst.errors import LstError
from lst.generate.session import Session
from lst.manifest import Manifest

if TYPE_CHECKING:
    from lst.data.unit_bpe import UnitBpe
    from lst.evaluate.speech_data import Spoken
    from lst.model.config import LSTConfig
    from lst.model.lst import LST
    from lst.text.tokenizer import TextTokenizer

MAX_TEXT = 120
MAX_UNITS = 250
"""Ten seconds: a model that does not stop must not stop the training."""


@dataclass(frozen=True)
class TrainingSession(Session):
    """A session on a model that is being fine-tuned: its directory is that of the model it came from."""

    training_task: str = ""

    @property
    def task(self) -> str:
        return self.training_task


@dataclass(frozen=True)
class Hearing:
    """What a fine-tuning is measured with."""

    task: Literal["asr", "tts"]
    source: Manifest
    config: "LSTConfig"
    text: "TextTokenizer"
    unit_bpe: "UnitBpe | None"
    chosen: "list[Spoken]"

    def measure(self, model: "LST") -> dict[str, float]:
        """`wer`, `cer` and `non_stopping` of `model`, in evaluation mode."""
        from lst.model.checkpoint import LoadedModel

        loaded = LoadedModel(model, self.config, self.source.path, self.source)
        session = TrainingSession(loaded, self.text, self.unit_bpe, dict(self.source.fingerprints), self.task)
        return _transcribe(session, self.chosen) if self.task == "asr" else _speak(session, self.chosen)


def hearing(
    task: Literal["asr", "tts"],
    source: Manifest,
    pairs: Manifest,
    config: "LSTConfig",
    unit_bpe: "UnitBpe | None",
    *,
    utterances: int,
    seed: int,
) -> Callable[["LST"], dict[str, float]] | None:
    """How to measure a model on held-out rows of `pairs`; None if none is held out, or none is wanted.

    Raises LstError if synthesis is to be judged and there is no judge or no vocoder.
    """
    from lst.data.loader import text_tokenizer_of
    from lst.evaluate.speech_data import utterances as spoken

    if not utterances:
        return None
    try:
        chosen = spoken(pairs, split="valid", rows=utterances, seed=seed)
    except LstError:
        return None
    if task == "tts":
        from lst.evaluate.judge import judge_installed
        from lst.vocoder import choose_vocoder

        if not judge_installed():
            raise LstError(
                "valid_utterances asks for error rates of speech, and the judge is not installed.",
                hint="Install lst's extra judge, or set valid_utterances=0.",
            )
        choose_vocoder(None, source.fingerprints.get("tokenizer", ""), str(source.path), told_by=source)
    return Hearing(task, source, config, text_tokenizer_of(source), unit_bpe, chosen).measure


def _transcribe(session: Session, chosen: "list[Spoken]") -> dict[str, float]:
    import numpy as np

    from lst.evaluate.words import word_errors
    from lst.generate.decoding import generate
    from lst.generate.recognition import TRANSCRIBE, recognition_prompt

    prompts, references = [], []
    for one in chosen:
        try:
            prompts.append(recognition_prompt(session, np.array(one.units), one.id))
        except LstError:
            continue  # longer than the context: training cuts it, recognition refuses it
        references.append(one.text)
    if not prompts:
        return {}
    made = generate(session, prompts, "text", TRANSCRIBE.model_copy(update={"max_tokens": MAX_TEXT}))
    heard = [session.text.decode(generation.ids("text").tolist()) for generation in made]
    errors = word_errors(references, heard)
    endless = sum(generation.stopped != "end" for generation in made) / len(made)
    return {"wer": errors.wer, "cer": errors.cer, "non_stopping": endless}


def _speak(session: Session, chosen: "list[Spoken]") -> dict[str, float]:
    import numpy as np

    from lst.evaluate.judge import Judge
    from lst.generate.tasks import SYNTHESIZE, synthesize
    from lst.generate.voice import open_vocoder

    vocoder = open_vocoder(session)
    config = SYNTHESIZE.model_copy(update={"max_tokens": MAX_UNITS})
    made = [synthesize(session, one.text, config=config) for one in chosen]
    clips = [vocoder.synthesize(each.units) if len(each.units) else np.zeros(0, np.float32) for each in made]
    heard = Judge("whisper-tiny.en").errors(clips, [one.text for one in chosen])
    endless = sum(each.stopped != "end" for each in made) / len(made)
    return {"wer": heard.errors.wer, "cer": heard.errors.cer, "non_stopping": endless}
