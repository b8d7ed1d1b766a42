"""The generation loop, and the engine behind it that says what comes next.

An engine is anything with `Engine`'s three methods. `RecomputeEngine` runs the whole document for every token: slow,
and right by construction, since it is the same forward pass as in training. An engine with caches takes its place
through `make_engine` and must give the same logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lst.errors import LstError
from lst.generate.layout import Modality, static_example
from lst.generate.sampling import GenerateConfig, Grammar, choose, draw
from lst.generate.session import Session
from lst.manifest import Progress

MAX_LOGITS = 1 << 25
"""Logits that `RecomputeEngine` computes at once (128 MiB)."""

Tokens = NDArray[np.int32]
Logits = NDArray[np.float32]


class Engine(Protocol):
    """Next-token logits of a batch of documents that grow by one token at a time."""

    def start(self, prompts: Sequence[Tokens]) -> Logits:
        """Take prompts of any lengths, each `(n,)`, n >= 1, and return the logits `(B, V)` after their last tokens."""

    def step(self, tokens: Tokens) -> Logits:
        """Append `tokens` `(B,)`, one to each document, and return the next logits `(B, V)`."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order; the others are finished."""


class RecomputeEngine:
    """Runs the model on the whole documents for every token."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._documents: list[Tokens] = []

    def start(self, prompts: Sequence[Tokens]) -> Logits:
        self._documents = [np.asarray(prompt, dtype=np.int32) for prompt in prompts]
        return self._logits()

    def step(self, tokens: Tokens) -> Logits:
        self._documents = [np.append(old, token) for old, token in zip(self._documents, tokens, strict=True)]
        return self._logits()

    def keep(self, rows: Sequence[int]) -> None:
        self._documents = [self._documents[row] for row in rows]

    def _logits(self) -> Logits:
        import torch

        from lst.data.batch import pack_examples

        session, vocabulary = self._session, self._session.vocabulary
        longest = max(len(document) for document in self._documents)
        rows = max(1, MAX_LOGITS // (longest * vocabulary.size))
        parts = []
        for start in range(0, len(self._documents), rows):
            chunk = self._documents[start : start + rows]
            examples = [[static_example(document, vocabulary, session.patch_size)] for document in chunk]
            batch = pack_examples(examples, vocabulary).to(session.device)
            with torch.inference_mode():
                logits = session.model(batch)
            ends = torch.tensor([len(document) - 1 for document in chunk], device=session.device)
            parts.append(logits[torch.arange(len(chunk), device=session.device), ends].float().cpu().numpy())
        joined: Logits = np.concatenate(parts)
        return joined


def make_engine(session: Session) -> Engine:
    """The engine to generate with."""
    return RecomputeEngine(session)


@dataclass(frozen=True)
class Span:
    """A stretch of one modality: ids `(n,)` without its marker."""

    modality: Modality
    ids: Tokens


@dataclass(frozen=True)
class Generation:
    """What was generated after a prompt.

    `tokens` (n,): new ids, markers included, `<end>` not; `spans`: the same by modality, the first one continuing the
    prompt's last span; `stopped`: by the model's `<end>`, at `max_tokens`, or because the context is full;
    `global_steps`: patches and text tokens the global transformer needed for `tokens`.
    """

    tokens: Tokens
    spans: list[Span]
    stopped: Literal["end", "length", "context"]
    global_steps: int

    def ids(self, modality: Modality) -> Tokens:
        """The ids of one modality, spans joined."""
        parts = [span.ids for span in self.spans if span.modality == modality]
        return np.concatenate([np.empty(0, dtype=np.int32), *parts])


@dataclass
class _Row:
    index: int
    grammar: Grammar
    tokens: list[int]
    prompt_units: int


def generate(
    session: Session,
    prompts: Sequence[Tokens],
    modality: Modality,
    config: GenerateConfig,
    *,
    batch_size: int = 8,
    engine: Callable[[Session], Engine] = make_engine,
    progress: Progress | None = None,
    on_token: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Continue each prompt `(n,)` of ids; `modality` is that of the span the prompts leave open.

    Row k's result depends on prompt k, the settings and k alone. `on_token(row, id)` is called as tokens come. Raises
    LstError for a prompt that fills the context.
    """
    results: dict[int, Generation] = {}
    report = progress or (lambda *_: None)
    for start in range(0, len(prompts), batch_size):
        chunk = list(enumerate(prompts))[start : start + batch_size]
        for row, generation in _generate_batch(session, chunk, modality, config, engine(session), on_token):
            results[row] = generation
            report(len(results), len(prompts), "sequences")
    return [results[row] for row in range(len(prompts))]


def _generate_batch(
    session: Session,
    prompts: Sequence[tuple[int, Tokens]],
    modality: Modality,
    config: GenerateConfig,
    engine: Engine,
    on_token: Callable[[int, int], None] | None,
) -> list[tuple[int, Generation]]:
    forbidden = tuple(token for token in (session.text.bos_id, session.text.eos_id) if token >= 0)
    rows = []
    for index, prompt in prompts:
        used = global_units(session, prompt)
        if used >= session.context:
            raise LstError(
                f"A prompt of {used} patches and text tokens leaves no room in the model's context of "
                f"{session.context}.",
                hint="Give a shorter prompt.",
            )
        grammar = Grammar(session.vocabulary, config, modality, forbidden)
        rows.append(_Row(index, grammar, [], used))
    starts = {index: np.asarray(prompt, dtype=np.int32) for index, prompt in prompts}
    done: list[tuple[int, Generation]] = []
    logits = engine.start([prompt for _, prompt in prompts])
    while rows:
        going, tokens = [], []
        for place, row in enumerate(rows):
            token = choose(logits[place], row.grammar.allowed(), config, draw(config, row.index, row.grammar.count))
            goes_on = row.grammar.accept(token)
            if token != session.vocabulary.end:
                row.tokens.append(token)
                if on_token is not None:
                    on_token(row.index, token)
            document = np.append(starts[row.index], np.array(row.tokens, dtype=np.int32))
            units = global_units(session, document)
            if goes_on and units < session.context:
                going.append(place)
                tokens.append(token)
                continue
            stopped: Literal["end", "length", "context"] = "context" if goes_on else "length"
            stopped = "end" if token == session.vocabulary.end else stopped
            new = np.array(row.tokens, dtype=np.int32)
            spans = _spans(session, new, modality)
            done.append((row.index, Generation(new, spans, stopped, units - row.prompt_units)))
        if len(going) < len(rows):
            engine.keep(going)
            rows = [rows[place] for place in going]
        if rows:
            logits = engine.step(np.array(tokens, dtype=np.int32))
    return done


def global_units(session: Session, tokens: NDArray[Any]) -> int:
    """Patches and text tokens of a document: its length for the global transformer."""
    return static_example(tokens, session.vocabulary, session.patch_size).global_units


def _spans(session: Session, tokens: Tokens, modality: Modality) -> list[Span]:
    vocabulary = session.vocabulary
    spans = []
    cuts = np.flatnonzero(np.asarray(vocabulary.is_control(tokens)))
    for start, stop in zip([0, *(cuts + 1).tolist()], [*cuts.tolist(), len(tokens)], strict=True):
        if start:
            modality = "text" if tokens[start - 1] == vocabulary.text_marker else "speech"
        if stop > start:
            spans.append(Span(modality, tokens[start:stop]))
    return spans
