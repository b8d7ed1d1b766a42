"""What training a configuration takes: FLOPs per unit and step, memory per GPU, hours. What `lst model` prints."""

from dataclasses import dataclass
from typing import Any

from lst.model.config import LSTConfig, TransformerConfig
from lst.model.flops import TokenCounts, forward_flops, mixture_counts, parameters, training_flops

H100_FLOPS = 989e12
"""Peak bfloat16 FLOP/s of an H100 SXM, dense (its data sheet)."""
PAPER_UNITS = 200_000 * 32 * 4 * 4096
"""Sequence units of the paper's 1B run."""
LOSS_CHUNK = {2: 2 * (512 << 20), 4: 3 * (8 << 20)}
"""Bytes of logits that exist at a time, by bytes per activation: a GPU's chunks in bf16, a CPU's in float32."""
CPU_OVERHEAD = (48 << 20, 0.35)
"""Bytes, and a share of the activations: what the resident set grew by beyond the tensors (docs/model.md)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a training step."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    """Whole layers put together from their shards (FSDP2), in bf16."""
    activations: float
    logits: float
    overhead: float
    """On a CPU: libraries in the first step, and what malloc holds between tensors that come and go."""

    @property
    def total(self) -> float:
        return float(sum(vars(self).values()))


@dataclass(frozen=True)
class TrainingPlan:
    """The arithmetic of a training run. FLOPs are of training (forward and backward)."""

    parameters: dict[str, int]
    unit_flops: dict[str, float]
    """Per sequence unit, by module."""
    step_units: int
    step_flops: float
    steps: float
    memory: Memory
    memory_checkpointed: Memory
    gpus: int
    mfu: float
    hours: float
    tokens_per_unit: float
    """Original tokens per sequence unit: 3.00 / 2.42 for the paper's mixture in static patches of 4."""

    def as_json(self) -> dict[str, Any]:
        """What `lst model` prints; memory in GB (10^9 bytes), FLOPs per sequence unit, the mixture as the paper's."""
        unit = sum(self.unit_flops.values())
        return {
            "parameters": sum(self.parameters.values()),
            "parameters_of": self.parameters,
            "training_flops_per_unit": unit,
            "training_flops_per_unit_of": self.unit_flops,
            "sequence_units_per_3_original_tokens": 3 / self.tokens_per_unit,
            "training_flops_per_original_token": unit / self.tokens_per_unit,
            "units_per_step": self.step_units,
            "training_flops_per_step": self.step_flops,
            "steps": self.steps,
            "training_flops": self.steps * self.step_flops,
            "gpus": self.gpus,
            "gb_per_gpu": self.memory.total / 1e9,
            "gb_per_gpu_of": {name: value / 1e9 for name, value in vars(self.memory).items()},
            "gb_per_gpu_with_activation_checkpointing": self.memory_checkpointed.total / 1e9,
            "hours": self.hours,
        }


def plan_training(
    config: LSTConfig,
    *,
    gpus: int = 32,
    sequence: int = 4096,
    sequences_per_gpu: int = 4,
    units: float = PAPER_UNITS,
    mfu: float = 0.4,
    patch_length: float | None = None,
) -> TrainingPlan:
    """Plans a run over `units` sequence units on H100 GPUs under FSDP2, in bfloat16.

    The defaults are the paper's (section 4: 4 sequences of 4,096 units on each of 32 GPUs, 200,000 steps).
    """
    counts = mixture_counts(config, document_units=sequence, patch_length=patch_length)
    per_unit = {name: 3 * value for name, value in forward_flops(config, counts).items()}
    step_units = sequence * sequences_per_gpu * gpus
    step_flops = training_flops(config, counts) * step_units
    mine = counts * (sequence * sequences_per_gpu)
    return TrainingPlan(
        parameters=parameters(config),
        unit_flops=per_unit,
        step_units=step_units,
        step_flops=step_flops,
        steps=units / step_units,
        memory=training_memory(config, mine, gpus=gpus),
        memory_checkpointed=training_memory(config, mine, gpus=gpus, checkpointing=True),
        gpus=gpus,
        mfu=mfu,
        hours=units / step_units * step_flops / (gpus * H100_FLOPS * mfu) / 3600,
        tokens_per_unit=counts.tokens,
    )


def training_memory(
    config: LSTConfig,
    counts: TokenCounts,
    *,
    gpus: int = 1,
    activation_bytes: int = 2,
    checkpointing: bool = False,
) -> Memory:
    """Memory of a step that processes `counts` on one device, with float32 weights and AdamW sharded over `gpus`.

    `activation_bytes`: 2 for bf16 on a GPU, 4 for float32 on a CPU. With `checkpointing` only the input of each layer
    is kept, and one layer at a time is computed again.
    """
    total = sum(parameters(config).values())
    largest = max(_layer_parameters(stack) for stack in _stacks(config))
    embeddings = [value for name, value in parameters(config).items() if "embedding" in name or "head" in name]
    width = activation_bytes
    kept, once = 0.0, 0.0
    for stack, tokens in _stacks_with_tokens(config, counts):
        layer = _layer_activations(stack) * tokens * width
        once = max(once, layer)
        kept += stack.layers * (stack.dim * tokens * width if checkpointing else layer)
    if config.decoder is not None:
        cross = counts.local_tokens * 4 * config.decoder.dim
        cross += counts.patches * 2 * config.decoder.num_kv_heads * config.decoder.head_dim
        kept += (0 if checkpointing else config.decoder.layers) * cross * width
    head = config.global_transformer.dim if config.decoder is None else config.decoder.dim
    kept += 2 * counts.targets * head * width
    activations = kept + (once if checkpointing else 0.0)
    return Memory(
        weights=4 * total / gpus,
        gradients=4 * total / gpus,
        optimizer=8 * total / gpus,
        gathered=0.0 if gpus == 1 else 2.0 * (2 * largest + sum(embeddings)),
        activations=activations,
        logits=float(LOSS_CHUNK[4 if activation_bytes == 4 else 2]),
        overhead=CPU_OVERHEAD[0] + CPU_OVERHEAD[1] * activations if activation_bytes == 4 else 0.0,
    )


def _stacks(config: LSTConfig) -> list[TransformerConfig]:
    return [stack for stack in (config.encoder, config.global_transformer, config.decoder) if stack is not None]


def _stacks_with_tokens(config: LSTConfig, counts: TokenCounts) -> list[tuple[TransformerConfig, float]]:
    pairs = [(config.global_transformer, counts.patches)]
    pairs += [(stack, counts.local_tokens) for stack in (config.encoder, config.decoder) if stack is not None]
    return pairs


def _layer_parameters(stack: TransformerConfig) -> int:
    attention = stack.dim * (stack.heads + 2 * stack.num_kv_heads) * stack.head_dim + stack.dim**2
    return attention + 3 * stack.dim * stack.ffn_hidden


def _layer_activations(stack: TransformerConfig) -> float:
    """Numbers a layer keeps per token for its backward pass: two residual inputs, two normed inputs, query, key and
    value, what attention returns, gate and up, and their product."""
    attention = (stack.heads + 2 * stack.num_kv_heads) * stack.head_dim + stack.dim
    return 4 * stack.dim + attention + 3 * stack.ffn_hidden
