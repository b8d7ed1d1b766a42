import pytest

from lst.manifest import Manifest
from tests.evaluate.tiny import TOKENIZER, CountingTokenizer, bench_rows, make_bench, make_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from the user's cache, nor left there."""
    monkeypatch.setenv("LST_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def counting_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name of a unit tokenizer means `CountingTokenizer`."""
    import lst.units
    from lst.evaluate import benchmark

    monkeypatch.setattr(lst.units, "load_tokenizer", lambda name: CountingTokenizer())
    monkeypatch.setattr(lst.units, "tokenizer_name", lambda name: "counting")
    monkeypatch.setattr(lst.units, "tokenizer_fingerprint", lambda name: TOKENIZER)
    benchmark._tokenizer.cache_clear()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_model(tmp_path_factory.mktemp("static") / "model")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_model(tmp_path_factory.mktemp("base") / "model", "none")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_bench(tmp_path_factory.mktemp("bench") / "bench", bench_rows(12))
