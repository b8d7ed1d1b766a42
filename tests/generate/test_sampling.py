import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.data.vocabulary import Vocabulary
from lst.generate.sampling import GenerateConfig, Grammar, choose, draw

NAMES = Vocabulary(10, 5)
EVERYTHING = np.arange(NAMES.size)


def drawn(config: GenerateConfig, logits: np.ndarray, count: int = 4000) -> np.ndarray:
    """How often each token is chosen."""
    tokens = [choose(logits, EVERYTHING[: len(logits)], config, draw(config, 0, k)) for k in range(count)]
    return np.bincount(tokens, minlength=len(logits)) / count


def test_sampling_follows_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    plain = GenerateConfig(temperature=1.0, top_p=None)
    assert np.allclose(drawn(plain, logits), [0.5, 0.3, 0.15, 0.05], atol=0.03)
    sharp = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    assert np.allclose(drawn(plain.model_copy(update={"temperature": 0.5}), logits), sharp / sharp.sum(), atol=0.03)
    assert np.allclose(drawn(plain.model_copy(update={"top_k": 2}), logits), [0.625, 0.375, 0, 0], atol=0.03)
    assert np.allclose(drawn(plain.model_copy(update={"top_p": 0.8}), logits), [0.625, 0.375, 0, 0], atol=0.03)
    assert np.allclose(drawn(plain.model_copy(update={"top_p": 0.81}), logits), [10 / 19, 6 / 19, 3 / 19, 0], atol=0.03)
    assert drawn(plain.model_copy(update={"greedy": True}), logits, 10)[0] == 1


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=NAMES.size, max_size=NAMES.size),
    st.lists(st.booleans(), min_size=NAMES.size, max_size=NAMES.size),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 30),
    st.floats(0.01, 1),
)
def test_only_allowed_tokens_are_chosen(
    logits: list[float], allowed: list[bool], uniform: float, top_k: int, top_p: float
) -> None:
    mask = np.array(allowed)
    mask[0] = True
    ids = np.flatnonzero(mask)
    scores = np.array(logits, dtype=np.float32)
    for config in (GenerateConfig(top_k=top_k, top_p=top_p), GenerateConfig(greedy=True)):
        assert mask[choose(scores, ids, config, uniform)]
    greedy = choose(scores, ids, GenerateConfig(greedy=True), uniform)
    assert scores[greedy] == scores[mask].max()
    assert choose(scores, ids, GenerateConfig(top_k=1), uniform) == greedy


def test_draws_belong_to_seed_row_and_place() -> None:
    config = GenerateConfig()
    assert draw(config, 1, 2) == draw(config, 1, 2)
    others = {draw(config, 1, 3), draw(config, 2, 2), draw(config.model_copy(update={"seed": 1}), 1, 2)}
    assert len(others | {draw(config, 1, 2)}) == 4


def names(ids: np.ndarray) -> set[str]:
    kinds = {NAMES.name(int(token)) for token in ids}
    return {"text" if name.startswith("text") else "unit" if name.startswith("u") else name for name in kinds}


def test_grammar_keeps_modalities_apart() -> None:
    grammar = Grammar(NAMES, GenerateConfig(modality="any"), "text", forbidden=(1,))
    assert names(grammar.allowed()) == {"text", "<s>", "<end>"}
    assert 1 not in grammar.allowed()
    assert grammar.accept(NAMES.speech_marker)
    assert names(grammar.allowed()) == {"unit"}  # a span that has just begun holds something
    assert grammar.accept(NAMES.unit_offset)
    assert names(grammar.allowed()) == {"unit", "<t>", "<end>"}
    assert grammar.accept(NAMES.text_marker)
    assert names(grammar.allowed()) == {"text"}
    assert not grammar.accept(NAMES.end)


@pytest.mark.parametrize(("modality", "kind"), [("text", "text"), ("speech", "unit")])
def test_one_modality_never_switches(modality: str, kind: str) -> None:
    config = GenerateConfig(modality=modality, min_tokens=1, max_tokens=2)  # type: ignore[arg-type]
    grammar = Grammar(NAMES, config, modality)  # type: ignore[arg-type]
    assert names(grammar.allowed()) == {kind}
    token = 3 if kind == "text" else NAMES.unit_offset + 1
    assert grammar.accept(token)
    assert names(grammar.allowed()) == {kind, "<end>"}
    assert not grammar.accept(token)
