"""What people do with a model: have it say what it reads, or go on from a prompt (`lst.generate.recognition`: hear).

Layouts are those of fine-tuning (`lst.data.interleaving`): `<s> units <asr> text <end>` and `<t> text <tts> units
<end>`. A model that was only pre-trained never saw `<asr>` or `<tts>`: it gets the pre-training layout, a marker of the
other modality, and a warning. One that was fine-tuned for the other task is refused.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lst.constants import FRAME_RATE
from lst.errors import LstError, UsageError
from lst.generate.decoding import Generation, Tokens, generate, stream
from lst.generate.layout import Modality, marker
from lst.generate.recognition import units_of_file
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, Warn

if TYPE_CHECKING:
    from lst.vocoder import Vocoder

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")

SYNTHESIZE = GenerateConfig(modality="speech", max_tokens=750, min_tokens=5)
"""At most 30 seconds. Greedy decoding of units gets stuck on one sound, so they are drawn."""
CONTINUE = GenerateConfig(modality="speech", max_tokens=250, min_tokens=10)
"""Ten seconds of speech."""


@dataclass(frozen=True)
class Speech:
    """Units the model made for a text."""

    text: str
    units: NDArray[np.uint16]
    stopped: str
    global_steps: int

    @property
    def duration_s(self) -> float:
        """Seconds of speech."""
        return len(self.units) / FRAME_RATE


def synthesize(
    session: Session,
    text: str,
    *,
    config: GenerateConfig = SYNTHESIZE,
    on_token: Callable[[int, int], None] | None = None,
    warn: Warn = lambda message: None,
) -> Speech:
    """Units for a text.

    Raises UsageError for an empty text, LstError for one longer than the context, or for a model fine-tuned for asr.
    """
    (speech,) = say(session, text, config=config, on_token=on_token, warn=warn)
    return speech


def say(
    session: Session,
    text: str,
    *,
    times: int = 1,
    config: GenerateConfig = SYNTHESIZE,
    on_token: Callable[[int, int], None] | None = None,
    warn: Warn = lambda message: None,
) -> list[Speech]:
    """`synthesize`, so many times at once, each drawn anew; the first is what `synthesize` gives."""
    session.check_task("tts", warn)
    prompts = [synthesis_prompt(session, text)] * times
    made = generate(session, prompts, "speech", _speech(config), batch_size=times, on_token=on_token)
    return [_speech_of(session, text, one) for one in made]


def synthesis_prompt(session: Session, text: str) -> Tokens:
    """`<t> text <tts>`. Raises UsageError for an empty text."""
    names = session.vocabulary
    ids = session.encode_text(text.strip())
    if len(ids) == 0:
        raise UsageError("There is nothing to say: the text is empty.")
    last = names.tts if session.task == "tts" else names.speech_marker
    return np.concatenate(([names.text_marker], ids, [last])).astype(np.int32)


class SpeechStream:
    """`synthesize` with a vocoder behind it: iterating gives pieces of the waveform while units are still being made.

    A piece leaves as soon as the vocoder can settle it: the delay is its look-ahead. `speech` is there when the last
    piece is. `on_token` as in `generate`. Raises as `synthesize`, on the first piece.
    """

    def __init__(
        self,
        session: Session,
        text: str,
        voice: "Vocoder",
        *,
        config: GenerateConfig = SYNTHESIZE,
        on_token: Callable[[int, int], None] | None = None,
        warn: Warn = lambda message: None,
    ) -> None:
        self.speech: Speech | None = None
        self._session, self._text, self._voice = session, text, voice
        self._config, self._on_token, self._warn = _speech(config), on_token, warn

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        self._session.check_task("tts", self._warn)
        yield from _spoken(self._voice, [], self._units(synthesis_prompt(self._session, self._text)))

    def _units(self, prompt: Tokens) -> Iterator[int]:
        for made in stream(self._session, prompt, "speech", self._config):
            if isinstance(made, Generation):
                self.speech = _speech_of(self._session, self._text, made)
                return
            if self._on_token is not None:
                self._on_token(0, made)
            yield from map(int, self._session.decode_units(np.array([made])))


def _speech(config: GenerateConfig) -> GenerateConfig:
    return config.model_copy(update={"modality": "speech"})


def _speech_of(session: Session, text: str, made: Generation) -> Speech:
    return Speech(text, session.decode_units(made.ids("speech")), made.stopped, made.global_steps)


@dataclass(frozen=True)
class Continued:
    """A prompt and what followed. `units`, `text`: of the continuation, spans joined; `spans` in order.

    `dropped`: ids cut from the front of the prompt because it did not fit the model's context.
    """

    prompt_modality: Modality
    prompt_units: NDArray[np.uint16]
    prompt_text: str
    units: NDArray[np.uint16]
    text: str
    spans: list[dict[str, Any]]
    stopped: str
    global_steps: int
    dropped: int


def continue_prompt(
    session: Session,
    prompt: str | NDArray[Any],
    *,
    config: GenerateConfig = CONTINUE,
    on_token: Callable[[int, int], None] | None = None,
) -> Continued:
    """Continue a text, or units `(n,)`, in the modality of `config` ("any": as the model likes).

    A prompt that takes more than half of the model's context keeps its end only, whole patches of it. Raises UsageError
    for an empty prompt, LstError for a fine-tuned model.
    """
    opened = _open(session, prompt, config)
    (made,) = generate(session, [opened.document], opened.target, config, on_token=on_token)
    return _continued(session, opened, made)


class ContinuationStream:
    """`continue_prompt` with a vocoder behind it: iterating gives pieces of the waveform while units are being made.

    They are a spoken prompt's units and then those of the continuation; nothing, if the model goes on in text only.
    `continued` is there when the last piece is. Raises as `continue_prompt`, on the first piece.
    """

    def __init__(
        self,
        session: Session,
        prompt: str | NDArray[Any],
        voice: "Vocoder",
        *,
        config: GenerateConfig = CONTINUE,
        on_token: Callable[[int, int], None] | None = None,
    ) -> None:
        self.continued: Continued | None = None
        self._session, self._prompt, self._voice = session, prompt, voice
        self._config, self._on_token = config, on_token

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        opened = _open(self._session, self._prompt, self._config)
        yield from _spoken(self._voice, opened.units.tolist(), self._units(opened))

    def _units(self, opened: "_Opened") -> Iterator[int]:
        for made in stream(self._session, opened.document, opened.target, self._config):
            if isinstance(made, Generation):
                self.continued = _continued(self._session, opened, made)
                return
            if self._on_token is not None:
                self._on_token(0, made)
            if self._session.vocabulary.is_unit(made):
                yield from map(int, self._session.decode_units(np.array([made])))


def _spoken(voice: "Vocoder", before: Sequence[int], units: Iterator[int]) -> Iterator[NDArray[np.float32]]:
    """The waveform of `before` and `units` in pieces, as they come; nothing if there are no `units`."""
    first = next(units, None)
    if first is not None:  # a vocoder wants at least one unit
        yield from voice.stream(chain(before, [first], units))


@dataclass(frozen=True)
class _Opened:
    """A prompt, laid out: the ids of the document so far, the modality it goes on in, and what it came from."""

    document: Tokens
    target: Modality
    modality: Modality
    text: str
    units: NDArray[np.uint16]
    dropped: int


def _open(session: Session, prompt: str | NDArray[Any], config: GenerateConfig) -> _Opened:
    """Raises UsageError for an empty prompt, LstError for a fine-tuned model."""
    if session.task:
        raise LstError(
            f"{session.directory} was fine-tuned for {session.task}, not to go on from a prompt.",
            hint="Give the pre-trained model.",
        )
    modality: Modality = "text" if isinstance(prompt, str) else "speech"
    ids = session.encode_text(prompt.strip()) if isinstance(prompt, str) else session.encode_units(prompt)
    if len(ids) == 0:
        raise UsageError("The prompt is empty.", hint="Give a text of at least one word, or a recording.")
    kept = _latest(session, ids, modality)
    opens: list[int] = []
    target = modality
    if config.modality not in ("any", modality):
        target = "text" if config.modality == "text" else "speech"
        opens = [marker(target, session.vocabulary)]
    return _Opened(
        document=np.concatenate(([marker(modality, session.vocabulary)], kept, opens)).astype(np.int32),
        target=target,
        modality=modality,
        text=prompt.strip() if isinstance(prompt, str) else "",
        units=np.empty(0, dtype=np.uint16) if isinstance(prompt, str) else np.asarray(prompt, dtype=np.uint16),
        dropped=len(ids) - len(kept),
    )


def _continued(session: Session, opened: _Opened, made: Generation) -> Continued:
    spans = []
    for span in made.spans:
        if span.modality == "text":
            spans.append({"modality": "text", "text": session.text.decode(span.ids.tolist())})
        else:
            spans.append({"modality": "speech", "units": session.decode_units(span.ids).tolist()})
    return Continued(
        prompt_modality=opened.modality,
        prompt_units=opened.units,
        prompt_text=opened.text,
        units=session.decode_units(made.ids("speech")),
        text=session.text.decode(made.ids("text").tolist()),
        spans=spans,
        stopped=made.stopped,
        global_steps=made.global_steps,
        dropped=opened.dropped,
    )


def _latest(session: Session, ids: Tokens, modality: Modality) -> Tokens:
    step = session.patch_size if modality == "speech" else 1
    excess = -(-len(ids) // step) - session.context // 2
    return ids[excess * step :] if excess > 0 else ids


def check_prompt(prompt: str) -> None:
    """Raise LstError if `prompt` names a sound file that is not there: no model has to be loaded to tell."""
    if prompt.lower().endswith(AUDIO_SUFFIXES) and not Path(prompt).is_file():
        raise LstError(f"{prompt} does not exist.", hint="Give a sound file, or the text itself.")


def read_prompt(session: Session, prompt: str, *, tokenizer: str | None = None) -> str | NDArray[Any]:
    """A prompt from the command line: units `(n,)` if it names a sound file, else the text itself.

    Raises LstError for a sound file that is not there or cannot be read.
    """
    if not prompt.lower().endswith(AUDIO_SUFFIXES):
        return prompt
    return units_of_file(session.unit_tokenizer(tokenizer), Path(prompt))
