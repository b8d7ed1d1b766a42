"""What runs on a GPU is what runs on a CPU. Skipped, visibly, where there is none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lst.data.batch import pack_examples
from lst.generate.decoding import generate
from lst.generate.sampling import GenerateConfig
from lst.generate.session import open_session
from lst.manifest import Manifest
from lst.train.engine import train
from tests.evaluate.tiny import make_model
from tests.model.support import VOCABULARY, tiny_model
from tests.model.test_training import rows
from tests.train.conftest import data as data
from tests.train.test_engine import STEPS, job, metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def exact() -> Iterator[None]:
    """Products in float32; a training before may have allowed TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("mode", ["none", "static", "aligned"])
@pytest.mark.parametrize("changes", [{}, {"text_local": False, "queries_per_patch": 2}], ids=["default", "units"])
def test_losses_and_gradients_are_those_of_a_cpu(mode: str, changes: dict[str, Any], exact: None) -> None:
    batch = pack_examples(rows(mode), VOCABULARY)
    found = []
    for device in ("cpu", "cuda"):
        model = tiny_model(mode, **changes).to(device)
        out = model.loss(batch.to(device))
        gradients = torch.autograd.grad(out.loss, list(model.parameters()))
        assert out.loss.device.type == device
        found.append((out.loss.detach().cpu(), [gradient.cpu() for gradient in gradients]))
    (loss, on_cpu), (loss_on_gpu, on_gpu) = found
    torch.testing.assert_close(loss_on_gpu, loss, rtol=1e-4, atol=1e-4)
    for one, other in zip(on_cpu, on_gpu, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", ["static", "none"])
def test_it_writes_what_a_cpu_writes(mode: str, tmp_path: Path, exact: None) -> None:
    """Greedily, prompts of different lengths at once, with caches."""
    path = make_model(tmp_path / "m", mode).path
    config = GenerateConfig(greedy=True, modality="any", max_tokens=40, min_tokens=40)
    made = []
    for device in ("cpu", "cuda"):
        session = open_session(path, device=device)
        assert next(session.model.parameters()).device.type == device
        drawn = [session.encode_units(np.random.default_rng(n).integers(0, 501, n)) for n in (3, 9)]
        prompts = [np.concatenate(([session.vocabulary.speech_marker], some)).astype(np.int32) for some in drawn]
        made.append([one.tokens.tolist() for one in generate(session, prompts, "speech", config)])
    assert made[0] == made[1]


def test_a_run_stopped_on_a_gpu_goes_on_there_and_on_a_cpu(
    data: tuple[Manifest, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    for stop_at in (8, 16):
        _stopped(data, directory, stop_at)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = train(job(data, directory))
    assert next(result.model.parameters()).device.type == "cpu"
    losses = {line["step"]: line["loss"] for line in metrics(directory) if line["split"] == "train"}
    assert max(losses) == STEPS
    assert losses[STEPS] < 0.8 * losses[min(losses)]
    log = (directory / "train.log").read_text(encoding="utf-8")
    assert log.index("CUDA") < log.rindex("CPU")


def _stopped(data: tuple[Manifest, Manifest], directory: Path, step: int) -> None:
    class Stop(Exception):
        pass

    def report(done: int, total: int, unit: str) -> None:
        if done >= step:
            raise Stop

    with pytest.raises(Stop):
        train(job(data, directory, progress=report))
