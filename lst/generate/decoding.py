"""The generation loop, and the engine behind it that says what comes next.

An engine is anything with `Engine`'s three methods. `CachedEngine` keeps what each module needs of the past
(`lst.model.cache`): the global transformer runs once per patch, the local modules once per token. Tests hold it equal
to running the whole document again for every token.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lst.data.vocabulary import Vocabulary
from lst.errors import LstError
from lst.generate.layout import Modality, static_example
from lst.generate.sampling import GenerateConfig, Grammar, choose, draw
from lst.generate.session import Session
from lst.manifest import Progress

if TYPE_CHECKING:
    from torch import Tensor

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


class CachedEngine:
    """Incremental inference with caches for all three modules.

    With `only_speech` the head works out units and controls alone: text has -inf.
    """

    def __init__(self, session: Session, *, only_speech: bool = False) -> None:
        from lst.model.cache import Incremental

        self._session = session
        self._incremental = Incremental(session.model, session.patch_size, only_speech=only_speech)

    def start(self, prompts: Sequence[Tokens]) -> Logits:
        size = self._session.patch_size
        examples = [static_example(prompt, self._session.vocabulary, size) for prompt in prompts]
        return _numpy(self._incremental.start(examples))

    def step(self, tokens: Tokens) -> Logits:
        return _numpy(self._incremental.step(tokens))

    def keep(self, rows: Sequence[int]) -> None:
        self._incremental.keep(rows)


def _numpy(logits: "Tensor") -> Logits:
    made: Logits = logits.float().cpu().numpy()
    return made


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
    """A document in the making: `steps` counts its patches and text tokens, `open` the units in its last patch."""

    index: int
    grammar: Grammar
    tokens: list[int]
    steps: int
    open: int
    prompt_steps: int

    def append(self, token: int, vocabulary: Vocabulary, patch_size: int) -> None:
        self.tokens.append(token)
        if not vocabulary.is_unit(token):
            self.steps, self.open = self.steps + 1, 0
        elif self.open in (0, patch_size):
            self.steps, self.open = self.steps + 1, 1
        else:
            self.open += 1


def generate(
    session: Session,
    prompts: Sequence[Tokens],
    modality: Modality,
    config: GenerateConfig,
    *,
    batch_size: int = 8,
    engine: Callable[[Session], Engine] | None = None,
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
        for row, made in _continue(session, chunk, modality, config, (engine or _cached(modality, config))(session)):
            if isinstance(made, Generation):
                results[row] = made
                report(len(results), len(prompts), "sequences")
            elif on_token is not None:
                on_token(row, made)
    return [results[row] for row in range(len(prompts))]


def stream(
    session: Session,
    prompt: Tokens,
    modality: Modality,
    config: GenerateConfig,
    *,
    engine: Callable[[Session], Engine] | None = None,
) -> Iterator[int | Generation]:
    """What `generate` makes of one prompt, token by token: each is there before the next is worked out.

    The last item is the `Generation`. Raises as `generate`.
    """
    for _, made in _continue(session, [(0, prompt)], modality, config, (engine or _cached(modality, config))(session)):
        yield made


def _cached(modality: Modality, config: GenerateConfig) -> Callable[[Session], Engine]:
    """The usual engine; it leaves text out where none may come."""
    return partial(CachedEngine, only_speech=modality == config.modality == "speech")


def _continue(
    session: Session,
    prompts: Sequence[tuple[int, Tokens]],
    modality: Modality,
    config: GenerateConfig,
    engine: Engine,
) -> Iterator[tuple[int, int | Generation]]:
    """(index of the prompt, token) as tokens are drawn, and (index, Generation) when a document is finished."""
    rows = [_open_row(session, index, prompt, modality, config) for index, prompt in prompts]
    logits = engine.start([prompt for _, prompt in prompts])
    while rows:
        going, tokens = [], []
        for place, row in enumerate(rows):
            token = choose(logits[place], row.grammar.allowed(), config, draw(config, row.index, row.grammar.count))
            goes_on = row.grammar.accept(token)
            if token != session.vocabulary.end:
                row.append(token, session.vocabulary, session.patch_size)
                yield row.index, token
            if goes_on and row.steps < session.context:
                going.append(place)
                tokens.append(token)
                continue
            stopped: Literal["end", "length", "context"] = "context" if goes_on else "length"
            stopped = "end" if token == session.vocabulary.end else stopped
            new = np.array(row.tokens, dtype=np.int32)
            spans = _spans(session, new, modality)
            yield row.index, Generation(new, spans, stopped, row.steps - row.prompt_steps)
        if going and len(going) < len(rows):
            engine.keep(going)
        rows = [rows[place] for place in going]
        if rows:
            logits = engine.step(np.array(tokens, dtype=np.int32))


def _open_row(session: Session, index: int, prompt: Tokens, modality: Modality, config: GenerateConfig) -> _Row:
    """Raises LstError for a prompt that fills the context."""
    forbidden = tuple(token for token in (session.text.bos_id, session.text.eos_id) if token >= 0)
    example = static_example(prompt, session.vocabulary, session.patch_size)
    used = example.global_units
    if used >= session.context:
        raise LstError(
            f"A prompt of {used} patches and text tokens leaves no room in the model's context of {session.context}.",
            hint="Give a shorter prompt.",
        )
    grammar = Grammar(session.vocabulary, config, modality, forbidden)
    last_is_unit = bool(session.vocabulary.is_unit(example.tokens[-1]))
    return _Row(index, grammar, [], used, int(example.patch_lengths[-1]) if last_is_unit else 0, used)


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
