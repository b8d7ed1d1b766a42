"""A run that the tests of this directory share. Whoever changes it takes a copy."""

import shutil
from pathlib import Path

import pytest

from tests.report.synthetic import make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all kinds of stages."""
    return make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "run"))
