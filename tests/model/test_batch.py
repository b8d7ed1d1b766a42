"""Packing examples into batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.data.batch import IGNORED, pack_examples
from lst.data.patching import Example
from lst.errors import LstError
from tests.model.support import VOCABULARY, document, make


def test_one_row_by_hand() -> None:
    offset, end = VOCABULARY.unit_offset, VOCABULARY.end
    speech = np.array([VOCABULARY.speech_marker, *range(offset, offset + 6), end], dtype=np.int32)
    words = np.array([VOCABULARY.text_marker, 3], dtype=np.int32)
    batch = pack_examples([[make(speech, "static", name="a"), make(words, "static", name="b")]], VOCABULARY)
    assert batch.tokens.tolist() == [[*speech.tolist(), *words.tolist()]]
    assert batch.targets.tolist() == [[*speech[1:].tolist(), IGNORED, 3, IGNORED]]
    assert batch.documents.tolist() == [[1] * 8 + [2] * 2]
    assert batch.positions.tolist() == [[*range(8), 0, 1]]
    assert batch.patch_ids.tolist() == [[0, 1, 1, 1, 1, 2, 2, 3, 4, 5]]
    # <s> sees itself; the fourth unit closes its patch; the short patch is seen only from <end> on.
    assert batch.visible.tolist() == [[1, 1, 1, 1, 2, 2, 2, 4, 5, 6]]
    assert batch.patch_documents.tolist() == [[1, 1, 1, 1, 2, 2]]
    assert batch.patch_positions.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert batch.patch_first.tolist() == [[0, 1, 5, 7, 8, 9]]
    assert batch.patch_is_text.tolist() == [[True, False, False, True, True, True]]
    assert batch.ids == [["a", "b"]]
    assert (batch.num_tokens, batch.num_targets, batch.global_units, batch.max_units) == (10, 8, 6, 6)
    assert batch.efficiency == 1.0


def test_targets_across_modalities() -> None:
    offset, speech, text = VOCABULARY.unit_offset, VOCABULARY.speech_marker, VOCABULARY.text_marker
    first = [speech, offset, offset + 1, text, 3, 4, speech, offset, VOCABULARY.end]
    second = [text, 3, 4, speech, offset + 2, offset + 3, text, 5]
    rows = [[make(np.array(ids, dtype=np.int32), "none") for ids in (first, second)]]
    batch = pack_examples(rows, VOCABULARY)
    crossed = batch.targets[batch.crossed].tolist()
    assert crossed == [3, 4, offset, offset + 2, offset + 3, 5]
    assert batch.crossed[0].nonzero().flatten().tolist() == [3, 4, 6, 12, 13, 15]


def test_padding_and_masked_targets() -> None:
    rng = np.random.default_rng(0)
    long, short = make(document(rng, 9), "static"), make(document(rng, -1), "static")
    short.loss_mask[:] = False
    batch = pack_examples([[short], [long, long], []], VOCABULARY)
    rest = slice(len(short.tokens), None)
    assert (batch.tokens[0, rest] == VOCABULARY.pad).all()
    for name in ("documents", "positions", "patch_ids", "visible"):
        assert (getattr(batch, name)[0, rest] == 0).all(), name
        assert (getattr(batch, name)[2] == 0).all(), name
    assert (batch.targets[0] == IGNORED).all()
    assert batch.tokens.shape == (3, 2 * len(long.tokens))
    assert batch.ids == [["row"], ["row", "row"], []]
    assert batch.num_targets == 2 * (len(long.tokens) - 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.lists(st.integers(-4, 9).filter(bool), min_size=1, max_size=3), max_size=3), max_size=3),
    st.sampled_from(["none", "static", "aligned"]),
)
def test_every_token_is_where_it_was(shapes: list[list[list[int]]], mode: str) -> None:
    rng = np.random.default_rng(1)
    rows = [[make(document(rng, *spans), mode, seed=2 * n) for n, spans in enumerate(row)] for row in shapes]
    batch = pack_examples(rows, VOCABULARY)
    assert len(batch.tokens) == len(rows)
    for b, row in enumerate(rows):
        place = patch = 0
        for n, item in enumerate(row):
            tokens = slice(place, place + len(item.tokens))
            patches = slice(patch, patch + len(item.patch_lengths))
            place, patch = tokens.stop, patches.stop
            assert batch.tokens[b, tokens].tolist() == item.tokens.tolist()
            assert (batch.documents[b, tokens] == n + 1).all()
            assert (batch.patch_documents[b, patches] == n + 1).all()
            counts = torch.bincount(batch.patch_ids[b, tokens] - patches.start, minlength=len(item.patch_lengths))
            assert counts.tolist() == item.patch_lengths.tolist()
            # A token sees the patches before its own, and its own only at the end of a closed one.
            own = batch.visible[b, tokens] - batch.patch_ids[b, tokens]
            ends = np.cumsum(item.patch_lengths) - 1
            expected = np.zeros(len(item.tokens), dtype=int)
            expected[ends] = item.closed
            assert own.tolist() == expected.tolist()
        assert (batch.documents[b, place:] == 0).all()
    assert batch.num_tokens == sum(len(item.tokens) for row in rows for item in row)


def broken(**changes: object) -> Example:
    item = make(document(np.random.default_rng(0), 5, -2), "static", name="corpus/a.wav#0")
    for name, value in changes.items():
        setattr(item, name, value)
    return item


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_lengths": np.ones(7, dtype=np.int32), "closed": np.ones(7, dtype=bool)}, "patches sum to 7"),
        ({"patch_lengths": np.array([1, 4, 1, 0, 1, 1, 2], dtype=np.int32)}, "without tokens"),
        ({"patch_lengths": np.array([1, 4, 1, 2, 1, 1], dtype=np.int32), "closed": np.ones(6, bool)}, "only speech"),
        ({"loss_mask": np.ones(3, dtype=bool)}, "3 entries of loss_mask"),
        ({"closed": np.ones(2, dtype=bool)}, "2 entries of closed"),
        ({"tokens": np.full(10, 999, dtype=np.int32)}, "holds id 999, outside the vocabulary of 50"),
    ],
    ids=["sum", "empty", "mixed", "mask", "closed", "id"],
)
def test_contradictory_examples_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(LstError, match=message) as caught:
        pack_examples([[broken()], [broken(**changes)]], VOCABULARY)
    assert "corpus/a.wav#0" in str(caught.value)


def test_to_moves_every_tensor() -> None:
    batch = pack_examples([[broken()]], VOCABULARY).to("meta")
    assert batch.device.type == "meta"
    assert all(value.device.type == "meta" for value in vars(batch).values() if isinstance(value, torch.Tensor))
    assert batch.ids == [["corpus/a.wav#0"]]
