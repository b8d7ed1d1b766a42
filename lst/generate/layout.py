"""From ids to a document the model reads, at inference: patches are static, so no aligner is needed.

Sequences are laid out as in pre-training (`lst.data.interleaving`): `<t>` opens text, `<s>` opens speech, and a span
goes on until the next control token. A change of modality is a marker; within one modality the continuation joins the
span of the prompt.

    speech -> speech    <s> prompt units, continuation units
    text   -> text      <t> prompt tokens, continuation tokens
    speech -> text      <s> prompt units <t> continuation tokens
    text   -> speech    <t> prompt tokens <s> continuation units
    recognition         <s> units <asr> text <end>
    synthesis           <t> text <tts> units <end>

Static patches run from the first unit of a span. In speech -> speech a patch may therefore hold the last units of the
prompt and the first of the continuation, just as it would in one recording.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lst.data.patching import Example, PatchingConfig
from lst.data.vocabulary import Vocabulary

Modality = Literal["speech", "text"]


def inference_patch_size(patching: PatchingConfig) -> int:
    """Units per patch at inference: the static size, whatever the model was trained with; 1 for a base model."""
    return 1 if patching.mode in ("none", "bpe") else patching.size


def static_example(
    tokens: NDArray[Any], vocabulary: Vocabulary, patch_size: int, *, first_target: int = 1, id: str = ""
) -> Example:
    """A document from its ids `(n,)` alone: runs of units are speech spans, cut into patches of `patch_size`.

    Tokens from index `first_target` on are prediction targets.
    """
    tokens = np.asarray(tokens, dtype=np.int32)
    places = np.arange(len(tokens))
    unit = np.asarray(vocabulary.is_unit(tokens), dtype=np.bool_)
    opens_span = unit & ~np.concatenate(([False], unit[:-1]))
    span_start = np.maximum.accumulate(np.where(opens_span, places, 0))
    starts = np.flatnonzero(~unit | ((places - span_start) % patch_size == 0))
    lengths = np.diff(np.append(starts, len(tokens))).astype(np.int32)
    # The last, shorter patch of a span is open: to see it would be to know that the span ends (lst.data.patching).
    closed = ~unit[starts] | (lengths == patch_size)
    return Example(tokens, lengths, closed, places >= max(1, first_target), id)


def marker(modality: Modality, vocabulary: Vocabulary) -> int:
    """The control token that opens a span of `modality`."""
    return vocabulary.speech_marker if modality == "speech" else vocabulary.text_marker


def prompt_and_continuation(
    prompt: Sequence[int] | NDArray[Any],
    prompt_modality: Modality,
    continuation: Sequence[int] | NDArray[Any],
    modality: Modality,
    vocabulary: Vocabulary,
) -> tuple[NDArray[np.int32], int]:
    """Ids `(n,)` of a prompt with its continuation, and the index where the continuation begins.

    An empty prompt gives the unconditional layout: the continuation after its own marker.
    """
    head = [marker(modality, vocabulary)]
    if len(prompt):
        head = [marker(prompt_modality, vocabulary), *(int(token) for token in prompt)]
        if prompt_modality != modality:
            head.append(marker(modality, vocabulary))
    tokens = np.concatenate((np.asarray(head, dtype=np.int32), np.asarray(continuation, dtype=np.int32)))
    return tokens, len(head)
