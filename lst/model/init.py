"""Weight initialisation: the same seed gives the same weights, bit for bit, on every run."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lst.model.attention import Backend
from lst.model.config import LSTConfig
from lst.model.lst import LST

EMBEDDING_STD = 0.02


def build_model(
    config: LSTConfig, *, seed: int = 0, device: torch.device | str = "cpu", backend: Backend = "auto"
) -> LST:
    """A freshly initialised model. Weights are drawn on the CPU, so they do not depend on `device`."""
    model = LST(config, backend)
    initialise(model, seed)
    return model.to(device)


def empty_model(config: LSTConfig, backend: Backend = "auto") -> LST:
    """A model of any size on the meta device: shapes without numbers, to count, or to load weights into."""
    with torch.device("meta"), _NoDraws():
        return LST(config, backend)


class _NoDraws(TorchFunctionMode):
    """Layers are made without drawing weights: on the meta device a draw would import torch's compiler, for seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@torch.no_grad()
def initialise(model: LST, seed: int) -> None:
    """Draws all weights in place from a generator of its own, in the order of `named_parameters`.

    Linear layers: normal, cut at 3 sigma, std 1/sqrt(inputs); those that write to the residual stream are divided by
    sqrt(2 x layers) of their stack, so that its size does not grow with depth. Heads: small enough for an initial loss
    of ln(vocabulary). Norms: 1.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = {id(weight): layers for weight, layers in _residual_weights(model)}
    heads = {id(head.weight) for head in (model.head, model.text_head) if head is not None}
    tied = model.head.weight is model.embedding.weight
    for _, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
            continue
        inputs = parameter.shape[1]
        if id(parameter) in heads and tied:
            std = 1.0 / inputs  # the current token's own logit starts at about 1 instead of sqrt(d)
        elif id(parameter) in heads:
            std = min(EMBEDDING_STD, 0.3 / math.sqrt(inputs))
        elif _is_embedding(model, parameter):
            std = EMBEDDING_STD
        else:
            std = 1.0 / math.sqrt(inputs) / math.sqrt(2 * depth.get(id(parameter), 0.5))
        nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std, generator=generator)


def _residual_weights(model: LST) -> list[tuple[nn.Parameter, int]]:
    stacks = [model.global_transformer.layers]
    stacks += [part.layers for part in (model.encoder, model.decoder) if part is not None]
    found = []
    for stack in stacks:
        for name, parameter in stack.named_parameters():
            if name.endswith(("attention.out.weight", "cross.out.weight", "ffn.down.weight")):
                found.append((parameter, len(stack)))
    return found


def _is_embedding(model: LST, parameter: nn.Parameter) -> bool:
    tables = [table for table in (model.embedding, model.text_embedding) if table is not None]
    return any(parameter is table.weight for table in tables)
