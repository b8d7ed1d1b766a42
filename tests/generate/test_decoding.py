from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lst.data.batch import pack_examples
from lst.errors import LstError
from lst.generate.decoding import CachedEngine, Engine, Generation, generate, global_units
from lst.generate.layout import inference_patch_size, static_example
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, open_session
from tests.evaluate.tiny import make_model

Tokens = NDArray[np.int32]


@pytest.fixture(scope="module", params=["static", "none", "straight"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    mode = "none" if request.param == "none" else "static"
    local = request.param != "straight"
    return open_session(make_model(tmp_path_factory.mktemp("model") / "m", mode, text_local=local, context=128).path)


def prompt(session: Session, units: int, seed: int = 0) -> Tokens:
    """`<s>` and random units."""
    drawn = session.encode_units(np.random.default_rng(seed).integers(0, 501, units))
    return np.concatenate(([session.vocabulary.speech_marker], drawn)).astype(np.int32)


def full_logits(session: Session, tokens: Tokens) -> torch.Tensor:
    with torch.inference_mode():
        example = static_example(tokens, session.vocabulary, session.patch_size)
        return session.model(pack_examples([[example]], session.vocabulary))[0]  # type: ignore[no-any-return]


def test_static_example_patches_every_span_from_its_start(session: Session) -> None:
    names = session.vocabulary
    u = names.unit_offset
    tokens = np.array([names.speech_marker, u, u + 1, u, u, u, names.text_marker, 5, 6, names.speech_marker, u, u])
    example = static_example(tokens, names, 4)
    assert example.patch_lengths.tolist() == [1, 4, 1, 1, 1, 1, 1, 2]
    assert example.closed.tolist() == [True, True, False, True, True, True, True, False]
    assert example.global_units == 8
    base = static_example(tokens, names, 1)
    assert base.patch_lengths.tolist() == [1] * 12
    assert base.closed.all()


def test_greedy_tokens_are_the_argmax_of_the_full_forward_everywhere(session: Session) -> None:
    """Generate, then run the finished document once: every token must be what the full forward would choose."""
    names = session.vocabulary
    config = GenerateConfig(greedy=True, modality="any", max_tokens=40, min_tokens=40)
    for seed in range(3):
        start = prompt(session, 3 + seed, seed)
        (made,) = generate(session, [start], "speech", config)
        assert len(made.tokens) == 40
        document = np.concatenate([start, made.tokens])
        logits = full_logits(session, document)
        modality = "speech"
        fresh = False
        for place in range(len(start), len(document)):
            scores = logits[place - 1].clone()
            keep = torch.zeros(names.size, dtype=torch.bool)
            if modality == "speech":
                keep[names.unit_offset :] = True
                keep[names.text_marker] = not fresh
            else:
                keep[: names.text_size] = True
                keep[[session.text.bos_id, session.text.eos_id]] = False
                keep[names.speech_marker] = not fresh
            scores[~keep] = -torch.inf
            token = int(document[place])
            # Within rounding: the documents have other lengths, so sums may be taken in another order.
            assert float(scores[token]) >= float(scores.max()) - 1e-4
            fresh = token in (names.text_marker, names.speech_marker)
            if fresh:
                modality = "text" if token == names.text_marker else "speech"


class RecomputeEngine:
    """The reference: the whole document through the training forward pass, again for every token."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._documents: list[Tokens] = []

    def start(self, prompts: Sequence[Tokens]) -> NDArray[np.float32]:
        self._documents = [np.asarray(prompt, dtype=np.int32) for prompt in prompts]
        return self._logits()

    def step(self, tokens: Tokens) -> NDArray[np.float32]:
        self._documents = [np.append(old, token) for old, token in zip(self._documents, tokens, strict=True)]
        return self._logits()

    def keep(self, rows: Sequence[int]) -> None:
        self._documents = [self._documents[row] for row in rows]

    def _logits(self) -> NDArray[np.float32]:
        return np.stack([full_logits(self._session, document)[-1].numpy() for document in self._documents])


@pytest.mark.parametrize("greedy", [True, False])
def test_cached_generation_equals_recomputing_everything(session: Session, greedy: bool) -> None:
    prompts = [prompt(session, length, length) for length in (4, 17, 1)]
    config = GenerateConfig(modality="any", max_tokens=30, greedy=greedy, temperature=1.5, top_p=None)
    cached = generate(session, prompts, "speech", config)
    reference = generate(session, prompts, "speech", config, engine=RecomputeEngine)
    for one, other in zip(cached, reference, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        assert (one.stopped, one.global_steps) == (other.stopped, other.global_steps)
    document = np.concatenate([prompts[1], cached[1].tokens])
    assert cached[1].global_steps == global_units(session, document) - global_units(session, prompts[1])


@pytest.mark.parametrize("make", [CachedEngine, RecomputeEngine])
def test_engine_logits_equal_the_full_forward(session: Session, make: Callable[[Session], Engine]) -> None:
    document = np.concatenate([prompt(session, 11), [session.vocabulary.text_marker, 5, 6], prompt(session, 6, 1)])
    expected = full_logits(session, document).numpy()
    engine = make(session)
    logits = engine.start([document[:2], document[:5]])
    for place in range(5, 12):
        assert np.allclose(logits[1], expected[place - 1], atol=1e-4)
        logits = engine.step(np.array([document[place - 3], document[place]], dtype=np.int32))
        assert np.allclose(logits[0], expected[place - 3], atol=1e-4)
    engine.keep([1])
    for place in range(12, len(document)):
        logits = engine.step(document[place : place + 1].astype(np.int32))
        assert np.allclose(logits[0], expected[place], atol=1e-4)


def test_a_later_token_changes_no_earlier_choice(session: Session) -> None:
    """Causality of generation: a longer answer begins with the shorter one."""
    start = [prompt(session, 5)]
    for greedy in (True, False):
        short, long = (
            generate(session, start, "speech", GenerateConfig(greedy=greedy, max_tokens=n, min_tokens=n))[0].tokens
            for n in (9, 30)
        )
        assert long[:9].tolist() == short.tolist()


def test_rows_do_not_depend_on_their_batch(session: Session) -> None:
    prompts = [prompt(session, length, length) for length in (4, 17, 1, 9, 30)]
    config = GenerateConfig(max_tokens=25)
    together = generate(session, prompts, "speech", config)
    apart = generate(session, prompts, "speech", config, batch_size=1)
    pairs = generate(session, prompts, "speech", config, batch_size=2)
    assert [made.tokens.tolist() for made in together] == [made.tokens.tolist() for made in apart]
    assert [made.tokens.tolist() for made in together] == [made.tokens.tolist() for made in pairs]
    assert len({tuple(made.tokens.tolist()) for made in together}) == 5


def test_the_seed_decides(session: Session) -> None:
    def run(seed: int) -> list[int]:
        config = GenerateConfig(seed=seed, max_tokens=20, min_tokens=20)
        return generate(session, [prompt(session, 5)], "speech", config)[0].tokens.tolist()

    assert run(0) == run(0)
    assert run(0) != run(1)


class Script:
    """An engine that wants certain tokens, whatever the prompt."""

    def __init__(self, session: Session, tokens: Sequence[int]) -> None:
        self._size = session.vocabulary.size
        self._tokens = iter(tokens)
        self._rows = 0

    def _next(self) -> NDArray[np.float32]:
        logits = np.zeros((self._rows, self._size), dtype=np.float32)
        logits[:, next(self._tokens)] = 100
        return logits

    def start(self, prompts: Sequence[Tokens]) -> NDArray[np.float32]:
        self._rows = len(prompts)
        return self._next()

    def step(self, tokens: Tokens) -> NDArray[np.float32]:
        assert len(tokens) == self._rows
        return self._next()

    def keep(self, rows: Sequence[int]) -> None:
        self._rows = len(rows)


def scripted(session: Session, tokens: Sequence[int], config: GenerateConfig) -> Generation:
    return generate(session, [prompt(session, 3)], "speech", config, engine=lambda s: Script(s, tokens))[0]


def test_spans_stop_tokens_and_steps(session: Session) -> None:
    names = session.vocabulary
    units = [names.unit_offset + k for k in range(6)]
    script = [*units, names.text_marker, 7, 8, names.speech_marker, units[0], names.end]
    made = scripted(session, script, GenerateConfig(greedy=True))
    assert made.stopped == "end"
    assert [(span.modality, len(span.ids)) for span in made.spans] == [("speech", 6), ("text", 2), ("speech", 1)]
    assert made.ids("text").tolist() == [7, 8]
    assert session.decode_units(made.ids("speech")).tolist() == [0, 1, 2, 3, 4, 5, 0]
    # The prompt's patch of 3 fills up with the first new unit; then 4 units, 1 unit, <t>, 2 texts, <s>, 1 unit.
    assert made.global_steps == (11 if session.patch_size == 1 else 8 - 1)
    assert scripted(session, [names.end], GenerateConfig(greedy=True)).spans == []
    assert scripted(session, script, GenerateConfig(greedy=True, max_tokens=3)).stopped == "length"
    kept = scripted(session, [names.end] * 5, GenerateConfig(greedy=True, min_tokens=3, max_tokens=5))
    assert (len(kept.tokens), kept.stopped) == (3, "end")


def test_generation_ends_where_the_context_does(session: Session) -> None:
    config = GenerateConfig(modality="text", max_tokens=10_000, min_tokens=10_000)
    names = session.vocabulary
    start = np.array([names.text_marker, *[5] * 100], dtype=np.int32)
    (made,) = generate(session, [start], "text", config)
    assert made.stopped == "context"
    assert global_units(session, np.concatenate([start, made.tokens])) == session.context
    with pytest.raises(LstError, match="leaves no room"):
        generate(session, [np.array([names.text_marker, *[5] * 200], dtype=np.int32)], "text", config)


def test_tokens_are_reported_as_they_come(session: Session) -> None:
    seen: list[tuple[int, int]] = []
    prompts = [prompt(session, 3), prompt(session, 8)]
    config = GenerateConfig(max_tokens=6, min_tokens=6)
    made = generate(session, prompts, "speech", config, on_token=lambda row, token: seen.append((row, token)))
    for row in (0, 1):
        assert [token for which, token in seen if which == row] == made[row].tokens.tolist()


def test_context_is_what_the_model_was_trained_on(tmp_path: Path) -> None:
    assert open_session(make_model(tmp_path / "m", context=77).path).context == 77
    assert inference_patch_size(open_session(tmp_path / "m").loaded.config.patching) == 4
