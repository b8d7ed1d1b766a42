"""What a configuration costs, before anything is trained: FLOPs per batch, and the plan that `--dry-run` prints."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lst.model.config import LSTConfig
from lst.train.config import TrainerConfig
from lst.train.stream import steps_in_budget

if TYPE_CHECKING:
    from lst.data.batch import PackedBatch


def flops_counter(config: LSTConfig) -> Callable[["PackedBatch"], float]:
    """FLOPs of a training step on a batch, counted from its documents and patches; those of naming words included."""
    from lst.model.flops import batch_counts, training_flops
    from lst.train.words import batch_word_flops

    return lambda batch: training_flops(config, batch_counts(config, batch)) + batch_word_flops(config, batch)


def training_plan(
    model: LSTConfig, config: TrainerConfig, *, processes: int = 1, name_words: bool = False
) -> dict[str, Any]:
    """Steps, parameters by module, FLOPs and memory of a run, from its settings and the paper's mixture; no data is
    read. The model is built on the meta device: any size fits. `name_words`: patches of speech name words, both kinds
    each (the most there can be).
    """
    from lst.model.flops import mixture_counts, parameters, speech_patches, training_flops
    from lst.model.init import empty_model
    from lst.model.plan import training_memory

    counts = mixture_counts(model, document_units=config.batch.sequence_units)
    step = training_flops(model, counts) * config.batch.units
    if name_words:
        from lst.train.words import word_flops

        patches = speech_patches(model, counts) * config.batch.units
        step += word_flops(model, patches, patches)
    steps = steps_in_budget(config.budget, config.batch)
    if steps is None and config.budget.kind == "flops":
        steps = max(1, round(config.budget.amount / step))
    memory = training_memory(
        model,
        counts * (config.batch.units / (processes * config.batch.accumulate)),
        gpus=processes if config.parallel == "fsdp" else 1,
        activation_bytes=2 if config.dtype == "bfloat16" else 4,
        checkpointing=config.activation_checkpointing,
    )
    plan: dict[str, Any] = {
        "model": model.name,
        "patching": model.patching.mode,
        "parameters": sum(value.numel() for value in empty_model(model).parameters()),
        "parameters_by_module": parameters(model),
        "units_per_step": config.batch.units,
        "flops_per_step": step,
        "processes": processes,
        "memory_mb": round(memory.total / 2**20),
        "budget": f"{config.budget.amount:g} {config.budget.kind}",
    }
    if steps is not None:
        plan |= {"steps": steps, "flops": steps * step}
    return plan
