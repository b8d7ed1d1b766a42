"""The exemplar vocoder: a unit gets a mean of real frames that stood among much the same units.

    units t - context ... t + context -> a place (tables, as in the ridge vocoder: a sum of one vector for each)
                                      -> the nearest of the exemplars of unit t, by their own places
                                      -> the mean of their codes, nearer ones weighing more
                                      -> four frames of 10 ms (a linear map)

A linear map from a window of units gives the mean of all that it confuses, and such a mean is blurred. Here few real
frames are averaged, chosen by what the linear map expects of them, so it says where to look, not how it sounds.

A vocoder directory holds `config.json` (`ExemplarConfig`), `card.json`, and `weights.safetensors` with

    tables   (2 * context + 1, num_units + 1, D) float16   units to a place; the last row: "no unit here"
    codes    (N, D) int8, step (D,)                        code n is codes[n] * step
    basis    (D, 4 * (n_mels + 2)), mean                   codes to frames, laid out as in the ridge vocoder
    units    (N,) uint16                                   the units of the corpus, one utterance after another
    lengths  (utterances,) uint32                          how many of them each utterance has
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lst.errors import LstError
from lst.vocoder.base import Float, Units
from lst.vocoder.config_file import AGAIN, WEIGHTS_FILE, read_config
from lst.vocoder.ridge import add_tables, split_frames
from lst.vocoder.source_filter import Frames, SourceFilterConfig
from lst.vocoder.spectrum import Spectrum
from lst.vocoder.streaming import FramesVocoder, Waveform, windows


class ExemplarConfig(BaseModel):
    """All of `config.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["exemplar"] = "exemplar"
    version: Literal[1] = 1
    tokenizer: str = Field(description="fingerprint of the tokenizer whose units it was fitted on")
    num_units: int = Field(gt=0, lt=65_535)
    context: int = Field(
        ge=0, le=3, description="units on each side; 3 are 120 ms, and the synthesiser waits for 46 ms more"
    )
    neighbours: int = Field(ge=1, description="exemplars averaged")
    bandwidth: float = Field(gt=0, description="an exemplar this much farther than the nearest weighs 1/e of it")
    spectrum: Spectrum
    waveform: Waveform = "source-filter"
    source_filter: SourceFilterConfig = SourceFilterConfig()


@dataclass(frozen=True)
class ExemplarWeights:
    """The arrays of `weights.safetensors`; see the head of this module."""

    tables: NDArray[Any]
    basis: Float
    mean: Float
    codes: NDArray[np.int8]
    step: Float
    units: NDArray[np.uint16]
    lengths: NDArray[np.uint32]


class ExemplarVocoder(FramesVocoder):
    """Units to frames by the nearest exemplars, frames to sound by the synthesiser that `config.waveform` names."""

    def __init__(self, name: str, fingerprint: str, config: ExemplarConfig, weights: ExemplarWeights) -> None:
        _check_shapes(name, config, weights)
        self.name = name
        self.fingerprint = fingerprint
        self.tokenizer_fingerprint = config.tokenizer
        self.num_units = config.num_units
        self.config = config
        self.spectrum = config.spectrum
        self.source_filter = config.source_filter
        self.waveform = config.waveform
        self._tables = weights.tables.astype(np.float32)
        self._origin = np.zeros(weights.tables.shape[-1], np.float32)
        self._basis = weights.basis.astype(np.float32) * weights.step[:, None].astype(np.float32)
        self._mean = weights.mean.astype(np.float32)
        # Exemplars by their unit: those of unit u are first[u] ... first[u + 1].
        units = weights.units.astype(np.int64)
        order = np.argsort(units, kind="stable")
        self._first = np.searchsorted(units[order], np.arange(config.num_units + 1))
        self._codes = weights.codes[order]
        self._places = self._exemplar_places(units, weights.lengths)[order]
        self._norms = (self._places**2).sum(1)

    def predict(self, units: Iterator[int], block: int) -> Iterator[Frames]:
        """Frames of all units, made `block` units at a time; before the first unit and after the last there is none."""
        for padded in windows(units, self.config.context, self.num_units, block):
            places = add_tables(self._tables, self._origin, padded)
            middle = padded[self.config.context :][: len(places)]
            # One unit at a time: products of matrices round by their size, and a stream must equal the whole.
            codes = [self._mean_code(int(unit), place) for unit, place in zip(middle, places, strict=True)]
            yield split_frames(np.stack([self._mean + code @ self._basis for code in codes]), self.spectrum)

    def _mean_code(self, unit: int, place: Float) -> Float:
        """The weighted mean of the nearest exemplars' codes, (D,); a unit without any has those of all units."""
        some = slice(self._first[unit], self._first[unit + 1])
        if some.start == some.stop:
            some = slice(None)
        distances = self._norms[some] - 2 * (self._places[some] @ place)
        nearest: Any = slice(None)
        if len(distances) > self.config.neighbours:
            nearest = np.argpartition(distances, self.config.neighbours - 1)[: self.config.neighbours]
        kept = distances[nearest]
        weights = np.exp((kept.min() - kept) / self.config.bandwidth)
        return np.asarray((weights / weights.sum()) @ self._codes[some][nearest].astype(np.float32))

    def _exemplar_places(self, units: Units, lengths: NDArray[np.uint32]) -> Float:
        """The places of the corpus' units, each seen within its utterance: (N,) -> (N, D)."""
        context = self.config.context
        utterance = np.repeat(np.arange(len(lengths)), lengths)
        padded = np.full(len(units) + context * (len(lengths) + 1), self.num_units, np.int64)
        where = np.arange(len(units)) + context * (utterance + 1)
        padded[where] = units
        places: Float = add_tables(self._tables, self._origin, padded)[where - context]
        return places


def _check_shapes(name: str, config: ExemplarConfig, weights: ExemplarWeights) -> None:
    """Raise LstError unless the arrays fit each other and the configuration."""
    count, width = weights.codes.shape if weights.codes.ndim == 2 else (-1, -1)
    frames = config.spectrum.frames_per_unit * (config.spectrum.n_mels + 2)
    expected = {
        "tables": (2 * config.context + 1, config.num_units + 1, width),
        "basis": (width, frames),
        "mean": (frames,),
        "codes": (count, width),
        "step": (width,),
        "units": (count,),
    }
    for key, shape in expected.items():
        found = getattr(weights, key).shape
        if found != shape:
            raise LstError(f"The {key} of the vocoder {name} are {found}, but {shape} is asked for.", hint=AGAIN)
    if count < 1 or int(weights.lengths.sum()) != count or int(weights.units.max()) >= config.num_units:
        raise LstError(f"The exemplars of the vocoder {name} do not belong to their units.", hint=AGAIN)


def load_exemplar(directory: Path, name: str, fingerprint: str, waveform: Waveform | None = None) -> ExemplarVocoder:
    """The vocoder in `directory`; `waveform` replaces the synthesiser its config names. Raises LstError if damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    config = read_config(directory, ExemplarConfig)
    if waveform is not None:
        config = config.model_copy(update={"waveform": waveform})
    path = directory / WEIGHTS_FILE
    try:
        tensors = load_file(path)
        weights = ExemplarWeights(**{field.name: tensors[field.name] for field in fields(ExemplarWeights)})
    except (OSError, SafetensorError, KeyError) as error:
        raise LstError(f"{path} is missing or damaged ({error}).", hint=AGAIN) from error
    return ExemplarVocoder(name, fingerprint, config, weights)
