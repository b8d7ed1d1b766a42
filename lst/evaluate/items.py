"""What the log probabilities of its choices say about an item, under every way of counting.

Endings are scored given the prompt, and once more without it: `pmi` = log p(ending | prompt) - log p(ending) takes out
how likely the ending is by itself. `whole_*` counts the prompt's own tokens too, as if both were one utterance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lst.evaluate.scoring import BATCH_TOKENS, Continuation, Mode, Score, modalities, score_continuations
from lst.evaluate.statistics import ranking_credit
from lst.evaluate.store import ScoreStore
from lst.generate.session import Session
from lst.manifest import Progress

COUNTS = ("tokens", "units", "characters", "patches")
"""What a log probability is divided by."""


@dataclass(frozen=True)
class ItemScores:
    """One item in one mode: arrays over its choices `(c,)`.

    `conditional`, `unconditional`: sums of log p in nats (unconditional is nan without a prompt to leave out); of the
    ending `tokens` (ids), `units` (25 Hz; 0 for text), `characters` (0 for speech), `patches`; the same of prompt and
    ending together in `whole_*`, 0 where they have different modalities, and their log p in `whole`. `mode`: one of
    `scoring.MODES`, or `heard`.
    """

    id: str
    group: str
    category: str
    mode: str
    label: int
    conditional: NDArray[np.float64]
    unconditional: NDArray[np.float64]
    whole: NDArray[np.float64]
    tokens: NDArray[np.int64]
    units: NDArray[np.int64]
    characters: NDArray[np.int64]
    patches: NDArray[np.int64]
    whole_tokens: NDArray[np.int64]
    whole_units: NDArray[np.int64]
    whole_characters: NDArray[np.int64]
    whole_patches: NDArray[np.int64]
    dropped: int

    def variants(self) -> dict[str, NDArray[np.float64]]:
        """The choices' scores `(c,)` under every way of counting; the highest one is the model's answer."""
        scores = {"sum": self.conditional, "mean_token": self.conditional / self.tokens}
        if self.units.any():
            scores["mean_unit"] = self.conditional / self.units
        if self.characters.any():
            scores["mean_char"] = self.conditional / self.characters
        scores["mean_patch"] = self.conditional / self.patches
        if np.isfinite(self.unconditional).all():  # there is a prompt
            scores["pmi"] = self.conditional - self.unconditional
            scores["pmi_mean"] = scores["pmi"] / self.tokens
            scores["whole_token"] = self.whole / self.whole_tokens
            if self.whole_units.any():
                scores["whole_unit"] = self.whole / self.whole_units
            if self.whole_characters.any():
                scores["whole_char"] = self.whole / self.whole_characters
            scores["whole_patch"] = self.whole / self.whole_patches
        return scores


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
    store: ScoreStore | None = None,
) -> list[ItemScores]:
    """Score rows of `lst.bench/1` in `modes`; order: by mode, then as the rows come.

    An item without the modalities of a mode is left out of that mode. Batches are made per mode, and for the endings
    alone per modality: a mode's scores are the same to the bit whatever other modes are asked for.
    """
    asked: dict[Mode, list[tuple[dict[str, Any], list[Continuation], list[Continuation]]]] = {}
    for mode in modes:
        pairs = ((row, _continuations(session, row, mode)) for row in rows)
        asked[mode] = [(row, *pair) for row, pair in pairs if pair is not None]
    given = {mode: [item for _, conditional, _ in entries for item in conditional] for mode, entries in asked.items()}
    alone: dict[str, list[Continuation]] = {}
    for mode, entries in asked.items():
        # Text endings are cut differently after a text prompt: two sets, each complete whatever else is asked.
        alone.setdefault(mode, []).extend(item for _, _, endings in entries for item in endings)
    sets = [*given.items(), *alone.items()]
    total = sum(len(set(items)) for _, items in sets)
    done = 0
    scores: list[list[Score]] = []
    for _, items in sets:
        offset = done

        def report(count: int, _total: int, unit: str, offset: int = offset) -> None:
            if progress is not None:
                progress(offset + count, total, unit)

        scores.append(score_continuations(session, items, batch_tokens=batch_tokens, progress=report, store=store))
        done += len(set(items))
    results = []
    for (mode, entries), found, without in zip(asked.items(), scores[: len(asked)], scores[len(asked) :], strict=True):
        next_given, next_without = iter(found), iter(without)
        for row, conditional, unconditional in entries:
            results.append(
                _item(
                    row,
                    mode,
                    [next(next_given) for _ in conditional],
                    [next(next_without) for _ in unconditional],
                )
            )
    return results


def _item(row: dict[str, Any], mode: Mode, given: list[Score], without: list[Score]) -> ItemScores:
    source, target = modalities(mode)
    choices = row["choices_units"] if target == "speech" else row["choices_text"]
    lengths = np.array([len(choice) for choice in choices])
    nothing = np.zeros_like(lengths)
    dropped = max(score.dropped for score in given)
    whole_lengths = nothing
    if source == target:
        prompt = row["context_units"] if source == "speech" else row["context_text"]
        whole_lengths = lengths + len(prompt)

    def column(get: Callable[[Score], float]) -> NDArray[Any]:
        return np.array([get(score) for score in given])

    prompt_tokens = column(lambda score: score.prompt_tokens)
    return ItemScores(
        id=row["id"],
        group=row["group"] or row["id"],
        category=row.get("category") or "",
        mode=mode,
        label=int(row["label"]),
        conditional=column(lambda score: score.logp),
        unconditional=np.array([score.logp for score in without] or [np.nan] * len(given)),
        whole=column(lambda score: score.logp + score.prompt_logp),
        tokens=column(lambda score: score.tokens),
        units=lengths if target == "speech" else nothing,
        characters=nothing if target == "speech" else lengths,
        patches=column(lambda score: score.patches),
        whole_tokens=column(lambda score: score.tokens) + prompt_tokens,
        whole_units=whole_lengths if target == "speech" else nothing,
        whole_characters=nothing if target == "speech" else whole_lengths,
        whole_patches=column(lambda score: score.all_patches),
        dropped=dropped,
    )


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
