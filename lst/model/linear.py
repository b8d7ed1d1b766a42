"""Matrix products of the model's linear layers, through the fastest float32 kernel a CPU has.

torch's own `linear` in float32 on a CPU goes to MKL, which on processors of another maker than its own uses half of
their vector width. oneDNN, which torch also carries (it does its bfloat16 products), uses all of it: on such a machine
the forward and both backward products take half the time (benchmarks/NOTES.md). It takes transposed views as they are,
so nothing is copied around. Everything else (other devices and types, autocast, torch.compile) is left to torch.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.backends import xnnpack
from torch.nn import functional as F

SMALL = 1 << 26
"""Weights of a model up to which its layers keep a second layout, for products with one row by one thread. In larger
models what a call of oneDNN costs besides the reading counts for little, and memory and more threads for much
(benchmarks/NOTES.md)."""

FEW = 512
"""Rows up to which turning a gradient by the weight takes longer than it gains (benchmarks/NOTES.md)."""


class Layout(NamedTuple):
    """A linear layer's weight (out, in) for inference."""

    weight: Tensor
    packed: bool
    """Whether `weight` is in oneDNN's own order, or as it was."""
    for_one: Any
    """The weight once more, in XNNPACK's order (a `LinearOpContext`), or None."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T`: (..., K) times (N, K) to (..., N). No gradient flows through it."""
    if not _onednn_does(x):
        return F.linear(x, weight)
    return _onednn(x, weight)


class Linear(nn.Linear):
    """`nn.Linear` without a bias: the same parameter, the same gradients to rounding."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.packed: Layout | None = None
        """What `pack` made of the weight."""

    def layout(self, first: int = 0) -> Layout:
        """For inference; of the outputs from `first` on, if not 0, a copy of its own."""
        if self.packed is None:
            return Layout(self.weight.detach()[first:], False, None)
        if first == 0:
            return self.packed
        rows = self.packed.weight.to_dense()[first:].contiguous()
        return _packed(rows, for_one=self.packed.for_one is not None)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            return _onednn(x, self.packed.weight) if x.numel() else x.new_zeros(*x.shape[:-1], self.out_features)
        if not _onednn_does(x):
            return F.linear(x, self.weight)
        if not torch.is_grad_enabled():
            return _onednn(x, self.weight)
        return _Product.apply(x, self.weight)  # type: ignore[no-any-return, no-untyped-call]


def pack(model: nn.Module) -> None:
    """Lays out the weights of `model`'s linear layers for inference on a CPU; elsewhere it does nothing.

    A product with one row reads every weight once; laid out in the order of reading, that takes half the time. A model
    of at most `SMALL` weights then holds them twice. The layers give up their `weight`: the model can no longer be
    trained, saved or moved.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Linear)]
    small = sum(layer.in_features * layer.out_features for layer in layers) <= SMALL
    for layer in layers:
        if layer.packed is None and _onednn_does(layer.weight):
            layer.packed = _packed(layer.weight.detach(), for_one=small)
            del layer.weight


def _packed(weight: Tensor, *, for_one: bool) -> Layout:
    made = _for_one(weight) if for_one and xnnpack.enabled else None  # type: ignore[attr-defined]
    return Layout(torch.ops.mkldnn._reorder_linear_weight(weight, 1), True, made)


def _for_one(weight: Tensor) -> Any:
    """XNNPACK's layout of a weight: its calls cost little besides the reading."""
    copied = weight.clone()
    context = torch.ops.prepacked.linear_clamp_prepack(copied, None)
    copied.untyped_storage().resize_(0)  # the context would keep it for ever, and never read it again
    return context


def _keep_xnnpack_to_one_thread() -> None:
    """XNNPACK has threads of its own, for good as many as the first setting of their number in a process says, or as
    many as processors. They wait by spinning: where others need the cores, a product takes milliseconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_num_threads(threads)


_keep_xnnpack_to_one_thread()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        by_x = product(grad, weight.T) if ctx.needs_input_grad[0] else None
        by_weight = outer(grad.flatten(0, -2), x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        return by_x, by_weight


def outer(left: Tensor, right: Tensor) -> Tensor:
    """`left.T @ right`: (M, N) and (M, K) to (N, K), contiguous."""
    # The first factor is copied into place, the second is read where it is: faster with the smaller one first. But then
    # the result may have to be turned, and for few rows that takes longer than is gained.
    if left.shape[1] <= right.shape[1] or len(left) <= FEW:
        return product(left.T, right.T)
    return product(right.T, left.T).T.contiguous()


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


def _onednn_does(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
