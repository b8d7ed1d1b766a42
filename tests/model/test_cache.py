"""Token by token with caches: the logits of the full forward pass, at every position."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lst.data.batch import pack_examples
from lst.model import LST, linear
from lst.model.cache import Incremental
from lst.model.linear import pack
from tests.model.support import VOCABULARY, document, make, static_example, tiny_model

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("static", {}),
    ("curriculum", {"queries_per_patch": 2, "pooling": "mean"}),
    ("static", {"text_local": False}),
    ("static", {"text_local": False, "cross_rope": False, "pooling": "last"}),
]
IDS = ["base", "static", "queries", "units", "units-no-rope"]


def full(model: LST, tokens: np.ndarray, size: int) -> Tensor:
    with torch.no_grad():
        return model(pack_examples([[static_example(tokens, size)]], VOCABULARY))[0]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(("mode", "changes"), VARIANTS, ids=IDS)
def test_cached_equals_full_at_every_position(mode: str, changes: dict[str, Any], packed: bool) -> None:
    """Documents of different lengths and phases, over patch and modality changes, windows overflowing."""
    rng = np.random.default_rng(0)
    model = tiny_model(mode, **changes)
    size = 1 if mode == "none" else 4
    documents = [document(rng, 21, -3, 9), document(rng, -6, 10, -3, 30), document(rng, 2, -1, 5, -9, 19)]
    expected = [full(model, tokens, size) for tokens in documents]
    if packed:
        pack(model)
    for lengths in ([1, 1, 1], [7, 3, 12], [10, 13, 4], [25, 20, 2]):
        cached = Incremental(model, size)
        prompts = [static_example(tokens[:length], size) for tokens, length in zip(documents, lengths, strict=True)]
        found = cached.start(prompts)
        rows = list(range(3))
        at = np.array(lengths)
        while True:
            for place, row in enumerate(rows):
                close(found[place], expected[row][at[place] - 1])
            going = [place for place, row in enumerate(rows) if at[place] < len(documents[row])]
            if not going:
                break
            if len(going) < len(rows):
                cached.keep(going)
                rows, at = [rows[place] for place in going], at[going]
            found = cached.step(np.array([documents[row][n] for row, n in zip(rows, at, strict=True)]))
            at = at + 1


def test_the_global_transformer_runs_once_per_patch() -> None:
    calls: list[int] = []
    rng = np.random.default_rng(1)
    model = tiny_model("static")
    tokens = document(rng, 11, -2, 8)
    cached = Incremental(model)
    step = cached.steps.of_global

    def counted(*parts: Any) -> Tensor:
        calls.append(1)
        return step(*parts)

    cached.steps = cached.steps._replace(of_global=counted)
    cached.start([static_example(tokens[:4], 4)])
    for token in tokens[4:]:
        cached.step([int(token)])
    assert cached.global_steps == static_example(tokens, 4).global_units
    assert len(calls) == cached.global_steps - 1  # the prompt's only complete patch is <s>


def test_an_aligned_prompt_goes_on_in_static_patches() -> None:
    """Its last word is open: more units fill it up to the patch size, or begin another if it is longer already."""
    rng = np.random.default_rng(2)
    model = tiny_model("aligned")
    tokens = document(rng, 9, -2)[:9]
    prompt = make(tokens, "aligned", seed=3)
    more = VOCABULARY.from_units(rng.integers(0, 19, 11))
    cached = Incremental(model)
    found = [cached.start([prompt])]
    found += [cached.step([int(unit)]) for unit in more]

    lengths, closed = prompt.patch_lengths.tolist(), prompt.closed.tolist()
    filled = max(0, 4 - lengths[-1])
    lengths[-1] += filled
    closed[-1] = filled > 0
    rest = len(more) - filled
    lengths += [4] * (rest // 4) + ([rest % 4] if rest % 4 else [])
    closed += [True] * (rest // 4) + ([False] if rest % 4 else [])
    whole = np.concatenate([tokens, more])
    prompt.tokens, prompt.patch_lengths = whole, np.array(lengths, dtype=np.int32)
    prompt.closed, prompt.loss_mask = np.array(closed), np.arange(len(whole)) > 0
    with torch.no_grad():
        expected = model(pack_examples([[prompt]], VOCABULARY))[0]
    for n, logits in enumerate(found):
        close(logits[0], expected[len(tokens) - 1 + n])


@pytest.mark.parametrize("layout", ["plain", "packed", "for one"])
@pytest.mark.parametrize(("mode", "changes"), VARIANTS, ids=IDS)
def test_logits_of_speech_alone(
    mode: str, changes: dict[str, Any], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smaller head gives the whole one's logits of controls and units, and -inf to text."""
    if layout == "packed":
        monkeypatch.setattr(linear, "SMALL", 0)
    model = tiny_model(mode, **changes)
    size = 1 if mode == "none" else 4
    tokens = document(np.random.default_rng(7), -9)
    expected = full(model, tokens, size)
    if layout != "plain":
        pack(model)
    cached = Incremental(model, size, only_speech=True)
    cached.start([static_example(tokens[:3], size)])
    for n in range(3, len(tokens)):
        found = cached.step(tokens[n : n + 1])[0]
        assert (found[: VOCABULARY.text_size] == -torch.inf).all()
        close(found[VOCABULARY.text_size :], expected[n, VOCABULARY.text_size :])


def test_steps_are_kept_only_of_weights_that_stay() -> None:
    model = tiny_model("static")
    assert Incremental(model).steps is not Incremental(model).steps
    pack(model)
    assert Incremental(model).steps is Incremental(model).steps
    assert Incremental(model).steps is not Incremental(model, only_speech=True).steps


@pytest.mark.parametrize("small", [True, False])
def test_one_document_of_a_small_model_is_the_work_of_one_thread(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not small:
        monkeypatch.setattr(linear, "SMALL", 0)
    model = tiny_model("none")
    pack(model)
    cached = Incremental(model)
    cached.start([static_example(document(np.random.default_rng(0), 4), 1)])
    step, seen = cached.steps.of_global, []

    def looked_at(*parts: Any) -> Tensor:
        seen.append(torch.get_num_threads())
        return step(*parts)

    cached.steps = cached.steps._replace(of_global=looked_at)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        cached.step([1])
        assert seen == [1 if small else 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_batched_equals_alone() -> None:
    rng = np.random.default_rng(3)
    model = tiny_model("static", text_local=False)
    prompts = [static_example(document(rng, *spans)[:-1], 4) for spans in ((6,), (-9,), (-2, 3))]
    together = Incremental(model)
    alone = [Incremental(model) for _ in prompts]
    joined = together.start(prompts)
    single = [cache.start([prompt]) for cache, prompt in zip(alone, prompts, strict=True)]
    close(joined, torch.cat(single))
    for _ in range(20):
        tokens = rng.integers(0, VOCABULARY.size, 3)
        joined = together.step(tokens)
        close(joined, torch.cat([cache.step(tokens[n : n + 1]) for n, cache in enumerate(alone)]))


def test_documents_branch() -> None:
    """A document kept twice goes on in two ways, in the middle of a patch (as beam search does)."""
    rng = np.random.default_rng(8)
    model = tiny_model("static")
    start = document(rng, -6)
    ways = [np.concatenate([start, VOCABULARY.from_units(rng.integers(0, 19, 7).astype(np.uint16))]) for _ in range(2)]
    cached = Incremental(model)
    cached.start([static_example(start, 4)])
    cached.keep([0, 0])
    for n in range(len(start), len(ways[0])):
        found = cached.step([int(way[n]) for way in ways])
    close(found, torch.stack([full(model, way, 4)[-1] for way in ways]))


def test_a_document_may_begin_with_a_unit() -> None:
    """Its first units see no patch at all."""
    model = tiny_model("static")
    tokens = document(np.random.default_rng(5), 9)[1:]
    expected = full(model, tokens, 4)
    cached = Incremental(model)
    found = [cached.start([static_example(tokens[:1], 4)]), *(cached.step([int(token)]) for token in tokens[1:])]
    close(torch.cat(found), expected)


def test_caches_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    from lst.model import cache, kv

    monkeypatch.setattr(kv, "GROWTH", 2)
    monkeypatch.setattr(cache, "TABLE", 2)
    model = tiny_model("static")
    tokens = document(np.random.default_rng(6), 30, -12)
    cached = Incremental(model)
    found = [cached.start([static_example(tokens[:2], 4)]), *(cached.step([int(token)]) for token in tokens[2:])]
    close(torch.cat(found), full(model, tokens, 4)[1:])


def test_windows_bound_what_is_kept() -> None:
    rng = np.random.default_rng(4)
    model = tiny_model("static")
    cached = Incremental(model)
    cached.start([static_example(document(rng, 3)[:-1], 4)])
    for unit in rng.integers(0, 19, 700):
        cached.step([int(unit) + VOCABULARY.unit_offset])
    assert cached.caches["encoder"].keys[0].shape[1] == 5
    assert cached.caches["decoder"].keys[0].shape[1] == 7
    assert cached.caches["global"].counts == [1 + 703 // 4]
