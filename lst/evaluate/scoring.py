"""Log probabilities of continuations, in batches.

A continuation is scored given its prompt, and the prompt itself on the way: one pass gives both. Only their own tokens
count: neither markers nor `<end>`.

Batches hold one document per row, sorted by length, and scores are summed in float64; they are the same whatever the
batch size, to rounding (1e-4 is tested).
"""

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lst.evaluate.store import ScoreStore
from lst.generate.layout import Modality, prompt_and_continuation, static_example
from lst.generate.session import Session
from lst.manifest import Progress, sha256_json

Mode = Literal["s-s", "t-t", "s-t", "t-s"]
MODES: tuple[Mode, ...] = ("s-s", "t-t", "s-t", "t-s")
"""Prompt modality, then ending modality: s speech, t text."""

BATCH_TOKENS = 4096
"""Tokens of a batch, padding included."""

SCORES_VERSION = 1
"""Raise it when the same continuation would get another score: stored ones are then computed again."""


@dataclass(frozen=True)
class Continuation:
    """What is to be scored: ids of an ending and of the prompt before it (empty: unconditional)."""

    prompt: tuple[int, ...]
    prompt_modality: Modality
    ending: tuple[int, ...]
    modality: Modality


@dataclass(frozen=True)
class Score:
    """`logp`: sum over the ending's tokens, in nats; `tokens`: how many; `patches`: patches they lie in.

    `prompt_logp`: sum over the prompt's `prompt_tokens`; `all_patches`: patches with a token of prompt or ending.
    `dropped`: ids cut from the front of the prompt because the whole is longer than the model's context.
    """

    logp: float
    tokens: int
    patches: int
    prompt_logp: float = 0.0
    prompt_tokens: int = 0
    all_patches: int = 0
    dropped: int = 0


def modalities(mode: Mode) -> tuple[Modality, Modality]:
    """`s-t` -> (speech, text)."""
    names: dict[str, Modality] = {"s": "speech", "t": "text"}
    return names[mode[0]], names[mode[2]]


def score_continuations(
    session: Session,
    continuations: Sequence[Continuation],
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
    store: ScoreStore | None = None,
) -> list[Score]:
    """Score each continuation; equal ones are computed once. Batches have at most `batch_tokens` padded tokens.

    With a `store`, a batch that it holds is not computed again, and every new one is kept at once.
    """
    unique = list(dict.fromkeys(continuations))
    laid = [_lay_out(session, item) for item in unique]
    # Longest first: padding is small, and too large a batch fails at once instead of at the end. Among equal lengths
    # the ids decide: a batch does not depend on the order of the items.
    order = sorted(range(len(unique)), key=lambda index: (-len(laid[index].tokens), laid[index].tokens.tobytes()))
    scores: dict[Continuation, Score] = {}
    report = progress or (lambda *_: None)
    for start, stop in _batches([len(laid[index].tokens) for index in order], batch_tokens):
        places = order[start:stop]
        key = _key(session, [unique[place] for place in places]) if store is not None else ""
        found = store.get(key) if store is not None else None
        made = [Score(*row) for row in found] if found is not None else _score_batch(session, [laid[p] for p in places])
        if store is not None and found is None:
            store.put(key, [astuple(score) for score in made])
        scores.update({unique[place]: score for place, score in zip(places, made, strict=True)})
        report(stop, len(order), "sequences")
    return [scores[item] for item in continuations]


def greedy_continuations(
    session: Session, continuations: Sequence[Continuation], *, batch_tokens: int = BATCH_TOKENS
) -> list[bool]:
    """Whether each ending is what greedy decoding gives after its prompt: a forward pass with all logits."""
    import torch

    from lst.data.batch import pack_examples

    unique = list(dict.fromkeys(continuations))
    laid = [_lay_out(session, item) for item in unique]
    order = sorted(range(len(unique)), key=lambda index: -len(laid[index].tokens))
    found: dict[Continuation, bool] = {}
    for start, stop in _batches([len(laid[index].tokens) for index in order], batch_tokens):
        chosen = [laid[index] for index in order[start:stop]]
        examples = [static_example(item.tokens, session.vocabulary, session.patch_size) for item in chosen]
        packed = pack_examples([[example] for example in examples], session.vocabulary).to(session.device)
        with torch.inference_mode():
            likeliest = session.model(packed).argmax(dim=-1).cpu().numpy()
        for index, item, row in zip(order[start:stop], chosen, likeliest, strict=True):
            found[unique[index]] = bool((row[item.first - 1 : len(item.tokens) - 1] == item.tokens[item.first :]).all())
    return [found[item] for item in continuations]


def _key(session: Session, batch: Sequence[Continuation]) -> str:
    """Everything that a batch's scores depend on, but for the model: a store belongs to one."""
    settings = [SCORES_VERSION, session.patch_size, session.context, session.device.type]
    return sha256_json([settings, [asdict(item) for item in batch]])


@dataclass(frozen=True)
class _Laid:
    """A document: the prompt's ids are `tokens[1 : 1 + prompt]`, the ending's start at `first`."""

    tokens: NDArray[np.int32]
    prompt: int
    first: int
    dropped: int


def _score_batch(session: Session, batch: Sequence[_Laid]) -> list[Score]:
    import torch

    from lst.data.batch import pack_examples

    vocabulary = session.vocabulary
    examples = [static_example(item.tokens, vocabulary, session.patch_size) for item in batch]
    packed = pack_examples([[example] for example in examples], vocabulary).to(session.device)
    with torch.inference_mode():
        losses = session.model.target_losses(packed).double().cpu().numpy()
    scores = []
    for item, example, loss in zip(batch, examples, losses, strict=True):
        count = len(item.tokens) - item.first
        # A loss stands one before its token.
        ending = loss[item.first - 1 : len(item.tokens) - 1].sum()
        prompt = loss[: item.prompt].sum()
        ends = np.cumsum(example.patch_lengths)
        starts = ends - example.patch_lengths
        patches = int((ends > item.first).sum()) if count else 0
        inside = int(((ends > 1) & (starts < 1 + item.prompt)).sum())
        shared = int(((starts < 1 + item.prompt) & (ends > item.first)).sum()) if count else 0
        scores.append(
            Score(
                logp=-float(ending),
                tokens=count,
                patches=patches,
                prompt_logp=-float(prompt),
                prompt_tokens=item.prompt,
                all_patches=patches + inside - shared,
                dropped=item.dropped,
            )
        )
    return scores


def _lay_out(session: Session, item: Continuation) -> _Laid:
    """Ids with the prompt cut at its front, by whole patches, if the document exceeds the model's context."""
    prompt = item.prompt
    step = session.patch_size if item.prompt_modality == "speech" else 1
    while True:
        tokens, first = prompt_and_continuation(
            prompt, item.prompt_modality, item.ending, item.modality, session.vocabulary
        )
        excess = static_example(tokens, session.vocabulary, session.patch_size).global_units - session.context
        if excess <= 0 or not prompt:
            return _Laid(tokens, len(prompt), first, len(item.prompt) - len(prompt))
        prompt = prompt[excess * step :]


def _batches(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Ranges of items, longest first, whose padded size is at most `budget` (or a single item)."""
    ranges = []
    start = 0
    while start < len(lengths):
        stop = min(len(lengths), start + max(1, budget // max(1, lengths[start])))
        ranges.append((start, stop))
        start = stop
    return ranges
