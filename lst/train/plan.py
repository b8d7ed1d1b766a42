"""What a configuration costs, before anything is trained: FLOPs per batch, and the plan that `--dry-run` prints."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lst.model.config import LSTConfig
from lst.train.config import TrainerConfig
from lst.train.stream import steps_in_budget

if TYPE_CHECKING:
    from lst.data.batch import PackedBatch


def flops_counter(config: LSTConfig) -> Callable[["PackedBatch"], float]:
    """FLOPs of a training step on a batch, counted from its documents and patches."""
    from lst.model.flops import batch_counts, training_flops

    return lambda batch: training_flops(config, batch_counts(config, batch))


def training_plan(model: LSTConfig, config: TrainerConfig) -> dict[str, Any]:
    """Steps, parameters by module and FLOPs of a run, from its settings and the paper's mixture; no data is read.

    The model is built on the meta device: any size fits.
    """
    from lst.model.flops import mixture_counts, parameters, training_flops
    from lst.model.init import empty_model

    per_unit = training_flops(model, mixture_counts(model, document_units=config.batch.sequence_units))
    step = per_unit * config.batch.units
    steps = steps_in_budget(config.budget, config.batch)
    if steps is None and config.budget.kind == "flops":
        steps = max(1, round(config.budget.amount / step))
    plan: dict[str, Any] = {
        "model": model.name,
        "patching": model.patching.mode,
        "parameters": sum(value.numel() for value in empty_model(model).parameters()),
        "parameters_by_module": parameters(model),
        "units_per_step": config.batch.units,
        "flops_per_step": step,
        "budget": f"{config.budget.amount:g} {config.budget.kind}",
    }
    if steps is not None:
        plan |= {"steps": steps, "flops": steps * step}
    return plan


H100_FLOPS = 989e12
"""Dense bfloat16 FLOP/s of one H100 (vendor's data sheet)."""

STATE_BYTES = 16
"""Per parameter: float32 weight, gradient, and AdamW's two moments."""


def model_costs(
    name: str, *, base: str | None, text_size: int, gpus: int, mfu: float, units: float, document_units: float = 4096
) -> dict[str, Any]:
    """Size and cost of a preset on `gpus` H100, for the paper's mixture.

    Keys: parameters (in all and by module), FLOPs per sequence unit and per original token by the full accounting,
    original tokens per sequence unit, weights with gradients and optimiser per GPU when sharded (GB, activations left
    out), and hours for `units` sequence units at the given share of the peak.
    """
    from lst.model.flops import forward_flops, mixture_counts, parameters, training_flops
    from lst.model.presets import preset

    config = preset(name, text_size=text_size, base=base)  # type: ignore[arg-type]
    counts = mixture_counts(config, document_units=document_units)
    by_module = parameters(config)
    per_unit = training_flops(config, counts)
    total = units * per_unit
    return {
        "model": config.name,
        "parameters": sum(by_module.values()),
        "parameters_of": by_module,
        "training_flops_per_unit": per_unit,
        "forward_flops_per_unit_of": forward_flops(config, counts),
        "original_tokens_per_unit": counts.tokens / counts.patches,
        "training_flops_per_original_token": per_unit * counts.patches / counts.tokens,
        "states_gb_per_gpu": sum(by_module.values()) * STATE_BYTES / gpus / 1e9,
        "training_flops": total,
        "hours": total / (gpus * H100_FLOPS * mfu) / 3600,
    }
