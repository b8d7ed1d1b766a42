from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lst.generate.session import Session, open_session
from tests.evaluate.tiny import TOKENIZER, CountingTokenizer, make_model


class Beeper:
    """A vocoder: 640 samples per unit, louder with the unit."""

    name = "beeper"
    fingerprint = "b" * 64
    sample_rate = 16_000

    def synthesize(self, units: np.ndarray) -> np.ndarray:
        return np.repeat(np.asarray(units, dtype=np.float32) / 501, 640)

    def stream(self, units: Iterable[int]) -> Iterator[np.ndarray]:
        """Two units late."""
        waiting: list[int] = []
        for unit in units:
            waiting.append(unit)
            if len(waiting) > 2:
                yield self.synthesize(np.array([waiting.pop(0)]))
        yield self.synthesize(np.array(waiting))


@pytest.fixture
def voice(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Every vocoder is a `Beeper`; gives the names that were asked for."""
    import lst.vocoder
    from lst.generate import voice as module

    asked: list[str | None] = []

    def open_vocoder(session: Session, name: str | None = None) -> Beeper:
        asked.append(name)
        return Beeper()

    monkeypatch.setattr(module, "open_vocoder", open_vocoder)
    monkeypatch.setattr(lst.vocoder, "choose_vocoder", lambda name, tokenizer, units, **_: "beeper")
    monkeypatch.setattr(lst.vocoder, "vocoder_name", lambda name: name)
    monkeypatch.setattr(lst.vocoder, "vocoder_fingerprint", lambda name: Beeper.fingerprint)
    return asked


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models' unit tokenizer is on this machine: `CountingTokenizer`."""
    import lst.assets
    import lst.units

    def find(fingerprint: str, kind: str) -> Path | None:
        return Path("counting") if (fingerprint, kind) == (TOKENIZER, "tokenizer") else None

    def load(name: Any) -> CountingTokenizer:
        return CountingTokenizer()

    monkeypatch.setattr(lst.assets, "find_by_fingerprint", find)
    monkeypatch.setattr(lst.units, "load_tokenizer", load)


@pytest.fixture(scope="session")
def asr(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_session(make_model(tmp_path_factory.mktemp("asr") / "m", task="asr").path)


@pytest.fixture(scope="session")
def tts(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_session(make_model(tmp_path_factory.mktemp("tts") / "m", task="tts").path)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_session(make_model(tmp_path_factory.mktemp("plain") / "m").path)
