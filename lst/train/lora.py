"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): every linear layer W trains as W + (alpha / rank) B A.

W stays as it was, A (rank, in) and B (out, rank) are learned; B starts at zero, so training starts from the model as it
is. Embeddings, heads and norms are trained whole: pre-training never met `<asr>` and `<tts>`. After training the
products are added to the weights: what is saved is an ordinary model.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lst.model.linear import Linear
from lst.model.lst import LST
from lst.train.finetune import Lora

HEADS = ("head", "text_head")
"""Linear layers that are trained whole, as the embeddings are (which may be the same weights)."""


class _LowRank(nn.Module):
    """W (out, in) -> W + scale * B A."""

    def __init__(self, weight: Tensor, config: Lora, generator: torch.Generator) -> None:
        super().__init__()
        out, inputs = weight.shape
        self.scale = config.alpha / config.rank
        a = torch.randn(config.rank, inputs, generator=generator) / math.sqrt(inputs)
        self.a = nn.Parameter(a.to(weight))
        self.b = nn.Parameter(weight.new_zeros(out, config.rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.b @ self.a)


def add_lora(model: LST, config: Lora, *, seed: int) -> LST:
    """Give every linear layer of `model` but its heads a low-rank change, and make its weight a constant."""
    generator = torch.Generator().manual_seed(seed)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear) and name not in HEADS:
            change = _LowRank(layer.weight, config, generator)
            # A buffer, not a frozen parameter: fairseq2 makes every parameter of a model trainable.
            weight = layer.weight.detach()
            del layer.weight
            layer.register_buffer("weight", weight)
            parametrize.register_parametrization(layer, "weight", change)
    return model


def merge_lora(model: LST) -> LST:
    """Add the changes to the weights and forget that they were apart; a model without any is left as it is."""
    for layer in list(model.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            weight = layer.weight
            assert isinstance(weight, Tensor)
            del layer.weight
            layer.register_parameter("weight", nn.Parameter(weight.detach().clone()))
    return model
