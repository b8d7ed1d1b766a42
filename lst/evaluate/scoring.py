"""Log probabilities of continuations, in batches, and what they say about an item.

Endings are scored conditionally on the prompt, and once more without it: `pmi` = log p(ending | prompt) - log p(ending)
takes out how likely the ending is by itself. Only the ending's own tokens count: neither markers nor `<end>`.

Batches hold one document per row, sorted by length, and scores are summed in float64; they are the same whatever the
batch size, to rounding (1e-4 is tested).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lst.evaluate.statistics import ranking_credit
from lst.generate.layout import Modality, prompt_and_continuation, static_example
from lst.generate.session import Session
from lst.manifest import Progress

Mode = Literal["s-s", "t-t", "s-t", "t-s"]
MODES: tuple[Mode, ...] = ("s-s", "t-t", "s-t", "t-s")
"""Prompt modality, then ending modality: s speech, t text."""

BATCH_TOKENS = 4096
"""Tokens of a batch, padding included."""


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

    `dropped`: ids cut from the front of the prompt because the whole is longer than the model's context.
    """

    logp: float
    tokens: int
    patches: int
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
) -> list[Score]:
    """Score each continuation; equal ones are computed once. Batches have at most `batch_tokens` padded tokens."""
    import torch

    from lst.data.batch import pack_examples

    vocabulary = session.vocabulary
    unique = list(dict.fromkeys(continuations))
    laid = [_lay_out(session, item) for item in unique]
    # Longest first: padding is small, and too large a batch fails at once instead of at the end.
    order = sorted(range(len(unique)), key=lambda index: -len(laid[index].tokens))
    scores: dict[Continuation, Score] = {}
    report = progress or (lambda *_: None)
    for start, stop in _batches([len(laid[index].tokens) for index in order], batch_tokens):
        chosen = [laid[index] for index in order[start:stop]]
        examples = [
            static_example(item.tokens, vocabulary, session.patch_size, first_target=item.first) for item in chosen
        ]
        batch = pack_examples([[example] for example in examples], vocabulary).to(session.device)
        with torch.inference_mode():
            losses = session.model.target_losses(batch).double().sum(dim=1).cpu().numpy()
        for index, item, example, loss in zip(order[start:stop], chosen, examples, losses, strict=True):
            ends = np.cumsum(example.patch_lengths)
            count = len(item.tokens) - item.first
            patches = int((ends > item.first).sum()) if count else 0
            scores[unique[index]] = Score(-float(loss), count, patches, item.dropped)
        report(stop, len(order), "sequences")
    return [scores[item] for item in continuations]


@dataclass(frozen=True)
class _Laid:
    tokens: NDArray[np.int32]
    first: int
    dropped: int


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
            return _Laid(tokens, first, len(item.prompt) - len(prompt))
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


@dataclass(frozen=True)
class ItemScores:
    """One item in one mode: arrays over its choices `(c,)`.

    `conditional`, `unconditional`: sums of log p in nats (unconditional is nan without a prompt to leave out);
    `tokens`: ids; `units`: 25 Hz units (0 for text); `characters` (0 for speech); `patches`.
    """

    id: str
    group: str
    mode: Mode
    label: int
    conditional: NDArray[np.float64]
    unconditional: NDArray[np.float64]
    tokens: NDArray[np.int64]
    units: NDArray[np.int64]
    characters: NDArray[np.int64]
    patches: NDArray[np.int64]
    dropped: int

    def variants(self) -> dict[str, NDArray[np.float64]]:
        """The choices' scores `(c,)` under every way of counting; the highest one is the model's answer."""
        scores = {"sum": self.conditional, "mean_token": self.conditional / self.tokens}
        if self.units.any():
            scores["mean_unit"] = self.conditional / self.units
        if self.characters.any():
            scores["mean_char"] = self.conditional / self.characters
        scores["mean_patch"] = self.conditional / self.patches
        if np.isfinite(self.unconditional).all():
            scores["pmi"] = self.conditional - self.unconditional
            scores["pmi_mean"] = scores["pmi"] / self.tokens
        return scores


def headline(mode: Mode) -> str:
    """The variant that counts: mean per unit for speech endings, per character (`acc_norm`) for text endings."""
    return "mean_unit" if mode.endswith("s") else "mean_char"


def credits(items: Sequence[ItemScores]) -> dict[str, NDArray[np.float64]]:
    """For each variant that all `items` have, what each item earns, `(n,)` in 0..1 (see `ranking_credit`)."""
    tables = [item.variants() for item in items]
    labels = [item.label for item in items]
    names = [name for name in tables[0] if all(name in table for table in tables)]
    earned = {}
    for name in names:
        width = max(len(table[name]) for table in tables)
        padded = np.full((len(tables), width), -np.inf)
        for row, table in enumerate(tables):
            padded[row, : len(table[name])] = table[name]
        earned[name] = ranking_credit(padded, labels)
    return earned


def score_items(
    session: Session,
    rows: Sequence[dict[str, Any]],
    modes: Sequence[Mode],
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> list[ItemScores]:
    """Score rows of `lst.bench/1` in `modes`, all in one pass over the model; order: by mode, then as the rows come.

    An item without the modalities of a mode is left out of that mode.
    """
    asked: list[tuple[dict[str, Any], Mode, list[Continuation], list[Continuation]]] = []
    for mode in modes:
        for row in rows:
            pair = _continuations(session, row, mode)
            if pair is not None:
                asked.append((row, mode, *pair))
    flat = [item for _, _, conditional, alone in asked for item in (*conditional, *alone)]
    scores = iter(score_continuations(session, flat, batch_tokens=batch_tokens, progress=progress))
    results = []
    for row, mode, conditional, alone in asked:
        given = [next(scores) for _ in conditional]
        without = [next(scores) for _ in alone]
        choices = row["choices_units"] if mode.endswith("s") else row["choices_text"]
        lengths = np.array([len(choice) for choice in choices])
        nothing = np.zeros_like(lengths)
        results.append(
            ItemScores(
                id=row["id"],
                group=row["group"] or row["id"],
                mode=mode,
                label=int(row["label"]),
                conditional=np.array([score.logp for score in given]),
                unconditional=np.array([score.logp for score in without] or [np.nan] * len(given)),
                tokens=np.array([score.tokens for score in given]),
                units=lengths if mode.endswith("s") else nothing,
                characters=nothing if mode.endswith("s") else lengths,
                patches=np.array([score.patches for score in given]),
                dropped=max(score.dropped for score in given),
            )
        )
    return results


def _continuations(
    session: Session, row: dict[str, Any], mode: Mode
) -> tuple[list[Continuation], list[Continuation]] | None:
    """The row's endings with their prompt, and without; None if it lacks a modality that `mode` needs."""
    source, target = modalities(mode)
    prompted = bool(row["context_text"]) or bool(len(row["context_units"]))
    has_prompt = bool(row["context_text"]) if source == "text" else bool(len(row["context_units"]))
    has_choices = bool(row["choices_text"]) if target == "text" else bool(row["choices_units"])
    # Without any prompt (whole stories) only the two modes that stay in one modality make sense.
    if not has_choices or (prompted and not has_prompt) or (not prompted and source != target):
        return None
    if not prompted:
        prompt: tuple[int, ...] = ()
    elif source == "text":
        prompt = tuple(session.encode_text(row["context_text"]).tolist())
    else:
        prompt = tuple(session.encode_units(row["context_units"]).tolist())
    if target == "speech":
        endings = [tuple(session.encode_units(units).tolist()) for units in row["choices_units"]]
    elif source == "text" and prompted:
        endings = [tuple(session.encode_ending(row["context_text"], text).tolist()) for text in row["choices_text"]]
    else:
        endings = [tuple(session.encode_text(text).tolist()) for text in row["choices_text"]]
    if not all(endings):
        return None  # a text of which the tokenizer leaves nothing would score 0, the best there is
    conditional = [Continuation(prompt, source, ending, target) for ending in endings]
    alone = [Continuation((), target, ending, target) for ending in endings] if prompt else []
    return conditional, alone
