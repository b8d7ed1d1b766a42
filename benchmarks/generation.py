"""Generation: caches against running the prefix again, growth with length, and LST against its base.

    python -m benchmarks.generation              # micro
    python -m benchmarks.generation 1.1b         # LST against base of that shape, random weights, 6 GB

One thread, float32, one document. Times are of the processor, the least of several rounds for each single step: other
processes take cache and memory bandwidth even so. The pairs of a figure are measured in turns.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.loader import emit
from lst.data.batch import pack_examples
from lst.data.vocabulary import Vocabulary
from lst.generate.layout import static_example
from lst.generate.sampling import GenerateConfig, Grammar, choose, draw
from lst.model.cache import Incremental
from lst.model.config import LSTConfig
from lst.model.flops import parameters
from lst.model.linear import pack
from lst.model.lst import LST
from lst.model.presets import preset

TEXT_SIZE = 4096
PROMPT, UNITS = 50, 500
EVERY = 50
"""The prefix is run again for one unit in so many, evenly over the document."""


def main() -> None:
    """Print one line per figure."""
    torch.set_num_threads(1)
    shape = sys.argv[1] if len(sys.argv) > 1 else "micro"
    patched, base = models(shape)
    if shape == "micro":
        against_recomputing(patched)
        growth(patched)
    against_base(shape, patched, base, units=200 if shape == "micro" else 8, rounds=3)


def models(shape: str, *, text_size: int = TEXT_SIZE, inference: bool = True) -> tuple[LST, LST]:
    """LST and its base, with one global transformer between them, for inference or for training.

    Weights are numbers of a usual size, the same million over and over: the time of a product does not depend on them
    (but zeros would all be one page of memory).
    """
    with torch.device("meta"):
        patched = LST(preset(shape, text_size=text_size))
        base = LST(preset(shape, text_size=text_size, base="same-global"))
    base.global_transformer = patched.global_transformer
    drawn = torch.empty(1 << 20).uniform_(-0.03, 0.03)
    for model in (patched, base):
        for module in model.modules():
            for name, value in module.named_parameters(recurse=False):
                if value.device.type == "meta":
                    made = torch.ones(value.shape) if value.ndim == 1 else _tiled(drawn, value.shape)
                    module.register_parameter(name, torch.nn.Parameter(made, requires_grad=not inference))
        if inference:
            pack(model)
        model.train(not inference)
    return patched, base


def _tiled(drawn: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    made = torch.empty(shape)
    for part in made.view(-1).split(len(drawn)):
        part.copy_(drawn[: len(part)])
    return made


def document(vocabulary: Vocabulary, units: int) -> np.ndarray:
    """`<s>` and `units` random units."""
    drawn = np.random.default_rng(0).integers(0, vocabulary.num_units, units)
    return np.concatenate(([vocabulary.speech_marker], vocabulary.from_units(drawn.astype(np.uint16)))).astype(np.int32)


def against_recomputing(model: LST, rounds: int = 3) -> None:
    """500 units after 50: all that generation does, against the plain forward pass over the prefix for every unit."""
    names, size = model.config.vocabulary, model.config.patching.size
    tokens = document(names, PROMPT + UNITS)
    config = GenerateConfig(modality="speech", max_tokens=UNITS + 1, min_tokens=UNITS)
    cached, again = Best(), Best()
    for _ in range(rounds):
        incremental, grammar = Incremental(model, size, only_speech=True), Grammar(names, config, "speech")

        def unit(place: int, engine: Incremental = incremental, grammar: Grammar = grammar) -> None:
            """Draws a unit, and appends the one of the document, so that both sides run over the same."""
            logits = engine.step(tokens[place : place + 1]).numpy()
            choose(logits[0], grammar.allowed(), config, draw(config, 0, place))

        prompt = static_example(tokens[: PROMPT + 1], names, size)
        cached(0, partial(incremental.start, [prompt]))
        for place in range(PROMPT + 1, PROMPT + UNITS + 1):
            cached(place, partial(unit, place))
            if (place + EVERY // 2) % EVERY == 0:
                again(place, partial(last_logits, model, tokens[:place]))
    emit(
        "generation.micro against recomputing",
        units=UNITS,
        ms_per_unit=1e3 * cached.total / UNITS,
        recomputing_ms_per_unit=1e3 * again.total / len(again.seconds),
        times_faster=again.total / len(again.seconds) * UNITS / cached.total,
        weights_at_full_speed_ms_per_unit=1e3 * reading_seconds(model),
        goal=">= 20",
    )


class Best:
    """The least CPU seconds of each of several calls, over rounds: what other processes disturb least."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}

    def __call__(self, key: int, work: Callable[[], object]) -> None:
        with torch.inference_mode():
            start = time.process_time()
            work()
            taken = time.process_time() - start
        self.seconds[key] = min(taken, self.seconds.get(key, taken))

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def mean(self, first: int, last: int) -> float:
        """Over calls `first` to `last` - 1."""
        return float(np.mean([self.seconds[key] for key in range(first, last)]))


def last_logits(model: LST, tokens: np.ndarray) -> torch.Tensor:
    """The forward pass over a whole document, and the head at its last token only."""
    example = static_example(tokens, model.config.vocabulary, model.config.patching.size)
    batch = pack_examples([[example]], model.config.vocabulary)
    made = model.run(batch, model.prepare(batch))
    assert made.states is not None
    return model.head(made.states[:, -1])  # type: ignore[no-any-return]


def reading_seconds(model: LST) -> float:
    """What it takes to read the weights that a unit needs once, with nothing else to do."""
    memory, best = torch.ones(64 << 20), Best()
    for _ in range(5):
        best(0, memory.sum)
    return best.total * weights_per_unit(model.config) / memory.numel()


def growth(model: LST, units: int = 2000, window: int = 80, rounds: int = 2) -> None:
    """Time per unit around unit 100 and around unit 2,000 of a document."""
    names, size = model.config.vocabulary, model.config.patching.size
    tokens = document(names, units + window)
    best = Best()
    for _ in range(rounds):
        incremental = Incremental(model, size)
        incremental.start([static_example(tokens[:2], names, size)])
        for place in range(2, len(tokens)):
            best(place, partial(incremental.step, tokens[place : place + 1]))
    early, late = (best.mean(at - window, at + window) for at in (100, units))
    emit(
        "generation.micro growth",
        ms_per_unit_at_100=1e3 * early,
        ms_per_unit_at_2000=1e3 * late,
        ratio=late / early,
        goal="< 2",
    )


def against_base(shape: str, patched: LST, base: LST, *, units: int, rounds: int) -> None:
    """Both cached, the same units after the same prompt: global steps, time per second of speech, and the promise."""
    best = {"lst": Best(), "base": Best()}
    steps = {}
    for _ in range(rounds):
        for name, model in (("lst", patched), ("base", base)):
            names, size = model.config.vocabulary, 1 if model.config.is_base else model.config.patching.size
            tokens = document(names, PROMPT // size * size + units)
            start = len(tokens) - units
            incremental = Incremental(model, size)
            incremental.start([static_example(tokens[:start], names, size)])
            before = incremental.global_steps
            for place in range(units):
                best[name](place, partial(incremental.step, tokens[start + place : start + place + 1]))
            steps[name] = incremental.global_steps - before
    seconds = {name: timer.total / units for name, timer in best.items()}
    promised = weights_per_unit(base.config) / weights_per_unit(patched.config)
    gain = seconds["base"] / seconds["lst"]
    emit(
        f"generation.{shape} LST static 4 against base",
        global_steps=steps["lst"] / steps["base"],
        lst_s_per_second_of_speech=25 * seconds["lst"],
        base_s_per_second_of_speech=25 * seconds["base"],
        gain=gain,
        promised_by_flops_and_bytes=promised,
        share_of_promise=gain / promised,
        lst_gb_per_s=4e-9 * weights_per_unit(patched.config) / seconds["lst"],
        base_gb_per_s=4e-9 * weights_per_unit(base.config) / seconds["base"],
        goal=">= 0.85 of the promise",
    )


def weights_per_unit(config: LSTConfig) -> float:
    """Weights read, and multiplied with, for a unit: once per token the local modules and the head, once per patch the
    global transformer and what makes a patch. (Caches are small beside them at these lengths.)"""
    counts = parameters(config)
    total = float(sum(value for name, value in counts.items() if "embedding" not in name))
    if config.is_base or config.encoder is None or config.decoder is None:
        return total
    encoder, decoder, wide = config.encoder, config.decoder, config.global_transformer
    per_patch = counts["global_transformer"] + config.queries_per_patch * (2 * encoder.dim**2 + encoder.dim * wide.dim)
    per_patch += decoder.layers * 2 * wide.dim * decoder.num_kv_heads * decoder.head_dim
    return total - per_patch * (1 - 1 / config.patching.size)


if __name__ == "__main__":
    main()
