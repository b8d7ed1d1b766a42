"""The `pretrain` stage: pairs and text in, `lst.model/1` out.

A model directory holds `model.safetensors`, `config.json` and `tokenizer.model` (what `lst.model.checkpoint` reads),
`unit_bpe.model` for the bpe baseline, and of the run `metrics.jsonl`, `train.log` and `tensorboard/`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from lst.config import StageConfig
from lst.data.interleaving import SpanConfig
from lst.data.mixture import MixtureConfig
from lst.data.patching import PatchingConfig
from lst.errors import LstError
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    StageSpec,
    merge_provenance,
    parse_schema,
    sha256_file,
    write_atomic,
)
from lst.model.config import LSTConfig
from lst.model.presets import PRESETS, Base, preset
from lst.train.config import TrainerConfig, WordsConfig
from lst.train.together import build_together, process_rank
from lst.train.warm_start import check_start, find_start, start_as, start_fingerprint, start_manifest

if TYPE_CHECKING:
    from lst.data.unit_bpe import UnitBpe
    from lst.model.lst import LST
    from lst.train.engine import TrainingResult

VERSION = 1
TOKENIZER_FILE = "tokenizer.model"
UNIT_BPE_FILE = "unit_bpe.model"
VALID_SETS = ("speech", "text", "interleaved")
"""Held-out utterances as speech alone (S->S), held-out documents (T->T), and utterances interleaved (S->T, T->S)."""


class ModelConfig(StageConfig):
    """Which model to train: a preset, and what is different from it."""

    preset: str = Field("nano", description="named shape; see lst model")
    base: Base | None = Field(None, description="train the base SpeechLLM beside LST: same-global or matched")
    overrides: dict[str, Any] = Field({}, description="keys of the model's configuration that differ from the preset")

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"there is no preset {value!r}; presets: {', '.join(PRESETS)}")
        return value


class PretrainConfig(TrainerConfig):
    """Settings of the `pretrain` stage."""

    model: ModelConfig = Field(ModelConfig(), description="the model's shape")
    patching: PatchingConfig = Field(PatchingConfig(), description="how speech is patched")
    mixture: MixtureConfig = Field(MixtureConfig(), description="shares of speech and text")
    spans: SpanConfig = Field(SpanConfig(), description="lengths of interleaved spans")
    unit_bpe_size: int = Field(1000, ge=502, description="pieces of the unit BPE, for patching.mode bpe")
    words: WordsConfig | None = Field(None, description="have the patches of speech name words; null: no")
    warm_start: Path | None = Field(
        None,
        description="directory of the model that this one begins as: a text model of Llama's architecture, for the "
        "global transformer, or one that lst has trained",
    )

    @model_validator(mode="after")
    def _model_fits(self) -> "PretrainConfig":
        model_config_of(self, text_size=1)  # an impossible model is a mistake in the recipe, found before any data
        if self.words and (self.patching.mode == "bpe" or not self.mixture.speech):
            raise ValueError("words are named by patches of speech: not with patching.mode bpe, nor without speech")
        return self

    def as_json(self) -> dict[str, Any]:
        """The settings that determine the result; `words` is left out where there are none, as before there was that
        key. Of `warm_start` it is its hash that counts (`pretrain_spec`), not its place.
        """
        absent = {"warm_start"} if self.words else {"warm_start", "words"}
        return {key: value for key, value in super().as_json().items() if key not in absent}


def model_config_of(config: PretrainConfig, *, text_size: int, num_units: int = 501) -> LSTConfig:
    """The model a run trains, for a vocabulary. Raises ValueError (pydantic's) if the overrides do not fit together."""
    base = config.model.base
    shape = preset(
        config.model.preset, text_size=text_size, num_units=num_units, patching=config.patching, base=base
    ).as_json()
    return LSTConfig.model_validate(_merged(shape, config.model.overrides))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, change in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, change) if isinstance(old, Mapping) and isinstance(change, Mapping) else change
    return merged


def pretrain_spec(pairs: Manifest, text: Manifest, config: PretrainConfig) -> StageSpec:
    """What `pretrain` would make."""
    for manifest, schema in ((pairs, "lst.pairs"), (text, "lst.text")):
        if parse_schema(manifest.schema)[0] != schema:
            maker = "lst align, then lst interleave" if schema == "lst.pairs" else "lst tokenize-text"
            raise LstError(
                f"{manifest.path} holds {manifest.schema}, but {schema} is needed here.", hint=f"It is made by {maker}."
            )
    files, begun = {}, None
    if config.warm_start is not None:
        start = find_start(config.warm_start)
        files["warm_start"], begun = start_fingerprint(start), start_manifest(start)
    return StageSpec(
        schema="lst.model/1",
        stage="pretrain",
        version=VERSION,
        config=config.as_json(),
        inputs={"pairs": pairs, "text": text},
        fingerprints=dict(pairs.fingerprints),
        provenance=merge_provenance(begun.provenance if begun else [], pairs.provenance, text.provenance),
        files=files,
    )


def pretrain(
    pairs: Manifest,
    text: Manifest,
    out: Path,
    config: PretrainConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    resume: Literal["auto", "never"] = "auto",
    wandb_project: str | None = None,
) -> Manifest:
    """Train a model and commit it at `out`. Started by torchrun, all its processes train together.

    A run that was stopped or killed goes on from its last checkpoint when this is called again, and ends with the same
    weights as if nothing had happened; with `resume="never"` it starts over. `workers` changes nothing: training uses
    torch's threads. Raises `TrainingStopped` after a stop signal, and LstError as `lst.train.engine.train` does.
    """
    spec = pretrain_spec(pairs, text, config)

    def make(partial: Path) -> DirectoryResult:
        return _train(partial, pairs, text, config, progress, wandb_project)

    return build_together(out, spec, make, force=force, fresh=resume == "never")


def _train(
    partial: Path,
    pairs: Manifest,
    text: Manifest,
    config: PretrainConfig,
    progress: Progress | None,
    wandb_project: str | None,
) -> DirectoryResult:
    from lst.data.loader import vocabulary_of
    from lst.train.engine import TrainingJob, train
    from lst.train.inputs import DataSpec
    from lst.train.plan import flops_counter

    partial.mkdir(parents=True, exist_ok=True)
    unit_bpe = _unit_bpe(pairs, config) if config.patching.mode == "bpe" else None
    num_units = unit_bpe.size if unit_bpe is not None else 501
    vocabulary = vocabulary_of(pairs, num_units=num_units)
    model_config = model_config_of(config, text_size=vocabulary.text_size, num_units=num_units)
    start = None if config.warm_start is None else find_start(config.warm_start)
    if start is not None:
        check_start(start, model_config, pairs)
    data = DataSpec(
        pairs=pairs if config.mixture.speech else None,
        text=text if config.mixture.text else None,
        config=config,
        patching=model_config.patching,
        mixture=config.mixture,
        vocabulary=vocabulary,
        spans=config.spans,
        unit_bpe=unit_bpe,
        name_words=config.words is not None,
    )
    count_flops = flops_counter(model_config)
    job = TrainingJob(
        directory=partial,
        config=config,
        build_model=lambda: _first_model(model_config, config.seed, start),
        open_stream=data.open(count_flops),
        open_valid=lambda rank, world: data.valid(rank, world, VALID_SETS),
        count_flops=count_flops,
        unit_frames=None if unit_bpe is None else unit_bpe.frames(),
        words=config.words,
        progress=progress or (lambda *_: None),
        wandb_project=wandb_project,
    )
    result = train(job)
    files = {TOKENIZER_FILE: pairs.file(TOKENIZER_FILE).read_bytes()}
    if unit_bpe is not None:
        files[UNIT_BPE_FILE] = unit_bpe.model
    return finished_model(partial, result, model_config, files)


def _first_model(config: LSTConfig, seed: int, start: Path | None) -> "LST":
    from lst.model.init import build_model

    model = build_model(config, seed=seed)
    if start is not None:
        start_as(model, start)
    return model


def finished_model(
    partial: Path, result: "TrainingResult", config: LSTConfig, files: Mapping[str, bytes]
) -> DirectoryResult:
    """Write a trained model, and `files` (name -> content) beside it, into `partial` and say what is in it.

    Processes other than the first write nothing: the first one may already be renaming the directory.
    """
    from lst.model.checkpoint import WEIGHTS_FILE, write_weights

    if process_rank() != 0:
        return DirectoryResult(artifacts=[])
    for name, content in files.items():
        write_atomic(partial / name, content)
    names = [*write_weights(partial, result.model, config), *files, "metrics.jsonl", "train.log"]
    names += [path.relative_to(partial).as_posix() for path in sorted((partial / "tensorboard").glob("events*"))]
    return DirectoryResult(
        artifacts=names,
        totals=model_totals(result),
        fingerprints={"model": sha256_file(partial / WEIGHTS_FILE)},
    )


def model_totals(result: "TrainingResult") -> dict[str, float]:
    """What a model's manifest says of its training: size, cost, data seen, first and last losses."""
    seen = ("flops", "units", "text_tokens", "global_units", "speech_patches")
    totals: dict[str, float] = {
        "parameters": sum(value.numel() for value in result.model.parameters()),
        "steps": result.steps,
        **{name: result.totals[name] for name in seen if name in result.totals},
    }
    for prefix, line in (("first", result.first), ("train", result.train), ("valid", result.valid)):
        for key in ("loss", "speech_bits_per_second", "text_bits_per_token"):
            if key in line:
                totals[f"{prefix}_{key}"] = round(float(line[key]), 6)
    return totals


def _unit_bpe(pairs: Manifest, config: PretrainConfig) -> "UnitBpe":
    """The unit BPE of the run, trained on the training split: the same every time and in every process."""
    from lst.data.loader import iter_utterances
    from lst.data.unit_bpe import train_unit_bpe

    rows = iter_utterances(pairs, split="train")
    return train_unit_bpe((row.units for row in rows), size=config.unit_bpe_size)
