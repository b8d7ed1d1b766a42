"""Packed batches: documents back to back in rows, with everything the model's masks are built from.

A row holds whole documents one after another, padded at its end. Documents never attend to each other; all masks
follow from `documents`, `patch_ids` and `visible`. Building a batch is numpy on flat arrays: no Python loop runs over
tokens or patches.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lst.data.patching import Example
from lst.data.vocabulary import Vocabulary
from lst.data.word_targets import NO_WORD
from lst.errors import LstError

IGNORED = -100
"""The target of a token that predicts nothing: padding, the last token of a document, a masked target."""


@dataclass(frozen=True)
class PackedBatch:
    """B rows of T tokens and P patches, all padded; int64 tensors unless said otherwise.

    A token's patch index counts the patches of its *row*: a patch can be looked up without knowing its document.
    """

    tokens: Tensor
    """(B, T) ids of `Vocabulary`; `<pad>` at the end of rows."""
    targets: Tensor
    """(B, T) the next token of the same document, `IGNORED` where there is none or the loss mask leaves it out."""
    crossed: Tensor
    """(B, T) bool: the target is a unit and its document held text before, or a text piece and it held units: what the
    loss across modalities is the loss of."""
    documents: Tensor
    """(B, T) 1, 2, ... along each row; 0 is padding."""
    positions: Tensor
    """(B, T) index of the token in its document."""
    patch_ids: Tensor
    """(B, T) index in the row of the token's patch; 0 on padding (tell it by `documents == 0`)."""
    visible: Tensor
    """(B, T) token i may attend to patches j < visible[i] of the row that belong to its own document."""
    patch_documents: Tensor
    """(B, P) the document of each patch; 0 is padding."""
    patch_positions: Tensor
    """(B, P) index of the patch in its document."""
    patch_first: Tensor
    """(B, P) index in the row of the patch's first token; 0 on padding."""
    patch_is_text: Tensor
    """(B, P) bool: a text or control token, which is a patch of its own."""
    ids: list[list[str]]
    """The examples of each row, for messages."""
    num_tokens: int
    """Tokens of all documents, padding left out."""
    num_targets: int
    """Tokens that are predicted: what the summed loss is divided by."""
    global_units: int
    """Patches of all documents (text tokens included): the steps of the global transformer."""
    max_units: int
    """The most speech units in one row: the length of the local modules when text passes them by."""
    words: Tensor | None = None
    """(B, P, 2) the words that each patch has to name (`lst.data.word_targets`); None if no patch has any."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PackedBatch":
        """The same batch with its tensors on `device`."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    @property
    def efficiency(self) -> float:
        """Share of the global transformer's positions that hold a patch, 0..1."""
        return self.global_units / max(1, self.patch_documents.numel())


def pack_examples(rows: list[list[Example]], vocabulary: Vocabulary) -> PackedBatch:
    """Packs `rows[b]` (documents of row b, in order) into one batch of `len(rows)` rows.

    T and P are the longest row's tokens and patches. Raises `LstError` when an example contradicts itself: patch
    lengths that do not sum to its tokens, a patch that mixes speech with text, or an id outside the vocabulary.
    """
    examples = [example for row in rows for example in row]
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    order_in_row = _ramp(np.array([len(row) for row in rows], dtype=np.int64))
    lengths = np.array([len(example.tokens) for example in examples], dtype=np.int64)
    counts = np.array([len(example.patch_lengths) for example in examples], dtype=np.int64)

    tokens = _join([example.tokens for example in examples], np.int64)
    wanted = _join([example.loss_mask for example in examples], np.bool_)
    patch_lengths = _join([example.patch_lengths for example in examples], np.int64)
    closed = _join([example.closed for example in examples], np.bool_)
    is_text = ~np.asarray(vocabulary.is_unit(tokens), dtype=np.bool_)
    _check(examples, tokens, lengths, counts, patch_lengths, is_text, vocabulary)

    token_row = np.repeat(row_of, lengths)
    token_column = _columns(row_of, lengths, len(rows))
    patch_row = np.repeat(row_of, counts)
    patch_column = _columns(row_of, counts, len(rows))

    ends = np.cumsum(patch_lengths)
    first = ends - patch_lengths
    patch_ids = np.repeat(patch_column, patch_lengths)
    own = np.zeros(len(tokens), dtype=np.int64)
    own[ends - 1] = closed  # only the last token of a closed patch sees the patch it lies in

    document_ends = np.cumsum(lengths)
    targets = np.full(len(tokens), IGNORED, dtype=np.int64)
    targets[:-1] = np.where(wanted[1:], tokens[1:], IGNORED)
    targets[document_ends[lengths > 0] - 1] = IGNORED

    crossed = (targets >= vocabulary.unit_offset) & _seen(tokens < vocabulary.text_size, lengths)
    crossed |= (targets >= 0) & (targets < vocabulary.text_size) & _seen(~is_text, lengths)

    width = int(np.bincount(row_of, weights=lengths, minlength=1).max(initial=0))
    depth = int(np.bincount(row_of, weights=counts, minlength=1).max(initial=0))
    units = np.bincount(token_row, weights=~is_text, minlength=1).max(initial=0)

    def per_token(values: NDArray[np.int64], fill: int = 0) -> Tensor:
        return _padded(values, token_row, token_column, (len(rows), width), fill)

    def per_patch(values: NDArray[np.int64]) -> Tensor:
        return _padded(values, patch_row, patch_column, (len(rows), depth), 0)

    return PackedBatch(
        tokens=per_token(tokens, vocabulary.pad),
        targets=per_token(targets, IGNORED),
        crossed=per_token(crossed.astype(np.int64)).bool(),
        documents=per_token(np.repeat(order_in_row + 1, lengths)),
        positions=per_token(_ramp(lengths)),
        patch_ids=per_token(patch_ids),
        visible=per_token(patch_ids + own),
        patch_documents=per_patch(np.repeat(order_in_row + 1, counts)),
        patch_positions=per_patch(_ramp(counts)),
        patch_first=per_patch(token_column[first]),
        patch_is_text=per_patch(is_text[first].astype(np.int64)).bool(),
        ids=[[example.id for example in row] for row in rows],
        num_tokens=len(tokens),
        num_targets=int((targets != IGNORED).sum()),
        global_units=len(patch_lengths),
        max_units=int(units),
        words=_words(examples, counts, patch_row, patch_column, (len(rows), depth)),
    )


def _words(
    examples: list[Example],
    counts: NDArray[np.int64],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    shape: tuple[int, int],
) -> Tensor | None:
    """(B, P, 2) word targets of the patches that stand at (`row`, `column`)."""
    if all(example.words is None for example in examples):
        return None
    named = np.full((len(row), 2), NO_WORD, dtype=np.int64)
    stops = np.cumsum(counts)
    for example, start, stop in zip(examples, stops - counts, stops, strict=True):
        if example.words is not None:
            named[start:stop] = example.words
    out = np.full((*shape, 2), NO_WORD, dtype=np.int64)
    out[row, column] = named
    return torch.from_numpy(out)


def _join(arrays: list[NDArray[np.int32]] | list[NDArray[np.bool_]], dtype: type[np.generic]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, dtype=dtype), *arrays]).astype(dtype)


def _ramp(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0..n-1 for each n of `lengths`, joined."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


def _seen(marked: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For every element of the runs `lengths`: whether it or one before it in its run is marked."""
    counted = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(marked)])
    starts = np.cumsum(lengths) - lengths
    return np.asarray(counted[1:] > np.repeat(counted[starts], lengths), dtype=np.bool_)


def _columns(row_of: NDArray[np.int64], sizes: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """The place in its row of every element, when examples of `sizes` elements stand in rows `row_of` (sorted)."""
    return _ramp(np.bincount(row_of, weights=sizes, minlength=rows).astype(np.int64))


def _padded(
    values: NDArray[np.int64],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    shape: tuple[int, int],
    fill: int,
) -> Tensor:
    out = np.full(shape, fill, dtype=np.int64)
    out[row, column] = values
    return torch.from_numpy(out)


def _check(
    examples: list[Example],
    tokens: NDArray[np.int64],
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    patch_lengths: NDArray[np.int64],
    is_text: NDArray[np.bool_],
    vocabulary: Vocabulary,
) -> None:
    """Refuses examples that would silently give wrong masks; each message names the row."""

    def refuse(index: int, what: str) -> None:
        raise LstError(f"Row '{examples[index].id}' {what}.", hint="This is a fault of the data stage that made it.")

    document = np.repeat(np.arange(len(examples)), lengths)
    patch_document = np.repeat(np.arange(len(examples)), counts)
    outside = np.flatnonzero((tokens < 0) | (tokens >= vocabulary.size))
    if outside.size:
        at = int(outside[0])
        refuse(int(document[at]), f"holds id {int(tokens[at])}, outside the vocabulary of {vocabulary.size} ids")
    empty = np.flatnonzero(patch_lengths < 1)
    if empty.size:
        refuse(int(patch_document[empty[0]]), "has a patch without tokens")
    sums = np.bincount(patch_document, weights=patch_lengths, minlength=len(examples)).astype(np.int64)
    wrong = np.flatnonzero(sums != lengths)
    if wrong.size:
        at = int(wrong[0])
        refuse(at, f"has {int(lengths[at])} tokens but its patches sum to {int(sums[at])}")
    for name in ("loss_mask", "closed", "words"):
        size = lengths if name == "loss_mask" else counts
        for index, example in enumerate(examples):
            values = getattr(example, name)
            if values is not None and len(values) != size[index]:
                refuse(index, f"has {len(values)} entries of {name}, expected {int(size[index])}")
    patch = np.repeat(np.arange(len(patch_lengths)), patch_lengths)
    long_text = np.flatnonzero(is_text & (patch_lengths[patch] > 1)) if len(patch) else np.empty(0, dtype=np.int64)
    if long_text.size:
        refuse(int(document[long_text[0]]), "has a text token inside a longer patch; only speech units share a patch")
