"""Beam search for recognition: the transcript with the highest mean log probability per token.

One document at a time; its beams are the rows of the engine, which is told to go on from the best ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lst.generate.decoding import CachedEngine, Engine, Generation, Span, Tokens
from lst.generate.layout import Modality, static_example
from lst.generate.sampling import GenerateConfig, Grammar
from lst.generate.session import Session


@dataclass(frozen=True)
class _Beam:
    tokens: tuple[int, ...] = ()
    logp: float = 0.0

    @property
    def mean(self) -> float:
        """Per token, `<end>` included: else every beam that stops early would win."""
        return self.logp / (len(self.tokens) + 1)


def beam_search(
    session: Session,
    prompt: Tokens,
    modality: Modality,
    config: GenerateConfig,
    *,
    beams: int,
    engine: Callable[[Session], Engine] = CachedEngine,
) -> Generation:
    """Continue `prompt` (n,) of ids with text, whose tokens are all patches of their own.

    Returns the best finished beam; without any, the best of those that were cut off. With one beam it is greedy
    decoding. The search ends when as many beams as there are rows have ended and each of them is better than any that
    goes on: an end is always possible, so bad ones collect from the first word on.
    """
    machine = engine(session)
    names = session.vocabulary
    forbidden = tuple(token for token in (session.text.bos_id, session.text.eos_id) if token >= 0)
    used = static_example(prompt, names, session.patch_size).global_units
    longest = min(config.max_tokens, session.context - used)
    stopped: Literal["length", "context"] = "length" if longest == config.max_tokens else "context"
    logits = machine.start([prompt])
    going = [_Beam()]
    finished: list[_Beam] = []
    for count in range(longest):
        grammar = Grammar(names, config, modality, forbidden, count)
        allowed = grammar.allowed()
        table = np.array([beam.logp for beam in going])[:, None] + _log_softmax(logits[:, allowed])
        order = np.argsort(-table.ravel(), kind="stable")[: 2 * beams]
        rows, chosen = np.unravel_index(order, table.shape)
        kept: list[tuple[int, _Beam]] = []
        for row, column in zip(rows.tolist(), chosen.tolist(), strict=True):
            token, logp = int(allowed[column]), float(table[row, column])
            if token == names.end:
                finished.append(_Beam(going[row].tokens, logp))
            elif len(kept) < beams:
                kept.append((row, _Beam((*going[row].tokens, token), logp)))
            if len(kept) == beams:
                break
        going = [beam for _, beam in kept]
        if not kept or _nothing_better_to_come(finished, going, beams):
            break
        if count + 1 < longest:
            machine.keep([row for row, _ in kept])
            logits = machine.step(np.array([beam.tokens[-1] for beam in going], dtype=np.int32))
    pool = finished or going
    winner = max(pool, key=lambda beam: beam.mean)
    tokens = np.array(winner.tokens, dtype=np.int32)
    return Generation(tokens, [Span(modality, tokens)], "end" if finished else stopped, len(tokens))


def _nothing_better_to_come(finished: list[_Beam], going: list[_Beam], beams: int) -> bool:
    """Whether the best `beams` that ended are all as good per token as those that go on have been so far."""
    if len(finished) < beams:
        return False
    finished.sort(key=lambda beam: -beam.mean)
    del finished[beams:]
    return finished[-1].mean >= max(beam.logp / len(beam.tokens) for beam in going)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Over the allowed tokens, (B, k)."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    shifted: NDArray[np.float64] = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return shifted
