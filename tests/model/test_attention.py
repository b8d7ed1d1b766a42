"""Masks against brute force, and every back end against the dense reference."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lst.data.batch import PackedBatch, pack_examples
from lst.errors import LstError
from lst.model.attention import BLOCK, CALL, BlockedAttention, DenseAttention, FlexAttention, SegmentAttention, plan
from lst.model.masks import CausalMask, Mask, MemberMask, PrefixMask
from lst.model.segments import Segments, pool
from lst.model.xformers_attention import make_bias
from tests.model.support import VOCABULARY, document, make

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")


def a_batch(seed: int = 0, mode: str = "static") -> PackedBatch:
    rng = np.random.default_rng(seed)
    shapes: list[list[tuple[int, ...]]] = [[(9, -3), (-4,), (6,)], [(2,), (-1, 13)]]
    rows = [[make(document(rng, *spans), mode, seed=2 * n) for n, spans in enumerate(row)] for row in shapes]
    rows[1].insert(1, make(document(rng, 5)[1:], mode))  # begins with a unit, which sees no patch at all
    return pack_examples(rows, VOCABULARY)


def masks_of(batch: PackedBatch, queries: int = 1) -> dict[str, Mask]:
    patches = batch.patch_documents.shape[1]
    return {
        "block-causal": CausalMask(batch.documents),
        "global": CausalMask(batch.patch_documents),
        "window": CausalMask(batch.documents, window=4),
        "window-1": CausalMask(batch.documents, window=1),
        "token-to-patch": MemberMask(batch.patch_ids, batch.documents, patches, queries),
        "patch-to-token": PrefixMask(batch.documents, batch.visible, batch.patch_documents),
    }


NAMES = list(masks_of(a_batch()))


def brute_force(name: str, batch: PackedBatch, queries: int) -> Tensor:
    """The same masks from their description, entry by entry."""
    rows, length = batch.tokens.shape
    patches = batch.patch_documents.shape[1]
    shape = {
        "global": (patches, patches),
        "token-to-patch": (patches * queries, length),
        "patch-to-token": (length, patches),
    }.get(name, (length, length))
    out = torch.zeros(rows, *shape, dtype=torch.bool)
    for b in range(rows):
        for q in range(shape[0]):
            for k in range(shape[1]):
                if name == "token-to-patch":
                    seen = batch.documents[b, k] > 0 and batch.patch_ids[b, k] == q // queries
                elif name == "patch-to-token":
                    own = batch.documents[b, q] == batch.patch_documents[b, k] != 0
                    seen = own and k < batch.visible[b, q]
                else:
                    documents = batch.patch_documents if name == "global" else batch.documents
                    window = {"window": 4, "window-1": 1}.get(name, length)
                    seen = documents[b, q] == documents[b, k] != 0 and 0 <= q - k < window
                out[b, q, k] = bool(seen)
    return out


@pytest.mark.parametrize("mode", ["static", "aligned"])
@pytest.mark.parametrize("name", NAMES)
def test_masks_are_what_they_say(name: str, mode: str) -> None:
    batch = a_batch(mode=mode)
    mask = masks_of(batch, queries=2)[name]
    expected = brute_force(name, batch, queries=2)
    assert torch.equal(mask.dense(), expected)
    assert torch.equal(mask.nonempty(), expected.any(-1))
    assert mask.shape == tuple(expected.shape)
    b, q, k = torch.meshgrid(*(torch.arange(n) for n in expected.shape), indexing="ij")
    assert torch.equal(mask.allowed(b, q, k), expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 5), max_size=5), min_size=1, max_size=3), st.integers(1, 6))
def test_causal_ranges_hold_for_any_packing(rows: list[list[int]], window: int) -> None:
    length = max(1, max((sum(row) for row in rows), default=1))
    documents = torch.zeros(len(rows), length, dtype=torch.int64)
    for b, row in enumerate(rows):
        filled = [n + 1 for n, size in enumerate(row) for _ in range(size)]
        documents[b, : len(filled)] = torch.tensor(filled, dtype=torch.int64)
    place = torch.arange(length)
    gap = place[:, None] - place[None, :]
    expected = (documents[:, :, None] == documents[:, None, :]) & (documents[:, :, None] > 0)
    expected = expected & (gap >= 0) & (gap < window)
    assert torch.equal(CausalMask(documents, window).dense(), expected)


def states(mask: Mask, *, heads: int = 4, groups: int = 2, width: int = 8, seed: int = 0) -> list[Tensor]:
    batch, queries, keys = mask.shape
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads, queries, width), (batch, groups, keys, width), (batch, groups, keys, width)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def outputs_and_gradients(attend: Any, mask: Mask) -> list[Tensor]:
    inputs = states(mask)
    out = attend(*inputs)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    (out * weights).sum().backward()
    return [out.detach(), *(value.grad for value in inputs if value.grad is not None)]


def equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_back_ends_agree(name: str) -> None:
    mask = masks_of(a_batch(), queries=2)[name]
    expected = outputs_and_gradients(DenseAttention(mask), mask)
    hidden = ~mask.nonempty()[:, None, :, None].expand_as(expected[0])
    assert (expected[0][hidden] == 0).all(), "a query that sees nothing gets 0"
    equal(outputs_and_gradients(BlockedAttention(mask), mask), expected)
    equal(outputs_and_gradients(FlexAttention(mask), mask), expected)
    if isinstance(mask, MemberMask):
        equal(outputs_and_gradients(SegmentAttention(mask), mask), expected)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_agree_over_long_rows(name: str) -> None:
    rng = np.random.default_rng(3)
    rows = [[make(document(rng, 90, -40), "static"), make(document(rng, 200), "static")]]
    rows.append([make(document(rng, -3, 150), "static")])
    mask = masks_of(pack_examples(rows, VOCABULARY))[name]
    assert mask.shape[0] * mask.shape[1] > BLOCK
    equal(outputs_and_gradients(BlockedAttention(mask), mask), outputs_and_gradients(DenseAttention(mask), mask))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_see_every_pair_once(name: str) -> None:
    rng = np.random.default_rng(4)
    rows = [[make(document(rng, 150, -30, 7), "static"), *(make(document(rng, 3), "static") for _ in range(30))]]
    rows.append([make(document(rng, -40), "static")])
    mask = masks_of(pack_examples(rows, VOCABULARY))[name]
    dense = torch.block_diag(*mask.dense().float()).bool()
    found = torch.zeros_like(dense, dtype=torch.int64)
    blocks = BlockedAttention(mask).blocks
    for block in blocks:
        part = block.range
        assert block.bias.shape[2:] == (part.last - part.first, part.high - part.low)
        visible = (block.bias[0, 0] == 0) & dense[part.first : part.last].any(1, keepdim=True)
        found[part.first : part.last, part.low : part.high] += visible
    assert torch.equal(found, dense.long())
    for one, other in itertools.pairwise(blocks):
        assert one.range.last <= other.range.first
    # A long document's blocks are half empty where they end; short ones are joined up to what a call costs.
    computed = sum(block.range.area for block in blocks)
    assert computed <= int(dense.sum()) + len(blocks) * (BLOCK * (BLOCK + 1) // 2 + CALL)


def test_short_documents_share_a_block_and_long_ones_do_not() -> None:
    short, long = torch.arange(200)[None] // 5 + 1, torch.arange(200)[None] // 100 + 1
    assert len(BlockedAttention(CausalMask(short)).blocks) < 10
    ranges = [block.range for block in BlockedAttention(CausalMask(long)).blocks]
    assert [(part.first, part.last, part.low, part.high) for part in ranges] == [
        (0, BLOCK, 0, BLOCK),
        (BLOCK, 100, 0, 100),
        (100, 100 + BLOCK, 100, 100 + BLOCK),
        (100 + BLOCK, 200, 100, 200),
    ]
    assert BlockedAttention(CausalMask(torch.zeros(2, 7, dtype=torch.int64))).blocks == []


@pytest.mark.parametrize("name", NAMES)
def test_xformers_biases_materialise_to_the_masks(name: str) -> None:
    pytest.importorskip("xformers")
    mask = masks_of(a_batch(), queries=2)[name]
    bias = make_bias(mask, torch.float32)
    expected = mask.dense()
    seen = mask.nonempty()
    if isinstance(bias, Tensor):
        assert bias.shape == (expected.shape[0], 1, *expected.shape[1:])
        assert bias.stride(2) % 8 == 0
        assert torch.equal((bias[:, 0] == 0)[seen], expected[seen])
        return
    batch, queries, keys = mask.shape
    joined = bias.materialize((batch * queries, batch * keys)) == 0
    blocks = torch.zeros(batch, queries, batch, keys, dtype=torch.bool)
    for b in range(batch):
        blocks[b, :, b] = expected[b]
    assert torch.equal(joined.view_as(blocks)[seen], blocks[seen])


def test_the_choice_is_automatic_and_wrong_ones_are_explained() -> None:
    masks = masks_of(a_batch())
    assert isinstance(plan(masks["token-to-patch"]), SegmentAttention)
    assert isinstance(plan(masks["window"]), BlockedAttention)
    assert isinstance(plan(masks["window"], "flex"), FlexAttention)
    with pytest.raises(LstError, match="only does the encoder"):
        plan(masks["window"], "segments")
    with pytest.raises(LstError, match="needs a CUDA device"):
        plan(masks["window"], "xformers")


@pytest.mark.parametrize("how", ["max", "mean", "last"])
def test_pooling(how: Any) -> None:
    batch = a_batch(mode="aligned")
    patches = batch.patch_documents.shape[1]
    hidden = torch.randn(*batch.tokens.shape, 5, generator=torch.Generator().manual_seed(0))
    pooled = pool(hidden, Segments.of(MemberMask(batch.patch_ids, batch.documents, patches)), how)
    for b in range(len(hidden)):
        for p in range(patches):
            inside = hidden[b][(batch.patch_ids[b] == p) & (batch.documents[b] > 0)]
            expected = torch.zeros(5)
            if len(inside):
                expected = {"max": inside.amax(0), "mean": inside.mean(0), "last": inside[-1]}[how]
            torch.testing.assert_close(pooled[b, p], expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["sdpa", "flex", "xformers"])
@pytest.mark.parametrize("name", NAMES)
def test_back_ends_agree_on_a_gpu(name: str, backend: Any) -> None:
    batch = a_batch().to("cuda")
    mask = masks_of(batch)[name]
    inputs = [value.detach().to("cuda", torch.bfloat16) for value in states(mask, width=16)]
    expected = DenseAttention(mask)(*(value.float() for value in inputs))
    torch.testing.assert_close(plan(mask, backend)(*inputs).float(), expected, atol=2e-2, rtol=2e-2)
