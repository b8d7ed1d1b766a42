"""The ridge vocoder: spectral frames as a linear function of a window of units, made audible by a synthesiser.

The frames of unit t (log-mel, log F0, voicing; four of each at a hop of 10 ms) are a constant plus one learned vector
for each of the units t - context ... t + context, by its place. So a unit needs `context` units of look-ahead (3:
120 ms) and a few additions.

A vocoder directory holds `config.json` (`RidgeConfig`), `weights.safetensors` (`weights`: (2 * context + 1,
num_units + 1, D), the last row for "no unit here"; `bias`: (D,)), and `card.json`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lst.errors import LstError
from lst.vocoder.base import Float, Units
from lst.vocoder.config_file import AGAIN, CONFIG_FILE, WEIGHTS_FILE, read_config
from lst.vocoder.source_filter import Frames, SourceFilterConfig
from lst.vocoder.spectrum import Spectrum
from lst.vocoder.streaming import FramesVocoder, Waveform, windows


class RidgeConfig(BaseModel):
    """All of `config.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["ridge"] = "ridge"
    version: Literal[1] = 1
    tokenizer: str = Field(description="fingerprint of the tokenizer whose units it was fitted on")
    num_units: int = Field(gt=0)
    context: int = Field(
        ge=0, le=5, description="units on each side; 5 are the 200 ms of look-ahead that streams may have"
    )
    spectrum: Spectrum
    waveform: Waveform = "source-filter"
    source_filter: SourceFilterConfig = SourceFilterConfig()

    @property
    def width(self) -> int:
        """Numbers predicted per unit: log-mel, log F0 and voicing of each of its frames."""
        return self.spectrum.frames_per_unit * (self.spectrum.n_mels + 2)


class RidgeVocoder(FramesVocoder):
    """Units to frames by `weights`, frames to sound by the synthesiser that `config.waveform` names."""

    def __init__(self, name: str, fingerprint: str, config: RidgeConfig, weights: Float, bias: Float) -> None:
        expected = (2 * config.context + 1, config.num_units + 1, config.width)
        if weights.shape != expected or bias.shape != expected[2:]:
            raise LstError(
                f"The weights of the vocoder {name} are {weights.shape} and {bias.shape}, but its {CONFIG_FILE} "
                f"asks for {expected} and {expected[2:]}.",
                hint="Its files do not belong together: fit or fetch it again.",
            )
        self.name = name
        self.fingerprint = fingerprint
        self.tokenizer_fingerprint = config.tokenizer
        self.num_units = config.num_units
        self.config = config
        self.spectrum = config.spectrum
        self.source_filter = config.source_filter
        self.waveform = config.waveform
        self._weights = weights.astype(np.float32)
        self._bias = bias.astype(np.float32)

    def predict(self, units: Iterator[int], block: int) -> Iterator[Frames]:
        """Frames of all units, made `block` units at a time; before the first unit and after the last there is none."""
        for padded in windows(units, self.config.context, self.num_units, block):
            yield split_frames(add_tables(self._weights, self._bias, padded), self.spectrum)


def add_tables(tables: Float, bias: Float, padded: Units) -> Float:
    """`bias` (D,) plus a vector of `tables` (places, num_units + 1, D) for each place of a window.

    padded: (T + places - 1,) ids -> (T, D).
    """
    count = len(padded) - len(tables) + 1
    total = np.tile(bias, (count, 1))
    for place, table in enumerate(tables):
        total += table[padded[place : place + count]]
    return total


def split_frames(values: Float, spectrum: Spectrum) -> Frames:
    """(T, width) per unit -> frames; the layout of a row is all log-mels, then log F0, then voicing."""
    per_unit = spectrum.frames_per_unit
    mels = per_unit * spectrum.n_mels
    return Frames(
        values[:, :mels].reshape(-1, spectrum.n_mels),
        values[:, mels : mels + per_unit].reshape(-1),
        values[:, mels + per_unit :].reshape(-1),
    )


def join_frames(frames: Frames, spectrum: Spectrum) -> Float:
    """The inverse of `split_frames`: frames of T units -> (T, width)."""
    units = len(frames) // spectrum.frames_per_unit
    parts = (frames.log_mel, frames.log_f0, frames.voicing)
    return np.concatenate([part.reshape(units, -1) for part in parts], axis=1)


def load_ridge(directory: Path, name: str, fingerprint: str, waveform: Waveform | None = None) -> RidgeVocoder:
    """The vocoder in `directory`; `waveform` replaces the synthesiser its config names. Raises LstError if damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    config = read_config(directory, RidgeConfig)
    if waveform is not None:
        config = config.model_copy(update={"waveform": waveform})
    path = directory / WEIGHTS_FILE
    try:
        tensors = load_file(path)
        return RidgeVocoder(name, fingerprint, config, tensors["weights"], tensors["bias"])
    except (OSError, SafetensorError, KeyError) as error:
        raise LstError(f"{path} is missing or damaged ({error}).", hint=AGAIN) from error
