"""Data that the tests of this directory share; reading does not change it."""

import pytest
from hypothesis import settings

from lst.manifest import Manifest
from tests.data.synthetic import make_pairs

# Time limits per example would make the tests depend on the machine's load; fixed examples make them repeatable.
settings.register_profile("lst", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("lst")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Manifest]:
    """(pairs, text) of 90 utterances in 3 shards and 180 documents in 2."""
    return make_pairs(tmp_path_factory.mktemp("data"), 90)
