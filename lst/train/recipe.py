"""The fairseq2 recipe that trains an LST: what it registers, and the trainer it builds."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq2.composition.models import register_model_family
from fairseq2.early_stopper import NOOP_EARLY_STOPPER
from fairseq2.models.utils.ac import apply_layerwise_ac
from fairseq2.models.utils.fsdp import apply_layerwise_fsdp
from fairseq2.nn.fsdp import FSDPWrapper
from fairseq2.optim.fp16_loss_scaler import NOOP_FP16_LOSS_SCALER
from fairseq2.recipe.base import Recipe, RecipeContext
from fairseq2.recipe.config import (
    ActivationCheckpointingConfig,
    CommonSection,
    FSDPConfig,
    GangSection,
    MixedPrecisionConfig,
    ModelSection,
    RegimeSection,
    TrainerSection,
)
from fairseq2.runtime.dependency import DependencyContainer, wire_object
from fairseq2.task import Task
from fairseq2.trainer import Trainer
from fairseq2.validator import NOOP_VALIDATOR
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.optim.lr_scheduler import LambdaLR

from lst.errors import LstError
from lst.model.blocks import FeedForward, RMSNorm
from lst.model.lst import LST
from lst.train.checkpoints import DirectoryCheckpoints
from lst.train.control import RunControl
from lst.train.engine import TrainingJob, TrainingResult
from lst.train.feed import LossModule, LossUnit, StreamReader
from lst.train.memory import PeakMemory
from lst.train.metrics import COUNTS, BatchCounter, RunRecorder, named
from lst.train.optimizer import build_optimizer
from lst.train.schedule import lr_factor
from lst.train.shards import is_sharded, load_model_pieces, read_pieces
from lst.train.together import world_size
from lst.train.validation import LossValidator
from lst.train.words import WordHeads

FAMILY = "lst"


@dataclass(kw_only=True)
class FamilyConfig:
    """fairseq2 builds a model from its family's config; ours is built by the job."""


@dataclass(kw_only=True)
class LSTRecipeConfig:
    """The sections of fairseq2's configuration that apply here; optimiser and schedule are in `TrainerConfig`."""

    model: ModelSection = field(default_factory=lambda: ModelSection(family=FAMILY))
    trainer: TrainerSection
    gang: GangSection = field(default_factory=GangSection)
    regime: RegimeSection
    common: CommonSection


def recipe_config(job: TrainingJob) -> LSTRecipeConfig:
    """fairseq2's configuration for a job. `num_steps` stays empty: with it, stop requests would be ignored."""
    config = job.config
    # fairseq2 would take Slurm's variables for torchrun's, which may say something else (one task per node).
    common = CommonSection(seed=config.seed, no_sweep_dir=True, cluster="none")
    if "OMP_NUM_THREADS" not in os.environ:
        common.torch.num_threads = torch.get_num_threads()  # else it takes every core, whatever the caller set
    mode = "layerwise" if config.activation_checkpointing else "off"
    bf16 = config.dtype == "bfloat16"
    trainer = TrainerSection(
        activation_checkpointing=ActivationCheckpointingConfig(mode=mode),  # type: ignore[arg-type]
        data_parallelism=config.parallel if world_size() > 1 else "ddp",
        fsdp=FSDPConfig(granularity="layer", fp32_reduce=True),
        # Only FSDP reads this: layers are gathered in bfloat16. The trainer's own switch is autocast, for both.
        mixed_precision=MixedPrecisionConfig(mode="static" if bf16 else "off"),
    )
    return LSTRecipeConfig(trainer=trainer, regime=RegimeSection(), common=common)


class TrainTask(Task):
    """The trainer, with fairseq2's own stop signal (SIGUSR1) treated like the others."""

    def __init__(self, trainer: Trainer, control: RunControl) -> None:
        self._trainer = trainer
        self._control = control

    def run(self) -> None:
        self._trainer.run()

    def request_stop(self) -> None:
        self._control.receive(int(signal.SIGUSR1))

    @property
    def step_nr(self) -> int:
        return int(self._trainer.step_nr)

    def close(self) -> None:
        self._trainer.close()


class LSTRecipe(Recipe):
    """Builds one job's trainer; afterwards holds what it made."""

    def __init__(self, job: TrainingJob, control: RunControl, on_ready: Callable[[], None]) -> None:
        self.job = job
        self.control = control
        self._on_ready = on_ready
        self._restored_step: int | None = None
        self._reader: StreamReader | None = None
        self._recorder: RunRecorder | None = None
        self._validator: LossValidator | None = None
        self._module: LossModule | None = None
        self._checkpoints: DirectoryCheckpoints | None = None
        self._memory: PeakMemory | None = None

    # What fairseq2 asks for

    @property
    def config_kls(self) -> type[object]:
        return LSTRecipeConfig

    def register(self, container: DependencyContainer) -> None:
        self._on_ready()  # fairseq2 has just set logging up
        register_model_family(
            container,
            FAMILY,
            kls=LossModule,
            config_kls=FamilyConfig,
            factory=self._build_module,
            supports_meta=False,
            layerwise_ac_applier=_checkpoint_layers,
            fsdp_applier=_shard_layers,
        )

    def has_static_autograd_graph(self, context: RecipeContext) -> bool:
        """Whether every step uses every parameter: not if text has a head of its own, which speech leaves idle."""
        return self.module.lst.text_head is None

    def create_task(self, context: RecipeContext) -> Task:
        """The trainer, with our components in place of those that fairseq2 would register."""
        job, config, gangs, control = self.job, self.job.config, context.gangs, self.control
        control.rank, control.world = gangs.root.rank, gangs.root.size
        if config.batch.rows % (gangs.dp.size * config.batch.accumulate):
            raise LstError(
                f"batch.rows ({config.batch.rows}) does not divide into {gangs.dp.size} processes with "
                f"batch.accumulate {config.batch.accumulate} each.",
                hint="Make batch.rows a multiple of their product.",
            )
        model = context.get_data_parallel_model()
        counter = BatchCounter(self.module.lst.config.vocabulary, job.unit_frames)
        self._reader = StreamReader(job, control, gangs, counter, self._between_steps)
        self._recorder = RunRecorder(
            job.directory,
            config.log_every,
            gangs.device,
            finished=lambda: control.finished,
            memory=self._memory,
            wandb_project=job.wandb_project,
        )
        self._checkpoints = checkpoints = DirectoryCheckpoints(
            job.directory / "checkpoints",
            self.module,
            config.checkpoint,
            gangs,
            ending=lambda: control.ending,
            on_restored=self._restored,
        )
        if control.rank == 0 and not checkpoints.has_checkpoint():
            self._recorder.resume(0, dict.fromkeys(COUNTS, 0.0))
        sets = job.open_valid(gangs.dp.rank, gangs.dp.size)
        if sets:
            self._validator = LossValidator(job, self.module, sets, counter, gangs, self._recorder, control)
        optimizer = build_optimizer(self.module, config.optimizer)
        amp = config.dtype == "bfloat16"
        trainer = wire_object(
            context.resolver,
            Trainer,
            model=model,
            unit=LossUnit(job, model, control),
            data_reader=self._reader,
            amp=amp,
            amp_dtype=torch.bfloat16 if amp else torch.float32,
            optimizer=optimizer,
            lr_scheduler=self._build_schedule(optimizer),
            fp16_loss_scaler=NOOP_FP16_LOSS_SCALER,
            validator=self._validator or NOOP_VALIDATOR,
            early_stopper=NOOP_EARLY_STOPPER,
            checkpoint_manager=checkpoints,
            metric_recorder=self._recorder,
            seed=config.seed,
            no_sync_grad_accumulation=True,
            max_grad_norm=config.optimizer.clip,
            validate_every_n_steps=config.validate_every,
            checkpoint_every_n_steps=config.log_every,
            keep_last_n_checkpoints=config.checkpoint.keep,
            publish_metrics_every_n_steps=config.log_every,
        )
        control.attach(trainer)
        return TrainTask(trainer, control)

    def _build_module(self, config: FamilyConfig) -> LossModule:
        self._memory = PeakMemory()
        device = torch.get_default_device()  # here fairseq2 makes it that of the run; weights are drawn on the CPU
        with torch.device("cpu"):
            model = self.job.build_model()
            self._module = self._loss_module(model)
        self._module.to(device)
        if self.job.config.compile:
            _compile_blocks(self._module)
        return self._module

    def _loss_module(self, model: LST) -> LossModule:
        weights, seed = self.job.words, self.job.config.seed
        return LossModule(model, None if weights is None else WordHeads(model.config, weights, seed))

    def _build_schedule(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        settings = self.job.config.optimizer

        def factor(steps_done: int) -> float:
            progress = self._reader.stream.progress if self._reader else 0.0
            return lr_factor(steps_done, progress, warmup_steps=settings.warmup_steps, final=settings.final_lr)

        return LambdaLR(optimizer, factor)

    # While it runs

    def _between_steps(self) -> None:
        """Before each step: report progress, and make up for a validation that a kill has prevented."""
        if self._restored_step is not None and self._validator is not None:
            self._validator.catch_up(self._restored_step)
        self._restored_step = None
        if self.control.rank == 0:
            loss = "" if self.control.last_loss is None else f", loss {self.control.last_loss:.3f}"
            self._report(loss)

    def _report(self, suffix: str = "") -> None:
        total = self.total_steps
        if total is not None:
            self.job.progress(self.control.step, total, f"steps{suffix}")
        elif self._reader is not None:
            self.job.progress(int(1000 * self._reader.stream.progress), 1000, f"‰ of the budget{suffix}")

    def _restored(self, step: int, totals: Tensor) -> None:
        self.control.step = step
        self._restored_step = step
        if self.control.rank == 0 and self._recorder is not None:
            self._recorder.resume(step, named(totals))
        if self._validator is not None:
            self._validator.resume(step)

    # Afterwards

    def _whole_model(self) -> LST:
        """The trained model on the CPU; a sharded one is put together from its last checkpoint, by the first."""
        if not is_sharded(self.module):
            return _unwrap_layers(self.module.lst).to("cpu").eval()
        module = self._loss_module(self.job.build_model())
        if self.control.rank == 0 and self._checkpoints is not None:
            load_model_pieces(module, read_pieces(self._checkpoints.model_files(self.control.step)))
        return module.lst.eval()

    @property
    def module(self) -> LossModule:
        """The model, once fairseq2 has had it built."""
        if self._module is None:
            raise LstError("The model has not been built.")
        return self._module

    @property
    def total_steps(self) -> int | None:
        """Steps in the whole budget, if that is known beforehand."""
        return None if self._reader is None else self._reader.stream.total_steps

    def result(self) -> TrainingResult:
        """What a finished run made. Processes other than the first know the weights only."""
        model = self._whole_model()
        lines = self._recorder.lines() if self._recorder is not None and self.control.rank == 0 else []
        trained = [line for line in lines if line["split"] == "train"]
        valid: dict[str, Any] = next((line for line in reversed(lines) if line["split"] == "valid"), {})
        if self.job.keep_best and self._validator is not None and self.control.rank == 0:
            valid = self._validator.load_best(model)
        if self.control.rank == 0:
            self._report()
        return TrainingResult(
            model=model,
            steps=self.control.step,
            totals=trained[-1]["total"] if trained else {},
            train=trained[-1] if trained else {},
            first=trained[0] if trained else {},
            valid=valid,
        )


def _checkpoint_layers(model: LossModule, every_nth_layer: int) -> LossModule:
    """Activation checkpointing of every transformer layer, global and local."""
    for stack in [part for part in model.lst.modules() if isinstance(part, nn.ModuleList)]:
        apply_layerwise_ac(stack, every_nth_layer)
    return model


def _shard_layers(model: LossModule, granularity: str, wrapper: FSDPWrapper) -> LossModule:
    """FSDP2 of every transformer layer, global and local; embeddings, heads and the rest are one more unit."""
    for stack in [part for part in model.lst.modules() if isinstance(part, nn.ModuleList)]:
        apply_layerwise_fsdp(stack, wrapper)
    return model


def _compile_blocks(module: LossModule) -> None:
    """torch.compile the feed-forward layers and norms: what fuses, and what never recompiles from batch to batch.

    Attention is one kernel already, and the whole model depends on each batch's masks, which torch 2.9 cannot trace.
    """
    for part in module.modules():
        if isinstance(part, FeedForward | RMSNorm):
            part.compile(dynamic=True)  # type: ignore[no-untyped-call]


def _unwrap_layers(model: LST) -> LST:
    """Take activation checkpointing off again: it changes the names of parameters."""
    for stack in [part for part in model.modules() if isinstance(part, nn.ModuleList)]:
        for index, layer in enumerate(stack):
            if isinstance(layer, CheckpointWrapper):
                stack[index] = layer._checkpoint_wrapped_module
    return model
