import itertools
from pathlib import Path

import numpy as np
import pytest

from lst.generate.beam import beam_search
from lst.generate.decoding import generate
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, open_session
from tests.evaluate.tiny import make_model


class FixedEngine:
    """Logits that depend on the whole document, from a table: what is searched is known in full."""

    def __init__(self, session: Session) -> None:
        self.size = session.vocabulary.size

    def start(self, prompts: list[np.ndarray]) -> np.ndarray:
        self.rows: list[tuple[int, ...]] = [() for _ in prompts]
        return self.logits()

    def step(self, tokens: np.ndarray) -> np.ndarray:
        self.rows = [(*row, int(token)) for row, token in zip(self.rows, tokens, strict=True)]
        return self.logits()

    def keep(self, rows: list[int]) -> None:
        self.rows = [self.rows[row] for row in rows]

    def logits(self) -> np.ndarray:
        return np.stack([logits_after(row, self.size) for row in self.rows])


def logits_after(row: tuple[int, ...], size: int) -> np.ndarray:
    return np.random.default_rng([1, *row]).normal(0, 2, size).astype(np.float32)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_session(make_model(tmp_path_factory.mktemp("asr") / "model", task="asr").path)


PROMPT = np.array([3, 5, 7], dtype=np.int32)


def test_one_beam_is_greedy_decoding(session: Session) -> None:
    names = session.vocabulary
    config = GenerateConfig(modality="text", greedy=True, max_tokens=12)
    for start in range(4):
        units = names.from_units(np.arange(start, start + 9, dtype=np.uint16))
        prompt = np.concatenate(([names.speech_marker], units, [names.asr])).astype(np.int32)
        (greedy,) = generate(session, [prompt], "text", config)
        found = beam_search(session, prompt, "text", config, beams=1)
        assert found.tokens.tolist() == greedy.tokens.tolist()
        assert (found.stopped, found.global_steps) == (greedy.stopped, greedy.global_steps)


def test_a_wide_beam_finds_the_best_of_all(session: Session) -> None:
    """Every document of up to two tokens is tried by hand."""
    names = session.vocabulary
    config = GenerateConfig(modality="text", max_tokens=3)
    pieces = [token for token in range(names.text_size) if token not in (session.text.bos_id, session.text.eos_id)]
    allowed = [*pieces, names.end]

    def logp(row: tuple[int, ...], token: int) -> float:
        scores = logits_after(row, names.size)[allowed].astype(np.float64)
        return float(scores[allowed.index(token)] - np.log(np.exp(scores - scores.max()).sum()) - scores.max())

    best = logp((), names.end), ()
    first = {token: logp((), token) for token in pieces}
    for token in pieces:
        best = max(best, ((first[token] + logp((token,), names.end)) / 2, (token,)))
    # A third of the way is enough of the longer ones: those that begin likely.
    likely = sorted(pieces, key=lambda token: -first[token])[:12]
    for pair in itertools.product(likely, pieces):
        score = (first[pair[0]] + logp(pair[:1], pair[1]) + logp(pair, names.end)) / 3
        best = max(best, (score, pair))
    found = beam_search(session, PROMPT, "text", config, beams=len(allowed) * 12, engine=FixedEngine)
    assert tuple(found.tokens.tolist()) == best[1]
    assert found.stopped == "end"


def test_more_beams_never_find_less_likely_text_here(session: Session) -> None:
    config = GenerateConfig(modality="text", max_tokens=5)
    for beams in (1, 4):
        found = beam_search(session, PROMPT, "text", config, beams=beams, engine=FixedEngine)
        assert len(found.tokens) <= 5


def test_cut_off_without_an_end(session: Session, tmp_path: Path) -> None:
    config = GenerateConfig(modality="text", max_tokens=3, min_tokens=10)
    assert beam_search(session, PROMPT, "text", config, beams=2, engine=FixedEngine).stopped == "length"
    short = open_session(make_model(tmp_path / "short", task="asr", context=5).path)
    config = GenerateConfig(modality="text", max_tokens=30, min_tokens=30)
    found = beam_search(short, PROMPT, "text", config, beams=2, engine=FixedEngine)
    assert (found.stopped, len(found.tokens)) == ("context", 2)


class StoryEngine(FixedEngine):
    """Writes tokens 10, 11, … 29 one after the other, fairly sure of each; `<end>` is always the next best."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.end = session.vocabulary.end

    def logits(self) -> np.ndarray:
        table = np.full((len(self.rows), self.size), -20.0, dtype=np.float32)
        for place, row in enumerate(self.rows):
            told = sum(token == 10 + n for n, token in enumerate(row))
            table[place, self.end if told == 20 else 10 + len(row)] = 0.0
            table[place, self.end] = max(table[place, self.end], -2.0)
        return table


def test_unlikely_ends_do_not_cut_a_transcript(session: Session) -> None:
    """Four beams have collected four ends after as many words; the sentence is not over."""
    config = GenerateConfig(modality="text", max_tokens=40)
    found = beam_search(session, PROMPT, "text", config, beams=4, engine=StoryEngine)
    assert found.tokens.tolist() == list(range(10, 30))
    assert found.stopped == "end"
