"""Three element-wise operations with hand-written gradients.

Each is memory-bound: composed from torch operations it passes over its data several times more and keeps more of it for
the backward pass. Tests compare values and gradients with the plain formulas.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        return _turn(x, cos, sin, heads, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin, ctx.heads, -1.0), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, heads: int, sign: float) -> Tensor:
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    first, second = x[:, :, :heads].float().chunk(2, dim=-1)
    low, high = out[:, :, :heads].chunk(2, dim=-1)
    torch.mul(first, cos, out=low).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=high).addcmul_(first, sin, value=sign)
    out[:, :, heads:] = x[:, :, heads:]
    return out.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, heads: int | None = None) -> Tensor:
    """Turns the pairs (i, i + D/2) of `x` (B, N, H, D) by angles given as cos and sin (B, N, 1, D/2), in float32.

    `heads`: only the first so many heads are turned, the others copied (queries and keys with the values behind them in
    one tensor: then nothing of what came in is kept for the backward pass).
    """
    count = x.shape[2] if heads is None else heads
    if not torch.is_grad_enabled():  # token by token, the wrapping would take longer than the work
        return _turn(x, cos, sin, count, 1.0)
    return _Rotate.apply(x, cos, sin, count)  # type: ignore[no-untyped-call, no-any-return]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, scale = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x.float() * scale
        grad = grad.float()
        by_weight = (grad * normed).flatten(0, -2).sum(0)
        inner = grad * weight.float()
        # d/dx of x * scale: the part of `inner` along `normed` changes only the norm, which is divided out.
        along = torch.linalg.vecdot(inner, normed)[..., None].div_(x.shape[-1])
        by_input = inner.addcmul_(normed, along, value=-1).mul_(scale)
        return by_input.to(x.dtype), by_weight.to(weight.dtype), None


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = x.float()
    scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (wide * scale).mul_(weight.float()).to(x.dtype), scale


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in float32."""
    if not torch.is_grad_enabled():
        return _normed(x, weight, eps)[0]
    return _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call, no-any-return]


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _gated(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        by_gate, by_up = out.chunk(2, dim=-1)
        torch.mul(F.silu(gate), grad, out=by_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=by_gate)
        return out


def _gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where `gate_up` (..., 2n) holds gate in its first half: (..., n)."""
    if not torch.is_grad_enabled():
        return _gated(gate_up)
    return _SwiGLU.apply(gate_up)  # type: ignore[no-any-return, no-untyped-call]
