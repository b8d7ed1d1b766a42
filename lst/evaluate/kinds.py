"""The benchmarks `lst eval` knows by name: which directions make sense, and which way of counting is the headline.

The headline is fixed here, before any result is seen, because the choice moves results by ten points (method, section
6): mean per unit for speech endings; for text endings lm-evaluation-harness's `acc_norm` (per character), but its
plain `acc` (the sum) for BLiMP, whose sentences differ in a word and which it scores that way.
"""

from dataclasses import dataclass

from lst.errors import UsageError
from lst.evaluate.readers import Format
from lst.evaluate.scoring import MODES, Mode

SPOKEN: tuple[Mode, ...] = ("s-s",)
SAME: tuple[Mode, ...] = ("s-s", "t-t")


@dataclass(frozen=True)
class Benchmark:
    """`formats`: layouts that are this benchmark by themselves. `by_group`: readings of one pair count once, as in
    ZeroSpeech (averaged over voices, then over pairs); otherwise every item counts once."""

    name: str
    title: str
    modes: tuple[Mode, ...] = MODES
    formats: tuple[Format, ...] = ()
    speech_headline: str = "mean_unit"
    text_headline: str = "mean_char"
    by_group: bool = False

    def headline(self, mode: str) -> str:
        """The variant that counts in `mode`; speech that is written down first is text (`heard`)."""
        return self.speech_headline if mode.endswith("s") else self.text_headline


BENCHMARKS = {
    kind.name: kind
    for kind in (
        Benchmark("storycloze", "StoryCloze", formats=("storycloze-csv", "slamkit", "cross-modal", "jsonl")),
        Benchmark("topic-storycloze", "Topic StoryCloze"),
        Benchmark("hellaswag", "HellaSwag", formats=("hellaswag",)),
        Benchmark("swuggy", "sWUGGY", SPOKEN, ("swuggy",), by_group=True),
        Benchmark("sblimp", "sBLIMP", SAME, ("sblimp",), text_headline="sum", by_group=True),
        Benchmark("blimp", "BLiMP", SAME, ("blimp",), text_headline="sum"),
        Benchmark("piqa", "PIQA", formats=("piqa",)),
    )
}
"""By the name of the command."""


def benchmark_named(name: str) -> Benchmark:
    """The benchmark `name`. Raises UsageError naming the valid ones."""
    if name not in BENCHMARKS:
        raise UsageError(f"There is no benchmark {name!r}.", hint=f"Benchmarks: {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]


def kind_of(form: Format) -> str:
    """The benchmark that a layout stands for where nothing else says which it is."""
    return next(kind.name for kind in BENCHMARKS.values() if form in kind.formats)
