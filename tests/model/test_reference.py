"""The vectorised model against a literal implementation, for every variant; packing and padding change nothing."""

import numpy as np
import pytest
import torch

from lst.data.batch import pack_examples
from tests.model.reference import lst_logits, plain_logits
from tests.model.support import VOCABULARY, document, make, tiny_model

VARIANTS = [
    {},
    {"pooling": "mean"},
    {"pooling": "last"},
    {"queries_per_patch": 3},
    {"text_local": False},
    {"text_local": False, "queries_per_patch": 2, "pooling": "mean"},
    {"cross_rope": False},
]


@pytest.mark.parametrize("mode", ["static", "aligned"])
@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(map(str, changes.values())) or "default")
def test_lst_is_the_described_model(mode: str, changes: dict[str, object]) -> None:
    rng = np.random.default_rng(1)
    model = tiny_model(mode, **changes)
    rows = [
        [make(document(rng, 6, -2, 9), mode, seed=0), make(document(rng, -3, 4), mode, seed=2)],
        [make(document(rng, -2), mode, seed=4)],
    ]
    with torch.no_grad():
        logits = model(pack_examples(rows, VOCABULARY))
    for row, documents in enumerate(rows):
        place = 0
        for item in documents:
            expected = lst_logits(model.config, model.state_dict(), item)
            found = logits[row, place : place + len(item.tokens)]
            torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-4)
            place += len(item.tokens)
        assert (logits[row, place:] == 0).all()


def test_tied_heads_are_the_described_model() -> None:
    from lst.model import TransformerConfig

    local = TransformerConfig(layers=1, dim=16, heads=2, window=5)
    model = tiny_model("static", encoder=local, decoder=local, tied_heads=True)
    item = make(document(np.random.default_rng(3), 6, -2), "static")
    state = model.state_dict()
    assert state["head.weight"].data_ptr() == state["embedding.weight"].data_ptr()
    expected = lst_logits(model.config, state, item)
    with torch.no_grad():
        found = model(pack_examples([[item]], VOCABULARY))[0]
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["none", "bpe"])
def test_without_patches_it_is_a_plain_decoder(mode: str) -> None:
    rng = np.random.default_rng(2)
    model = tiny_model(mode)
    assert {name.split(".")[0] for name in model.state_dict()} == {"embedding", "global_transformer", "head"}
    item = make(document(rng, 7, -3, 5), mode)
    batch = pack_examples([[make(document(rng, 3), mode), item]], VOCABULARY)
    expected = plain_logits(model.config, model.state_dict(), [int(token) for token in item.tokens])
    with torch.no_grad():
        found = model(batch)[0, -len(item.tokens) :]
        torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-4)
        alone = pack_examples([[item]], VOCABULARY)
        reference = torch.nn.functional.cross_entropy(expected[:-1], torch.from_numpy(item.tokens[1:]).long())
        assert abs(model.loss(alone).mean.item() - reference.item()) < 1e-5


def test_static_one_makes_the_units_themselves_the_patches() -> None:
    rng = np.random.default_rng(4)
    tokens = document(rng, 5, -3, 4)
    patched = pack_examples([[make(tokens, "static", size=1)]], VOCABULARY)
    plain = pack_examples([[make(tokens, "none")]], VOCABULARY)
    for name in ("tokens", "patch_ids", "patch_documents", "patch_positions", "visible", "targets"):
        assert torch.equal(getattr(patched, name), getattr(plain, name)), name
    assert torch.equal(patched.patch_ids[0], torch.arange(len(tokens)))
    # With one token per patch the query can only attend to that token: the patch is a function of the unit alone.
    model, base = tiny_model("static", size=1), tiny_model("none")
    names = {name for name in model.state_dict() if name.startswith("global_transformer.")}
    assert names == {name for name in base.state_dict() if name.startswith("global_transformer.")}
    changed = tokens.copy()
    changed[2] = VOCABULARY.from_units(np.array([(int(VOCABULARY.to_units(tokens[2:3])[0]) + 1) % 19]))[0]
    model.encoder.layers = torch.nn.ModuleList()  # type: ignore[union-attr]  # without context from neighbours
    seen: list[torch.Tensor] = []
    model.global_transformer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(patched)
        model(pack_examples([[make(changed, "static", size=1)]], VOCABULARY))
    moved = (seen[0] - seen[1]).abs().amax(-1)[0]
    assert moved[2] > 0
    assert (torch.cat([moved[:2], moved[3:]]) == 0).all()


@pytest.mark.parametrize("mode", ["none", "static", "aligned"])
@pytest.mark.parametrize("text_local", [True, False])
def test_packed_equals_alone(mode: str, text_local: bool) -> None:
    if mode == "none" and not text_local:
        pytest.skip("no local modules")
    rng = np.random.default_rng(5)
    model = tiny_model(mode, text_local=text_local)
    items = [make(document(rng, *spans), mode, seed=2 * n) for n, spans in enumerate([(9,), (-4, 6), (150, -3), (-2,)])]
    with torch.no_grad():
        packed = model.target_losses(pack_examples([items[:2], items[2:]], VOCABULARY))
        summed = model.loss(pack_examples([items[:2], items[2:]], VOCABULARY))
        alone = [model.target_losses(pack_examples([[item]], VOCABULARY))[0] for item in items]
    for row, parts in enumerate((alone[:2], alone[2:])):
        joined = torch.cat(parts)
        torch.testing.assert_close(packed[row, : len(joined)], joined, atol=1e-5, rtol=1e-5)
        assert (packed[row, len(joined) :] == 0).all()
    torch.testing.assert_close(summed.loss, packed.sum())
