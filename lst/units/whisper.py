"""Features of a Whisper encoder (Radford et al. 2022), a teacher for a HuBERT: in plain torch, every layer at hand.

Read from a CTranslate2 directory (`model.bin`), the form that packages ship: only the encoder, nothing is executed.
Whisper is trained on windows of 30 s, so short utterances are packed into such windows with pauses between them
(one window each would cost ten times as much), and its 50 Hz are averaged in pairs to the 25 Hz of the units.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lst.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from lst.errors import LstError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW_S = 30
WINDOW = WINDOW_S * SAMPLE_RATE
PAUSE = 10 * SAMPLES_PER_FRAME
"""Silence between packed utterances: 0.4 s."""

_TYPES: dict[int, Any] = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_MAX_VARIABLES = 10_000


class WhisperEncoder:
    """Features after `layer` Transformer layers, counted from 1; those of the last layer have the closing norm."""

    def __init__(self, weights: dict[str, Tensor], layer: int | None = None) -> None:
        layers = len({name.split("/")[1] for name in weights if name.startswith("encoder/layer_") and "ffn" in name})
        self.layer = layers if layer is None else layer
        if not 1 <= self.layer <= layers:
            raise LstError(f"The Whisper encoder has {layers} layers; there is no layer {self.layer}.")
        self._closing_norm = self.layer == layers
        self._weights = {name: value.float() for name, value in weights.items()}
        self.dim = int(self._weights["encoder/conv1/bias"].shape[0])
        heads = weights.get("encoder/num_heads")
        self._heads = int(heads) if heads is not None else self.dim // 64
        self._mel, self._window = (
            _mel_filters(int(self._weights["encoder/conv1/weight"].shape[1])),
            torch.hann_window(400),
        )

    def window_features(self, samples: Tensor) -> Tensor:
        """(480000,) samples at 16 kHz -> (750, dim) at 25 Hz."""
        hidden = self._log_mel(samples)[None]
        hidden = functional.gelu(functional.conv1d(hidden, *self._pair("conv1"), padding=1))
        hidden = functional.gelu(functional.conv1d(hidden, *self._pair("conv2"), padding=1, stride=2))
        hidden = hidden[0].T + self._weights["encoder/position_encodings/encodings"]
        for index in range(self.layer):
            hidden = self._block(f"layer_{index}", hidden)
        if self._closing_norm:
            hidden = self._norm("layer_norm", hidden)
        return hidden.reshape(-1, 2, self.dim).mean(dim=1)

    def packed_features(
        self, utterances: "Iterable[tuple[Any, NDArray[np.float32]]]"
    ) -> "Iterator[tuple[Any, NDArray[np.float32]]]":
        """(key, (n,) samples) of many utterances -> (key, (ceil(n / 640), dim)), in order; 30 s windows are shared.

        Utterances longer than a window are cut into windows.
        """
        waiting: list[tuple[Any, NDArray[np.float32]]] = []
        filled = 0
        for key, samples in utterances:
            length = -(-len(samples) // SAMPLES_PER_FRAME) * SAMPLES_PER_FRAME
            if waiting and filled + length > WINDOW:
                yield from self._features_of(waiting)
                waiting, filled = [], 0
            waiting.append((key, samples))
            filled += length + PAUSE
        if waiting:
            yield from self._features_of(waiting)

    def _features_of(
        self, utterances: "list[tuple[Any, NDArray[np.float32]]]"
    ) -> "Iterator[tuple[Any, NDArray[np.float32]]]":
        lengths = [-(-len(samples) // SAMPLES_PER_FRAME) for _, samples in utterances]
        starts = np.cumsum([0, *[length * SAMPLES_PER_FRAME + PAUSE for length in lengths]])
        windows = -(-(int(starts[-1]) - PAUSE) // WINDOW)
        joined = np.zeros(max(1, windows) * WINDOW, np.float32)
        for (_, samples), start in zip(utterances, starts, strict=False):
            joined[start : start + len(samples)] = samples
        with torch.inference_mode():
            parts = [self.window_features(torch.from_numpy(part)) for part in joined.reshape(-1, WINDOW)]
        features = torch.cat(parts).float().numpy()
        for (key, _), start, length in zip(utterances, starts, lengths, strict=False):
            first = int(start) // SAMPLES_PER_FRAME
            yield key, features[first : first + length]

    def _log_mel(self, samples: Tensor) -> Tensor:
        """(n,) -> (bands, n / 160), scaled as Whisper does."""
        power = torch.stft(samples, 400, 160, window=self._window, return_complex=True)[:, :-1].abs() ** 2
        mel = (self._mel.T @ power).clamp(min=1e-10).log10()
        return (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0

    def _block(self, name: str, hidden: Tensor) -> Tensor:
        attended = self._norm(f"{name}/self_attention/layer_norm", hidden)
        attended = functional.linear(attended, *self._pair(f"{name}/self_attention/linear_0"))
        heads = attended.reshape(len(hidden), 3, self._heads, -1).permute(1, 2, 0, 3)[:, None]
        attended = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])[0]
        attended = attended.permute(1, 0, 2).reshape(len(hidden), self.dim)
        hidden = hidden + functional.linear(attended, *self._pair(f"{name}/self_attention/linear_1"))
        inner = self._norm(f"{name}/ffn/layer_norm", hidden)
        inner = functional.gelu(functional.linear(inner, *self._pair(f"{name}/ffn/linear_0")))
        return hidden + functional.linear(inner, *self._pair(f"{name}/ffn/linear_1"))

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self._weights[f"encoder/{name}/weight"], self._weights[f"encoder/{name}/bias"]

    def _norm(self, name: str, hidden: Tensor) -> Tensor:
        gamma, beta = self._weights[f"encoder/{name}/gamma"], self._weights[f"encoder/{name}/beta"]
        return functional.layer_norm(hidden, (self.dim,), gamma, beta)


def model_file(path: Path) -> Path:
    """`model.bin` of a CTranslate2 directory, or the file itself."""
    return path / "model.bin" if path.is_dir() else path


def load_whisper(path: Path, layer: int | None = None) -> WhisperEncoder:
    """The encoder in a CTranslate2 directory or its `model.bin`.

    Raises LstError if it is damaged, quantized to integers, not a Whisper, or has no such layer.
    """
    file = model_file(path)
    try:
        spec, variables = _read_variables(file.read_bytes())
    except (OSError, struct.error, ValueError, KeyError) as error:
        raise LstError(f"{file} cannot be read as a CTranslate2 model ({error}).") from error
    if spec != "WhisperSpec":
        raise LstError(f"{file} holds a {spec}, not a Whisper.")
    wanted = {name: value for name, value in variables.items() if name.startswith("encoder/")}
    if any(value.dtype == np.int8 for value in wanted.values()):
        raise LstError(f"{file} is quantized to integers.", hint="Take a float16 or float32 conversion.")
    return WhisperEncoder({name: torch.from_numpy(value.copy()) for name, value in wanted.items()}, layer)


def _read_variables(content: bytes) -> tuple[str, dict[str, "NDArray[Any]"]]:
    """CTranslate2's binary form: version, name, revision, variables (name, shape, type, bytes), aliases."""
    position = 0

    def take(form: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(f"<{form}", content, position)
        position += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal position
        length = take("H")
        position += length
        return content[position - length : position - 1].decode("utf-8")

    take("I")
    spec = text()
    take("I")
    count = take("I")
    if count > _MAX_VARIABLES:
        raise ValueError(f"{count} variables")
    variables: dict[str, NDArray[Any]] = {}
    for _ in range(count):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        kind, length = _TYPES[take("B")], take("I")
        variables[name] = np.frombuffer(content[position : position + length], kind).reshape(shape)
        position += length
    for _ in range(take("I")):
        alias, name = text(), text()
        variables[alias] = variables[name]
    return spec, variables


def _mel_filters(bands: int) -> Tensor:
    """(201, bands), Slaney's scale and norm, as Whisper's."""
    from torchaudio.functional import melscale_fbanks

    filters: Tensor = melscale_fbanks(201, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return filters
