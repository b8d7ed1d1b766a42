"""Which words a patch of speech has to name, where training asks for it (`PretrainConfig.words`; not in the paper).

Next-unit prediction pays little for knowing words: most of what a unit tells is how it is said. A patch's state can be
asked for them directly, as the alignment knows where words end.
"""

from typing import TYPE_CHECKING

import numpy as np

from lst.data.patching import IntArray

if TYPE_CHECKING:
    from lst.data.interleaving import Utterance

ENDED, NEXT = 0, 1
"""Columns of word targets: the word that ends in a patch, and the first one that ends after it."""
NO_WORD = -1
"""The target of a patch that has no word to name."""


def word_targets(row: "Utterance", first: int, last: int, lengths: IntArray) -> IntArray:
    """(p, 2) int32: what the patches of `row`'s spoken words first..last-1 name: the first text token of each word.

    `lengths` (p,): units per patch of the span, which begins at `row.unit_range(first, last)[0]`. ENDED is the last
    word that ends in a patch, `NO_WORD` for a patch in which none does. NEXT is asked of every patch: the first word
    that ends after it, be it under way already or not, within the span or after it; `NO_WORD` after the last one.
    """
    begin, _ = row.unit_range(first, last)
    stops = begin + np.cumsum(lengths)
    named = np.full((len(lengths), 2), NO_WORD, dtype=np.int32)
    tokens = np.full(row.num_words, NO_WORD, dtype=np.int32)
    written = row.token_ends > row.token_starts
    tokens[written] = row.tokens[row.token_starts[written]]
    patch = np.searchsorted(stops, row.ends[first:last])
    named[patch, ENDED] = tokens[first:last]
    following = np.searchsorted(row.ends, stops, side="right")
    there = following < len(tokens)
    named[there, NEXT] = tokens[following[there]]
    return named
