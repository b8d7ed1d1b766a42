"""Small vocoders: random weights, few units."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lst.manifest import sha256_file, write_json
from lst.vocoder.base import Vocoder
from lst.vocoder.loading import FILES, fingerprint_of
from lst.vocoder.ridge import RidgeConfig, RidgeVocoder, Waveform
from lst.vocoder.spectrum import Spectrum

UNITS = 12
TOKENIZER = "ab" * 32


def ridge_config(waveform: Waveform = "source-filter", tokenizer: str = TOKENIZER) -> RidgeConfig:
    return RidgeConfig(tokenizer=tokenizer, num_units=UNITS, context=3, spectrum=Spectrum(), waveform=waveform)


def ridge_weights(config: RidgeConfig) -> tuple[np.ndarray, np.ndarray]:
    """Speech-like levels: every other unit voiced, F0 around 150 Hz."""
    random = np.random.default_rng(0)
    weights = 0.1 * random.standard_normal((7, UNITS + 1, config.width))
    bias = np.zeros(config.width)
    per_unit, mels = config.spectrum.frames_per_unit, config.spectrum.frames_per_unit * config.spectrum.n_mels
    bias[:mels] = 0.0
    bias[mels : mels + per_unit] = np.log(150)
    weights[3, :, :mels] += random.standard_normal((UNITS + 1, mels))
    weights[:, :, mels:] *= 0.1
    weights[3, ::2, mels + per_unit :] = 1
    return weights.astype(np.float32), bias.astype(np.float32)


def ridge_vocoder(waveform: Waveform = "source-filter") -> RidgeVocoder:
    config = ridge_config(waveform)
    return RidgeVocoder("toy", "00", config, *ridge_weights(config))


def save_ridge(directory: Path, tokenizer: str = TOKENIZER, name: str = "toy-ridge") -> Path:
    """A vocoder directory as `lst train-vocoder` leaves it, less the manifest."""
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    config = ridge_config(tokenizer=tokenizer)
    weights, bias = ridge_weights(config)
    save_file({"weights": weights.astype(np.float16), "bias": bias}, directory / "weights.safetensors")
    write_json(directory / "config.json", config.model_dump(mode="json"))
    digests = {file: sha256_file(directory / file) for file in FILES["ridge"]}
    card = {
        "name": name,
        "kind": "vocoder",
        "version": "1",
        "licence": "none",
        "source": "test",
        "description": "toy",
        "files": {file: {"sha256": digest} for file, digest in digests.items()},
        "fingerprint": fingerprint_of("ridge", digests),
        "tokenizer": tokenizer,
    }
    write_json(directory / "card.json", card)
    return directory


def check_delay(vocoder: Vocoder, units: list[int], seconds: float) -> None:
    """With n units given, all but the last `seconds` of their sound is out."""
    given = 0

    def source() -> Iterator[int]:
        nonlocal given
        for unit in units:
            given += 1
            yield unit

    out = 0
    for piece in vocoder.stream(source()):
        out += len(piece)
        assert out >= 640 * given - seconds * 16000
    assert out == 640 * len(units)
