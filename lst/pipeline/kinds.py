"""The kinds of stage a recipe can name: where the code is, what it reads, what it makes.

A kind's module is imported when a recipe uses it; planning touches no torch. Each module follows one convention: a
`StageConfig`, a cheap function from inputs and config to a `StageSpec`, and a function that makes the output.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lst.config import StageConfig
from lst.errors import LstError


@dataclass(frozen=True)
class StageKind:
    """One kind of stage. `inputs`: role -> name of the stage that a recipe feeds it from unless it says otherwise."""

    module: str
    config_name: str
    spec_name: str
    run_name: str
    inputs: dict[str, str] = field(default_factory=dict)
    needs_source: bool = False
    """Reads a path outside the run (`source:` in the recipe) instead of another stage."""
    paths: tuple[str, ...] = ()
    """Settings that are paths: in a recipe they are relative to it."""
    models: tuple[str, ...] = ()
    """Settings that are models: paths like those, or stages of the recipe, which it then names among `inputs`."""
    title: str = ""

    @property
    def config(self) -> type[StageConfig]:
        """The class of its settings."""
        return self._get(self.config_name)  # type: ignore[no-any-return]

    @property
    def spec(self) -> Callable[..., Any]:
        """(inputs or source, config) -> StageSpec."""
        return self._get(self.spec_name)  # type: ignore[no-any-return]

    @property
    def run(self) -> Callable[..., Any]:
        """(inputs or source, out, config, ...) -> Manifest."""
        return self._get(self.run_name)  # type: ignore[no-any-return]

    def _get(self, name: str) -> Any:
        return getattr(importlib.import_module(self.module), name)


MADE = "made"
"""The kind of a stage that was made elsewhere: `source` is its directory, which is used as it is."""

KINDS: dict[str, StageKind] = {
    MADE: StageKind("lst.config", "StageConfig", "", "", needs_source=True),
    "ingest": StageKind("lst.audio.stage", "IngestConfig", "ingest_spec", "ingest", needs_source=True),
    "tokenize-audio": StageKind(
        "lst.units.stage", "TokenizeAudioConfig", "tokenize_audio_spec", "tokenize_audio", {"audio": "ingest"}
    ),
    "align": StageKind(
        "lst.align.stage", "AlignConfig", "align_spec", "align", {"units": "tokenize-audio", "audio": "ingest"}
    ),
    "tokenize-text": StageKind(
        "lst.text.stage", "TokenizeTextConfig", "tokenize_text_spec", "tokenize_text", needs_source=True
    ),
    "interleave": StageKind(
        "lst.data.stage",
        "InterleaveConfig",
        "interleave_spec",
        "interleave",
        {"aligned": "align", "text": "tokenize-text"},
    ),
    "splice": StageKind(
        "lst.data.splice", "SpliceConfig", "splice_spec", "splice", {"pairs": "interleave"}, paths=("text",)
    ),
    "pretrain": StageKind(
        "lst.train.stage",
        "PretrainConfig",
        "pretrain_spec",
        "pretrain",
        {"pairs": "interleave", "text": "tokenize-text"},
        models=("warm_start",),
    ),
    "finetune": StageKind(
        "lst.train.finetune",
        "FinetuneConfig",
        "finetune_spec",
        "finetune",
        {"model": "pretrain", "pairs": "interleave"},
    ),
    "import-benchmark": StageKind(
        "lst.evaluate.benchmark", "BenchmarkConfig", "import_benchmark_spec", "import_benchmark", needs_source=True
    ),
    "eval-storycloze": StageKind(
        "lst.evaluate.stage",
        "ChoicesConfig",
        "choices_spec",
        "choices",
        {"model": "pretrain", "bench": "import-benchmark"},
        models=("recogniser",),
    ),
    "eval-align": StageKind(
        "lst.evaluate.align",
        "AlignEvalConfig",
        "align_spec",
        "evaluate_align",
        {"units": "tokenize-audio", "audio": "ingest"},
    ),
    "eval-benchmark": StageKind(
        "lst.evaluate.stage",
        "ChoicesConfig",
        "choices_spec",
        "choices",
        {"model": "pretrain", "bench": "import-benchmark"},
        models=("recogniser",),
    ),
    "eval-losses": StageKind(
        "lst.evaluate.stage",
        "LossesConfig",
        "losses_spec",
        "losses",
        {"model": "pretrain", "pairs": "interleave", "text": "tokenize-text"},
    ),
    "eval-words": StageKind(
        "lst.evaluate.word_embeddings",
        "WordsConfig",
        "words_spec",
        "evaluate_words",
        {"model": "pretrain", "data": "interleave"},
    ),
    "eval-asr": StageKind(
        "lst.evaluate.recognition",
        "AsrEvalConfig",
        "asr_spec",
        "evaluate_asr",
        {"model": "finetune-asr", "data": "interleave"},
    ),
    "eval-tts": StageKind(
        "lst.evaluate.synthesis",
        "TtsEvalConfig",
        "tts_spec",
        "evaluate_tts",
        {"model": "finetune-tts", "data": "interleave"},
        models=("listener",),
    ),
    "vocode": StageKind("lst.vocoder.stage", "VocodeConfig", "vocode_spec", "vocode", {"units": "tokenize-audio"}),
    "samples": StageKind(
        "lst.generate.samples",
        "SamplesConfig",
        "samples_spec",
        "samples",
        {"asr": "finetune-asr", "tts": "finetune-tts", "model": "pretrain", "pairs": "interleave", "audio": "ingest"},
    ),
}
"""Every kind by its name in recipes."""


def stage_kind(name: str, where: str) -> StageKind:
    """The kind called `name`. Raises LstError naming the recipe key `where` and the nearest valid name."""
    if name not in KINDS:
        from lst.pipeline.recipe import nearest

        raise LstError(f"{where}: no kind of stage is called {name!r}.", hint=nearest(name, KINDS))
    return KINDS[name]
