"""Toy data, shared by the tests of training."""

from pathlib import Path

import pytest

from lst.manifest import Manifest
from tests.train.toys import toy_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Manifest]:
    """Pairs and text."""
    return toy_data(tmp_path_factory.mktemp("toys"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """Where a run keeps its state."""
    return tmp_path / "run"
