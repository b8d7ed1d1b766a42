"""No logit may depend on a later token, nor on where later patches begin.

Each test keeps the tokens up to some position, changes everything after it (other tokens, other lengths, another
modality), works the patches out again from the changed sequence, and compares the logits up to that position.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from lst.data.batch import pack_examples
from lst.data.patching import Example
from lst.model import LST
from lst.model.cache import Incremental
from tests.model.support import MODES, VOCABULARY, aligned_example, document, make, static_example, tiny_model

TOLERANCE = 1e-5

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")


def logits(model: LST, rows: list[list[Example]]) -> Tensor:
    with torch.no_grad():
        return model(pack_examples(rows, VOCABULARY))


def futures(rng: np.random.Generator) -> list[np.ndarray]:
    """What may follow a cut: more units, text at once, the end at once, or nothing at all."""
    return [
        VOCABULARY.from_units(rng.integers(0, 19, 9)),
        np.concatenate([[VOCABULARY.text_marker], rng.integers(0, 23, 3)]).astype(np.int32),
        np.array([VOCABULARY.end], dtype=np.int32),
        np.empty(0, dtype=np.int32),
    ]


BACKENDS = [(mode, {"backend": backend}) for backend in ("dense", "sdpa") for mode in MODES]
FLEX = [  # bpe is patched like none, mixed and curriculum like static or aligned
    pytest.param(mode, {"backend": "flex"}, marks=[] if mode in ("none", "static", "aligned") else pytest.mark.slow)
    for mode in MODES
]
UNITS = {"text_local": False, "queries_per_patch": 2}


@pytest.mark.parametrize(
    ("mode", "changes"),
    [(mode, {}) for mode in MODES] + [("static", UNITS), ("aligned", UNITS), *BACKENDS, *FLEX],
    ids=str,
)
def test_the_past_does_not_move(mode: str, changes: dict[str, object]) -> None:
    rng = np.random.default_rng(7)
    model = tiny_model(mode, **changes)
    tokens = document(rng, 10, -3, 7)  # static 4: two full patches and a short one of 2, then one full and one of 3
    before, after = make(document(rng, 5), mode, seed=9, name="before"), make(document(rng, -2), mode, seed=9)
    skip = len(before.tokens)
    for seed in (0, 1) if mode in ("mixed", "curriculum") else (0,):
        whole = logits(model, [[before, make(tokens, mode, seed=seed), after]])[0, skip:]
        cuts, rows = [], []
        for cut in range(1, len(tokens)):
            for future in futures(rng):
                cuts.append(cut)
                rows.append([before, make(np.concatenate([tokens[:cut], future]), mode, seed=seed)])
        for cut, found in zip(cuts, logits(model, rows), strict=True):
            moved = (found[skip : skip + cut] - whole[:cut]).abs().max()
            assert moved < TOLERANCE, f"cut {cut}: {moved}"


@pytest.mark.parametrize(
    ("mode", "changes"), [(mode, {}) for mode in MODES] + [("static", UNITS), ("aligned", UNITS)], ids=str
)
def test_cached_generation_knows_no_more_than_the_prompt(mode: str, changes: dict[str, object]) -> None:
    """A prompt cut anywhere predicts what the whole document predicts there, whose future the cache never saw."""
    rng = np.random.default_rng(12)
    model = tiny_model(mode, **changes)
    tokens = document(rng, 10, -3, 7)
    for seed in (0, 1) if mode in ("mixed", "curriculum") else (0,):
        whole = logits(model, [[make(tokens, mode, seed=seed)]])[0]
        prompts = [make(tokens[:cut], mode, seed=seed) for cut in range(1, len(tokens))]
        found = Incremental(model, 1 if mode in ("none", "bpe") else 4).start(prompts)
        assert (found - whole[:-1]).abs().max() < 1e-4


def test_aligned_boundaries_of_the_future_do_not_show() -> None:
    rng = np.random.default_rng(8)
    model = tiny_model("aligned")
    tokens = document(rng, 14, -2)
    drawn = rng.random(len(tokens)) < 0.4
    whole = logits(model, [[aligned_example(tokens, drawn)]])[0]
    cuts, rows = [], []
    for cut in range(1, len(tokens)):
        for density in (0.0, 0.5, 1.0):
            changed = drawn.copy()
            changed[cut:] = rng.random(len(tokens) - cut) < density
            cuts.append(cut)
            rows.append([aligned_example(tokens, changed)])
    for cut, found in zip(cuts, logits(model, rows), strict=True):
        assert (found[:cut] - whole[:cut]).abs().max() < TOLERANCE


@pytest.mark.parametrize("mode", ["static", "aligned"])
def test_an_open_patch_seen_by_its_own_end_would_be_caught(mode: str) -> None:
    """The trap: these tests must fail for a patch whose existence tells that a span ends."""
    rng = np.random.default_rng(9)
    model = tiny_model(mode)
    tokens = document(rng, 6, -2)  # the span is units 1..6: static 4 leaves a short patch of 2
    longer = np.concatenate([tokens[:7], VOCABULARY.from_units(rng.integers(0, 19, 4))])

    def build(sequence: np.ndarray, closed: bool) -> Example:
        boundaries = np.zeros(len(sequence), dtype=np.bool_)
        if mode == "aligned":
            boundaries[3] = True
        item = static_example(sequence, 4) if mode == "static" else aligned_example(sequence, boundaries)
        item.closed = item.closed | closed
        return item

    kept = 7
    safe = logits(model, [[build(tokens, False)]])[0] - logits(model, [[build(longer, False)]])[0][: len(tokens)]
    leaky = logits(model, [[build(tokens, True)]])[0] - logits(model, [[build(longer, True)]])[0][: len(tokens)]
    assert safe[:kept].abs().max() < TOLERANCE
    if mode == "static":
        assert leaky[:kept].abs().max() > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_documents_do_not_see_each_other(mode: str) -> None:
    rng = np.random.default_rng(10)
    model = tiny_model(mode)
    first, second, third = (make(document(rng, *spans), mode) for spans in ((6, -2), (-3, 9), (5,)))
    other = make(document(rng, 6, -2), mode)
    rows = logits(model, [[first, second, third], [third, first]])
    changed = logits(model, [[other, second, third], [third, other]])
    a, b = len(first.tokens), len(third.tokens)
    assert len(other.tokens) == a
    assert (rows[0, :a] - changed[0, :a]).abs().max() > 1e-3
    assert (rows[0, a:] - changed[0, a:]).abs().max() < TOLERANCE
    assert (rows[1, :b] - changed[1, :b]).abs().max() < TOLERANCE


def test_every_token_matters_to_what_follows() -> None:
    """The other half of causality: nothing within reach is hidden by mistake."""
    rng = np.random.default_rng(11)
    model = tiny_model("static")
    tokens = document(rng, 9, -3)
    whole = logits(model, [[static_example(tokens, 4)]])[0]
    for place in range(len(tokens)):
        changed = tokens.copy()
        near = VOCABULARY.is_unit(tokens[place])
        changed[place] = VOCABULARY.unit_offset + (tokens[place] - VOCABULARY.unit_offset + 1) % 19 if near else 5
        if changed[place] == tokens[place]:
            changed[place] = 6
        found = logits(model, [[static_example(changed, 4)]])[0]
        assert (found[place:] - whole[place:]).abs().amax(-1).min() > 1e-6
