"""Small recordings made on the spot, and a cache directory of their own for every test."""

from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LST_CACHE", str(tmp_path_factory.mktemp("cache")))


def voice(seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(n, channels) float32: a buzz with syllables, never silent for long, peaking well below full scale."""
    time = np.arange(round(seconds * rate)) / rate
    rng = np.random.default_rng(seed)
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 6) if 120 * k < rate / 2)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)
    wave = 0.15 * buzz * syllables
    return np.stack([wave + 0.01 * rng.standard_normal(len(time)) for _ in range(channels)], axis=1).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16_000, subtype: str | None = None) -> Path:
    """Write audio in the format of its extension; in blocks, for libsndfile's Vorbis encoder crashes on long ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    formats = {".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III")}
    kind, default = formats.get(path.suffix, (path.suffix[1:].upper(), None))
    samples = samples if samples.ndim == 2 else samples[:, None]
    with soundfile.SoundFile(path, "w", rate, samples.shape[1], format=kind, subtype=subtype or default) as file:
        for start in range(0, len(samples), 4096):
            file.write(samples[start : start + 4096])
    return path
