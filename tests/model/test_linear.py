"""The linear layers against torch's own, forward and backward, with and without oneDNN."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lst.model import linear
from lst.model.linear import FEW, Linear, outer, pack, product


@pytest.fixture(params=["onednn", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways a product can go; the first only where torch was built with it."""
    if request.param == "torch":
        monkeypatch.setattr(linear, "_onednn_does", lambda x: False)
    elif not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    return str(request.param)


@pytest.mark.parametrize("inputs", [3, 40])
@pytest.mark.parametrize("shape", [(7,), (2, 5), (1, 1)])
def test_values_and_gradients(path: str, inputs: int, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Linear(inputs, 12)
    x = torch.randn(*shape, inputs, generator=generator, requires_grad=True)
    direction = torch.randn(*shape, 12, generator=generator)
    results: list[list[Tensor]] = []
    for call in (layer, lambda values: F.linear(values, layer.weight)):
        x.grad = layer.weight.grad = None
        out = call(x)
        (out * direction).sum().backward()
        assert x.grad is not None
        assert layer.weight.grad is not None
        assert layer.weight.grad.is_contiguous()
        results.append([out.detach(), x.grad.clone(), layer.weight.grad.clone()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_views_are_taken_as_they_are(path: str) -> None:
    generator = torch.Generator().manual_seed(1)
    wide = torch.randn(20, 33, generator=generator)
    torch.testing.assert_close(product(wide[:, 3:11], wide[:6, 10:18]), wide[:, 3:11] @ wide[:6, 10:18].T)
    torch.testing.assert_close(product(wide.T, wide[:5].T.contiguous().new_ones(9, 20)), wide.T @ torch.ones(20, 9))
    torch.testing.assert_close(outer(wide[:, :4], wide), wide[:, :4].T @ wide)
    torch.testing.assert_close(outer(wide, wide[:, :4]), wide.T @ wide[:, :4])
    many = torch.randn(FEW + 1, 12, generator=generator)
    for left, right in ((many[:, :4], many), (many, many[:, :4])):
        found = outer(left, right)
        torch.testing.assert_close(found, left.T @ right, atol=1e-4, rtol=1e-5)
        assert found.is_contiguous()


def test_what_torch_does_itself() -> None:
    """Empty batches, other types, autocast."""
    layer = Linear(8, 3)
    assert layer(torch.zeros(0, 8)).shape == (0, 3)
    assert layer.double()(torch.zeros(2, 8, dtype=torch.float64)).dtype == torch.float64
    layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.zeros(2, 8)).dtype == torch.bfloat16


def test_the_fast_path_is_taken() -> None:
    """No ordinary matrix product is left when oneDNN does it."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    layer = Linear(16, 16)
    with FlopCounterMode(display=False) as counter:
        layer(torch.ones(4, 16, requires_grad=True)).sum().backward()
    assert counter.get_total_flops() == 0


def test_a_small_model_is_packed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """For many rows and for one; neither layout keeps the weight it was made of."""
    generator = torch.Generator().manual_seed(0)
    layer, large = Linear(40, 24), Linear(40, 24)
    x = torch.randn(1, 40, generator=generator)
    expected = F.linear(x, layer.weight.detach())
    pack(layer)
    monkeypatch.setattr(linear, "SMALL", 24 * 40 - 1)
    pack(large)
    if layer.packed is None or layer.packed.for_one is None:
        pytest.skip("torch was built without oneDNN or XNNPACK")
    assert large.packed is not None
    assert large.packed.for_one is None
    for first in (0, 5):
        context = layer.layout(first).for_one
        torch.testing.assert_close(torch.ops.prepacked.linear_clamp_run(x, context), expected[:, first:])
        assert context.unpack()[0].untyped_storage().size() == 0
