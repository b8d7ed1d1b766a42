"""Weights & Biases, where it is installed: the real client, offline."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from lst.errors import LstError
from lst.train.metrics import COUNTS, TALLY, RunRecorder


def values(step: int) -> dict[str, Any]:
    totals = dict.fromkeys(COUNTS, 0.0) | {"loss": 5.0 * step, "targets": float(step)}
    tally = torch.tensor([totals[name] for name in COUNTS], dtype=torch.float64)
    return {TALLY: tally, "lr": 1e-3, "grad_norm": torch.tensor(1.0), "lapse_time": 1.0}


def test_it_must_be_there_if_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    RunRecorder(tmp_path, 1, torch.device("cpu"))
    with pytest.raises(LstError, match=r"is not installed.*lst\[wandb\]"):
        RunRecorder(tmp_path, 1, torch.device("cpu"), wandb_project="toy")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed (extra: wandb)")
def test_a_run_is_logged_and_goes_on_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    names = []
    for steps in ((1, 2), (3,)):
        recorder = RunRecorder(tmp_path, 1, torch.device("cpu"), wandb_project="toy")
        for step in steps:
            recorder.record_metric_values("train", values(step), step)
        assert wandb.run is not None
        assert wandb.run.step == steps[-1]
        names.append(wandb.run.id)
        recorder.close()
    assert len(set(names)) == 1
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
