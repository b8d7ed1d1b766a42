"""The `finetune` stage: a pre-trained model and pairs in, a model that recognises (asr) or speaks (tts) out.

    asr   <s> units <asr> text <end>      the loss is on text and <end>
    tts   <t> text <tts> units <end>      the loss is on units and <end>

Patches are static, as at inference. The weights kept are those of the best validation: by the loss, which tells more
than error rates while these are high, or by them (`best`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from lst.config import StageConfig
from lst.data.interleaving import PieceConfig
from lst.data.mixture import MixtureConfig
from lst.errors import LstError
from lst.manifest import DirectoryResult, Manifest, Progress, StageSpec, merge_provenance, parse_schema
from lst.train.config import BatchConfig, BudgetConfig, OptimizerConfig, TrainerConfig
from lst.train.inputs import DataSpec, check_fingerprints, validation_patching
from lst.train.stage import TOKENIZER_FILE, UNIT_BPE_FILE, finished_model
from lst.train.together import build_together

if TYPE_CHECKING:
    from lst.model.lst import LST

VERSION = 2

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "batch": {"rows": 4, "sequence_units": 4096},
        "optimizer": {"lr": 1e-4, "warmup_steps": 100},
        "budget": {"kind": "steps", "amount": 2000},
        "dtype": "bfloat16",
        "validate_every": 100,
        "valid_utterances": 64,
    },
    "nano": {
        "batch": {"rows": 4, "sequence_units": 256},
        "optimizer": {"lr": 5e-4, "warmup_steps": 20},
        "budget": {"kind": "steps", "amount": 400},
        "validate_every": 50,
        "valid_rows": 16,
    },
}
"""Settings by name. paper: batch 4, sequence 4,096, 2,000 steps of ASR (its TTS has 20,000; the learning rate is not
given there); nano: minutes on a CPU."""

UTTERANCES = {"asr": 8, "tts": 0}
"""Held-out utterances for error rates where the settings do not say: speaking and judging take a while."""


class Lora(StageConfig):
    """Low-rank adaptation, see `lst.train.lora`."""

    rank: int = Field(16, ge=1, description="of each layer's change")
    alpha: float = Field(32.0, gt=0, description="scale of the change; it is multiplied by alpha / rank")


class FinetuneConfig(TrainerConfig):
    """Settings of the `finetune` stage."""

    task: Literal["asr", "tts"] = Field(description="asr: speech to text; tts: text to speech units")
    batch: BatchConfig = Field(BatchConfig(rows=4), description="what one step sees")
    optimizer: OptimizerConfig = Field(
        OptimizerConfig(lr=1e-4, warmup_steps=20),
        description="AdamW and its schedule",
    )
    budget: BudgetConfig = Field(BudgetConfig(amount=500), description="when training is over")
    validate_every: int | None = Field(50, ge=1, description="steps between validations; the best one is kept")
    valid_utterances: int | None = Field(
        None,
        ge=0,
        description="held-out utterances whose error rates every validation gives; null: 8 for asr, 0 for tts",
    )
    best: Literal["loss", "wer", "cer"] = Field("loss", description="what the best validation is the lowest in")
    pieces: PieceConfig | None = Field(
        None, description="of a share of the utterances a few words instead of all; null: all words always"
    )
    noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="asr: share of the units heard that are replaced, left out or doubled",
    )
    lora: Lora | None = Field(None, description="train low-rank changes of the linear layers; null: all weights")

    @model_validator(mode="after")
    def _noise_is_heard(self) -> "FinetuneConfig":
        if self.noise and self.task != "asr":
            raise ValueError("noise is for asr: what is to be said is not disturbed")
        return self

    @model_validator(mode="after")
    def _lora_alone(self) -> "FinetuneConfig":
        if self.lora is not None and self.parallel == "fsdp":
            raise ValueError("lora goes with parallel: ddp; sharded layers have no weight to change")
        return self

    def as_json(self) -> dict[str, Any]:
        """The settings; `pieces` and `noise` are left out where there is none, as before there were these keys."""
        settings = super().as_json()
        return {key: value for key, value in settings.items() if value or key not in ("pieces", "noise")}

    @field_validator("lora", mode="before")
    @classmethod
    def _rank_alone(cls, value: Any) -> Any:
        return {"rank": value} if isinstance(value, int) and not isinstance(value, bool) else value


def finetune_spec(model: Manifest, pairs: Manifest, config: FinetuneConfig) -> StageSpec:
    """What `finetune` would make. Raises LstError if the data's tokenizers are not the model's."""
    for manifest, schema in ((model, "lst.model"), (pairs, "lst.pairs")):
        if parse_schema(manifest.schema)[0] != schema:
            raise LstError(f"{manifest.path} holds {manifest.schema}, but {schema} is needed here.")
    check_fingerprints(model, pairs)
    return StageSpec(
        schema="lst.model/1",
        stage="finetune",
        version=VERSION,
        config=config.as_json(),
        inputs={"model": model, "pairs": pairs},
        fingerprints={name: value for name, value in model.fingerprints.items() if name != "model"},
        provenance=merge_provenance(model.provenance, pairs.provenance),
    )


def finetune(
    model: Manifest,
    pairs: Manifest,
    out: Path,
    config: FinetuneConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    resume: Literal["auto", "never"] = "auto",
    wandb_project: str | None = None,
) -> Manifest:
    """Fine-tune `model` on `pairs` and commit the best weights at `out`; stopping and resuming as in `pretrain`."""
    spec = finetune_spec(model, pairs, config)

    def make(partial: Path) -> DirectoryResult:
        return _train(partial, model, pairs, config, progress, wandb_project)

    return build_together(out, spec, make, force=force, fresh=resume == "never")


def _train(
    partial: Path,
    source: Manifest,
    pairs: Manifest,
    config: FinetuneConfig,
    progress: Progress | None,
    wandb_project: str | None,
) -> DirectoryResult:
    from lst.data.unit_bpe import UnitBpe
    from lst.model.checkpoint import load_config, load_model
    from lst.train.engine import TrainingJob, train
    from lst.train.hearing import hearing
    from lst.train.lora import add_lora, merge_lora
    from lst.train.plan import flops_counter

    partial.mkdir(parents=True, exist_ok=True)
    model_config = load_config(source.path)
    patching = validation_patching(model_config.patching)
    if patching.mode == "aligned":
        patching = patching.model_copy(update={"mode": "static"})
    model_config = model_config.model_copy(update={"patching": patching})
    unit_bpe = UnitBpe(source.file(UNIT_BPE_FILE).read_bytes()) if patching.mode == "bpe" else None
    data = DataSpec(
        pairs=pairs,
        text=None,
        config=config,
        patching=patching,
        mixture=MixtureConfig(speech=1, text=0),
        pieces=config.pieces,
        noise=config.noise,
        vocabulary=model_config.vocabulary,
        task=config.task,
        unit_bpe=unit_bpe,
    )
    count_flops = flops_counter(model_config)

    def build_model() -> "LST":
        model = load_model(source.path).model.train()
        return model if config.lora is None else add_lora(model, config.lora, seed=config.seed)

    wanted = config.valid_utterances if config.valid_utterances is not None else UTTERANCES[config.task]
    job = TrainingJob(
        directory=partial,
        config=config,
        build_model=build_model,
        open_stream=data.open(count_flops),
        open_valid=lambda rank, world: data.valid(rank, world, [config.task]),
        count_flops=count_flops,
        unit_frames=None if unit_bpe is None else unit_bpe.frames(),
        keep_best=True,
        best=config.best,
        measure=hearing(config.task, source, pairs, model_config, unit_bpe, utterances=wanted, seed=config.seed),
        progress=progress or (lambda *_: None),
        wandb_project=wandb_project,
    )
    result = train(job)
    merge_lora(result.model)
    names = [TOKENIZER_FILE] + ([UNIT_BPE_FILE] if unit_bpe is not None else [])
    return finished_model(partial, result, model_config, {name: source.file(name).read_bytes() for name in names})
