"""Units leave as they are decoded, and so does the sound made of them."""

import io

import numpy as np
import pytest

from lst.errors import UsageError
from lst.generate.decoding import Generation, generate, stream
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session
from lst.generate.tasks import SYNTHESIZE, ContinuationStream, SpeechStream, continue_prompt, synthesize
from lst.generate.voice import play_stream
from tests.generate.conftest import Beeper

CONFIG = SYNTHESIZE.model_copy(update={"max_tokens": 12, "min_tokens": 12})


def test_a_stream_is_generate_token_by_token(plain: Session) -> None:
    prompt = np.array([plain.vocabulary.speech_marker, plain.vocabulary.unit_offset], dtype=np.int32)
    config = GenerateConfig(max_tokens=20, seed=3)
    (expected,) = generate(plain, [prompt], "speech", config)
    *tokens, last = stream(plain, prompt, "speech", config)
    assert isinstance(last, Generation)
    assert tokens == last.tokens.tolist() == expected.tokens.tolist()
    assert (last.stopped, last.global_steps) == (expected.stopped, expected.global_steps)


def test_no_token_waits_for_the_next(plain: Session) -> None:
    """One step of the engine per token asked for."""
    from lst.generate.decoding import CachedEngine

    steps: list[int] = []

    class Counting(CachedEngine):
        def step(self, tokens: np.ndarray) -> np.ndarray:
            steps.append(len(tokens))
            return super().step(tokens)

    prompt = np.array([plain.vocabulary.speech_marker], dtype=np.int32)
    made = stream(plain, prompt, "speech", GenerateConfig(max_tokens=9, min_tokens=9), engine=Counting)
    for count in range(9):
        next(made)
        assert len(steps) == count


def test_sound_leaves_while_units_are_made(tts: Session) -> None:
    expected = synthesize(tts, "the cat", config=CONFIG)
    drawn: list[int] = []
    pieces = SpeechStream(tts, "the cat", Beeper(), config=CONFIG, on_token=lambda _, token: drawn.append(token))  # type: ignore[arg-type]
    sound = []
    for number, piece in enumerate(pieces):
        assert len(drawn) == min(12, number + 3)  # the vocoder's two units, and no more
        sound.append(piece)
    assert pieces.speech is not None
    assert pieces.speech.units.tolist() == expected.units.tolist()
    assert (pieces.speech.stopped, pieces.speech.global_steps) == (expected.stopped, expected.global_steps)
    assert np.array_equal(np.concatenate(sound), Beeper().synthesize(expected.units))


@pytest.mark.parametrize("prompt", [np.arange(9, dtype=np.uint16), "the cat"], ids=["spoken", "written"])
def test_a_continuation_is_heard_while_it_is_made(plain: Session, prompt: str | np.ndarray) -> None:
    config = CONFIG.model_copy(update={"modality": "speech"})
    expected = continue_prompt(plain, prompt, config=config)
    drawn: list[int] = []
    pieces = ContinuationStream(plain, prompt, Beeper(), config=config, on_token=lambda _, token: drawn.append(token))  # type: ignore[arg-type]
    sound = []
    before = 0 if isinstance(prompt, str) else len(prompt)
    for number, piece in enumerate(pieces):
        # The first unit is there before the prompt is spoken; then the vocoder's two units, and no more.
        assert len(drawn) == min(12, max(1, number + 3 - before))
        sound.append(piece)
    assert pieces.continued is not None
    assert pieces.continued.units.tolist() == expected.units.tolist()
    assert pieces.continued.spans == expected.spans
    heard = expected.units if isinstance(prompt, str) else np.concatenate([prompt, expected.units])
    assert np.array_equal(np.concatenate(sound), Beeper().synthesize(heard))


def test_without_units_a_continuation_is_silent(plain: Session) -> None:
    config = CONFIG.model_copy(update={"modality": "text"})
    pieces = ContinuationStream(plain, np.arange(9, dtype=np.uint16), Beeper(), config=config)  # type: ignore[arg-type]
    assert list(pieces) == []
    assert pieces.continued is not None
    assert pieces.continued.text


def test_pieces_go_to_a_player_as_they_come() -> None:
    class Pipe(io.BytesIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    pipe = Pipe()
    seconds = play_stream(pipe, iter([np.zeros(640, np.float32), np.ones(1280, np.float32)]), 16_000)
    assert seconds == 1920 / 16_000
    assert pipe.flushed == 2
    assert np.frombuffer(pipe.getvalue(), "<i2").tolist() == [0] * 640 + [32767] * 1280


def test_nothing_to_say(tts: Session) -> None:
    with pytest.raises(UsageError, match="empty"):
        next(iter(SpeechStream(tts, " ", Beeper())))  # type: ignore[arg-type]
