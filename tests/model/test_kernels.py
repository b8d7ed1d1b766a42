"""Hand-written gradients against autograd of the plain formulas."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lst.model import loss as loss_module
from lst.model.blocks import rotation
from lst.model.kernels import rms_norm, rotate, swiglu
from lst.model.linear import Linear, pack
from lst.model.loss import head_loss, summarise


def compare(found: Callable[..., Tensor], expected: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    results = []
    for function in (found, expected):
        inputs = [value.clone().requires_grad_() for value in values]
        out = function(*inputs)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        results.append([out.detach(), *(value.grad for value in inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_rms_norm() -> None:
    compare(
        lambda x, w: rms_norm(x, w, 1e-5),
        lambda x, w: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * w,
        (3, 5, 16),
        (16,),
    )
    assert torch.isfinite(rms_norm(torch.zeros(2, 4), torch.ones(4), 1e-5)).all()


def test_swiglu() -> None:
    compare(swiglu, lambda x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1], (3, 5, 16))


def test_rotate() -> None:
    turn = rotation(torch.tensor([[0, 1, 7], [3, 2, 100_000]]), 8, 1e4)

    def plain(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        turned = torch.complex(first, second) * torch.complex(*turn)
        return torch.cat([turned.real, turned.imag], -1)

    compare(lambda x: rotate(x, *turn), plain, (2, 3, 4, 8))
    compare(
        lambda x: rotate(x, *turn, heads=3), lambda x: torch.cat([plain(x[:, :, :3]), x[:, :, 3:]], 2), (2, 3, 4, 8)
    )


def test_rotation_depends_on_distance_only() -> None:
    x, y = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(1))
    products = []
    for start in (0, 40_000):
        near, far = (rotation(torch.tensor([[start + step]]), 16, 5e5) for step in (0, 9))
        products.append((rotate(x, *far) * rotate(y, *near)).sum())
    torch.testing.assert_close(products[0], products[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1 << 21, 40])
def test_head_loss(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss_module.CHUNK_LOGITS, "cpu", chunk)
    generator = torch.Generator().manual_seed(0)
    head = Linear(6, 11)
    states = torch.randn(9, 6, generator=generator) * 4
    targets = torch.randint(0, 11, (9,), generator=generator)
    results = []
    for plain in (False, True):
        inputs = states.clone().requires_grad_()
        head.weight.grad = None
        if plain:
            each = F.cross_entropy(head(inputs), targets, reduction="none")
            total = each.sum()
        else:
            total, each = head_loss(inputs, head, targets)
        (total * 0.7).backward()
        results.append([total.detach(), each.detach(), inputs.grad, head.weight.grad.clone()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(head_loss(states, head, targets)[1], results[1][1], atol=1e-5, rtol=1e-5)
    pack(head)
    torch.testing.assert_close(head_loss(states, head, targets)[1], results[1][1], atol=1e-5, rtol=1e-5)


def test_sums_by_modality() -> None:
    losses, targets = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), torch.tensor([0, 12, 9, 30, 3, 20])
    crossed = torch.tensor([False, False, False, False, True, True])
    out = summarise(losses.sum(), losses, targets, crossed, text_size=9, unit_offset=17)
    assert (out.text_loss, out.text_count) == (17.0, 2)
    assert (out.speech_loss, out.speech_count) == (40.0, 2)
    assert (out.text_to_speech_loss, out.speech_to_text_loss, out.speech_to_text_count) == (32.0, 16.0, 1)
    assert (out.loss, out.count, out.mean) == (63.0, 6, 10.5)
