"""FSDP2 in bfloat16: what layers are given keeps the precision it needs."""

import pytest
import torch
import torch.distributed as dist

from lst.data.batch import pack_examples
from lst.model.kernels import rotate
from tests.model.support import VOCABULARY, tiny_model
from tests.model.test_training import rows


def test_angles_stay_in_float32_under_fsdp(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from lst.model import blocks

    angles: set[torch.dtype] = set()
    states: set[torch.dtype] = set()

    def watched(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int | None = None) -> torch.Tensor:
        angles.update({cos.dtype, sin.dtype})
        states.add(x.dtype)
        return rotate(x, cos, sin, heads)

    monkeypatch.setattr(blocks, "rotate", watched)
    model = tiny_model("static")
    batch = pack_examples(rows("static"), VOCABULARY)
    exact = model.loss(batch).mean.item()
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        for stack in (model.global_transformer.layers, model.encoder.layers, model.decoder.layers):  # type: ignore[union-attr]
            for layer in stack:
                fully_shard(layer, mp_policy=policy)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.loss(batch)
            found.loss.backward()
    finally:
        dist.destroy_process_group()
    assert torch.bfloat16 in states
    assert angles == {torch.float32}
    assert found.mean.item() == pytest.approx(exact, rel=0.03)
