"""The ConvNeXt vocoder: a small convolutional network from units to spectral frames, with bounded look-ahead.

    units (25 a second) -> embedding (+ speaker) -> ConvNeXt blocks, the first of which see one unit ahead each
                        -> four frames of 10 ms per unit -> causal ConvNeXt blocks -> log-mel, log F0, voicing

A block is that of Liu et al. (2022): a depthwise convolution, a layer norm, two dense layers with GELU between, and a
scaled residual. Frames become sound by the source-filter (`lst.vocoder.source_filter`). The network keeps the recent
past of every block, so that streaming costs no more than the whole.

A vocoder directory holds `config.json` (`ConvnextConfig`), `weights.safetensors` and `card.json`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from lst.config import StageConfig
from lst.errors import LstError
from lst.model.linear import Linear
from lst.vocoder.config_file import AGAIN, CONFIG_FILE, WEIGHTS_FILE, read_config
from lst.vocoder.source_filter import Frames, SourceFilterConfig
from lst.vocoder.spectrum import Spectrum
from lst.vocoder.streaming import FramesVocoder

LEAD = 4
"""Places before the first unit and after the last that the network sees as "no unit here"; at least the look-ahead."""

C = TypeVar("C", bound=BaseModel)
N = TypeVar("N", bound=nn.Module)


class NetworkShape(StageConfig):
    """The network; the defaults have 3.4 million parameters."""

    dim: int = Field(256, ge=8, le=2048, description="width")
    hidden: int = Field(768, ge=8, le=8192, description="width between the dense layers of a block at 25 Hz")
    unit_blocks: int = Field(6, ge=1, le=32, description="blocks at 25 Hz")
    frame_blocks: int = Field(2, ge=0, le=32, description="blocks at 100 Hz, causal")
    frame_hidden: int = Field(512, ge=8, le=8192, description="width between the dense layers of a block at 100 Hz")
    kernel: int = Field(7, ge=2, le=31, description="places that a block sees")
    lookahead: int = Field(3, ge=0, le=LEAD, description="units that the network waits for: 40 ms each")


class FramesNetworkConfig(BaseModel):
    """What `config.json` says of `Network`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer: str = Field(description="fingerprint of the tokenizer whose units it was trained on")
    num_units: int = Field(gt=0, le=100_000)
    network: NetworkShape
    speakers: tuple[str, ...] = Field((), description="voices by name; the first is the default; none: one voice")
    spectrum: Spectrum
    source_filter: SourceFilterConfig = SourceFilterConfig()


class ConvnextConfig(FramesNetworkConfig):
    """All of `config.json`."""

    kind: Literal["convnext"] = "convnext"
    version: Literal[1] = 1


class Block(nn.Module):
    """A ConvNeXt block over places t - kernel + 1 + ahead ... t + ahead."""

    def __init__(self, dim: int, hidden: int, kernel: int, ahead: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.ahead = ahead
        self.before = kernel - 1 - ahead
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.widen = Linear(dim, hidden)
        self.narrow = Linear(hidden, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))
        self.dropout = nn.Dropout(dropout)

    def forward(self, padded: Tensor) -> Tensor:
        """padded: (B, before + T + ahead, dim) -> (B, T, dim)."""
        count = padded.shape[1] - self.before - self.ahead
        seen = self.depthwise(padded.transpose(1, 2)).transpose(1, 2)
        changed: Tensor = self.narrow(functional.gelu(self.widen(self.norm(seen))))
        changed = self.dropout(changed * self.scale)
        return padded[:, self.before : self.before + count] + changed

    def padded(self, hidden: Tensor) -> Tensor:
        """(B, T, dim) -> the same, with nothing before and after."""
        return cast(Tensor, self(functional.pad(hidden, (0, 0, self.before, self.ahead))))


class Network(nn.Module):
    """Units to normalised frames; `mean` and `deviation` (n_mels + 1,) say what the numbers stand for."""

    def __init__(self, config: FramesNetworkConfig, dropout: float = 0.0) -> None:
        super().__init__()
        shape, self.per_unit = config.network, config.spectrum.frames_per_unit
        width = config.spectrum.n_mels + 2
        scale = 1 / (shape.unit_blocks + shape.frame_blocks)
        self.lookahead = shape.lookahead
        self.embedding = nn.Embedding(config.num_units + 1, shape.dim)
        self.voices = nn.Embedding(len(config.speakers), shape.dim) if config.speakers else None
        self.dropout = nn.Dropout(dropout)
        # Spread over the first blocks: with one place each, every later block sees the future through a network.
        ahead = [shape.lookahead * (index + 1) // shape.unit_blocks for index in range(shape.unit_blocks)]
        steps = [now - earlier for now, earlier in zip(ahead, [0, *ahead[:-1]], strict=True)][::-1]
        self.unit_blocks = nn.ModuleList(
            Block(shape.dim, shape.hidden, max(shape.kernel, step + 1), step, scale, dropout) for step in steps
        )
        self.spread = Linear(shape.dim, self.per_unit * shape.dim)
        self.frame_blocks = nn.ModuleList(
            Block(shape.dim, shape.frame_hidden, shape.kernel, 0, scale, dropout) for _ in range(shape.frame_blocks)
        )
        self.norm = nn.LayerNorm(shape.dim)
        self.head = nn.Linear(shape.dim, width)
        self.register_buffer("mean", torch.zeros(width - 1))
        self.register_buffer("deviation", torch.ones(width - 1))
        nn.init.normal_(self.embedding.weight, std=1.0)
        if self.voices is not None:
            nn.init.normal_(self.voices.weight, std=0.1)

    def embed(self, units: Tensor, speaker: Tensor | None) -> Tensor:
        """units: (B, T) int64, num_units for "no unit"; speaker: (B,) -> (B, T, dim)."""
        embedded: Tensor = self.embedding(units)
        if self.voices is not None:
            if speaker is None:
                speaker = torch.zeros(len(units), dtype=torch.int64, device=units.device)
            embedded = embedded + self.voices(speaker)[:, None]
        return cast(Tensor, self.dropout(embedded))

    def upsample(self, hidden: Tensor) -> Tensor:
        """(B, T, dim) -> (B, 4 T, dim)."""
        batch, count, dim = hidden.shape
        return cast(Tensor, self.spread(hidden)).reshape(batch, count * self.per_unit, dim)

    def decode(self, hidden: Tensor) -> Tensor:
        """(B, K, dim) -> (B, K, n_mels + 2)."""
        return cast(Tensor, self.head(self.norm(hidden)))

    @property
    def blocks(self) -> tuple[list[Block], list[Block]]:
        """Those at 25 Hz and those at 100 Hz."""
        return [cast(Block, block) for block in self.unit_blocks], [cast(Block, block) for block in self.frame_blocks]

    def forward(self, units: Tensor, speaker: Tensor | None = None) -> Tensor:
        """units: (B, T) -> (B, 4 T, n_mels + 2): normalised log-mel and log F0, and a logit of voicing.

        The last `lookahead` units do not see what they would wait for: give that many "no unit" after them.
        """
        return self.decode(self.hidden(units, speaker))

    def hidden(self, units: Tensor, speaker: Tensor | None = None) -> Tensor:
        """units: (B, T) -> (B, 4 T, dim): what `decode` makes frames of."""
        at_units, at_frames = self.blocks
        hidden = self.embed(units, speaker)
        for block in at_units:
            hidden = block.padded(hidden)
        hidden = self.upsample(hidden)
        for block in at_frames:
            hidden = block.padded(hidden)
        return hidden


class BlockStream:
    """Blocks in use: the recent past of each is kept."""

    def __init__(self) -> None:
        self._past: dict[Block, Tensor] = {}

    def advance(self, block: Block, new: Tensor) -> Tensor:
        """(1, n, dim), the next places -> the places that they settle: n, but for the first `block.ahead`."""
        past = self._past.get(block)
        seen = torch.cat([torch.zeros(1, block.before, new.shape[2]) if past is None else past, new], 1)
        self._past[block] = seen[:, max(0, seen.shape[1] - block.before - block.ahead) :]
        if seen.shape[1] <= block.before + block.ahead:
            return new[:, :0]
        return cast(Tensor, block(seen))


class NetworkStream:
    """A network in use: `push` units as they come; the frames of a unit come with the one `lookahead` after it."""

    def __init__(self, network: Network, speaker: int | None) -> None:
        self._network = network
        self._speaker = None if speaker is None else torch.tensor([speaker])
        self._blocks = BlockStream()

    def push(self, units: list[int]) -> Tensor:
        """(n,) ids -> (4 m, n_mels + 2) as `Network.forward`; m = n but for the first `lookahead` units."""
        return self._network.decode(self.hidden(units))[0]

    def hidden(self, units: list[int]) -> Tensor:
        """(n,) ids -> (1, 4 m, dim) as `Network.hidden`."""
        at_units, at_frames = self._network.blocks
        hidden = self._network.embed(torch.tensor([units], dtype=torch.int64), self._speaker)
        for block in at_units:
            hidden = self._blocks.advance(block, hidden)
        hidden = self._network.upsample(hidden)
        for block in at_frames:
            hidden = self._blocks.advance(block, hidden)
        return hidden


class ConvnextVocoder(FramesVocoder):
    """Units to frames by the network, frames to sound by the source-filter."""

    def __init__(self, name: str, fingerprint: str, config: ConvnextConfig, network: Network, speaker: int = 0) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.tokenizer_fingerprint = config.tokenizer
        self.num_units = config.num_units
        self.config = config
        self.spectrum = config.spectrum
        self.source_filter = config.source_filter
        self.network = network.eval()
        self._speaker = speaker if config.speakers else None

    def predict(self, units: Iterator[int], block: int) -> Iterator[Frames]:
        """Frames of all units; the look-ahead is that of the network's shape (3 units: 120 ms)."""
        stream = NetworkStream(self.network, self._speaker)
        outside, ahead = [self.num_units], self.network.lookahead
        waiting = outside * LEAD
        unwanted = LEAD
        for unit in units:
            waiting.append(unit)
            if len(waiting) >= block + unwanted + ahead:
                yield self._frames(stream, waiting, unwanted)
                waiting, unwanted, ahead = [], 0, 0
        yield self._frames(stream, waiting + outside * self.network.lookahead, unwanted)

    def _frames(self, stream: NetworkStream, units: list[int], unwanted: int) -> Frames:
        """The frames that these units settle, less those of the first `unwanted` places."""
        with torch.inference_mode():
            predicted = stream.push(units)[unwanted * self.spectrum.frames_per_unit :]
            return to_frames(predicted, self.network)


def to_frames(predicted: Tensor, network: Network) -> Frames:
    """(K, n_mels + 2) as the network gives them -> frames."""
    values = (predicted[:, :-1] * network.deviation + network.mean).numpy()  # type: ignore[operator]
    voicing = torch.sigmoid(predicted[:, -1]).numpy()
    return Frames(np.ascontiguousarray(values[:, :-1]), values[:, -1].copy(), voicing)


def load_convnext(directory: Path, name: str, fingerprint: str, speaker: str = "") -> ConvnextVocoder:
    """The vocoder in `directory`, with the voice `speaker` (a name or number). Raises LstError if it is damaged."""
    config, network = load_network(directory, ConvnextConfig, Network)
    return ConvnextVocoder(name, fingerprint, config, network, voice_of(config, name, speaker))


def load_network(directory: Path, kind: type[C], build: Callable[[C], N]) -> tuple[C, N]:
    """Configuration and network of the vocoder in `directory`. Raises LstError if its files are damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(directory, kind)
    path = directory / WEIGHTS_FILE
    try:
        weights = {key: value.float() for key, value in load_file(path).items()}
        with torch.random.fork_rng(devices=[]):  # the first weights, replaced at once, are drawn at random
            network = build(config)
        network.load_state_dict(weights)
    except (OSError, SafetensorError) as error:
        raise LstError(f"{path} is missing or damaged ({error}).", hint=AGAIN) from error
    except RuntimeError as error:
        raise LstError(
            f"{path} does not have the shape that its {CONFIG_FILE} describes.",
            hint="Its files do not belong together: train or fetch it again.",
        ) from error
    return config, network


def voice_of(config: FramesNetworkConfig, name: str, speaker: str) -> int:
    """The number of the voice `speaker` (a name or number; empty: the first). Raises LstError if there is none."""
    if not speaker:
        return 0
    if not config.speakers:
        raise LstError(f"The vocoder {name} has one voice.", hint="Leave out --speaker.")
    if speaker in config.speakers:
        return config.speakers.index(speaker)
    if speaker.isdecimal() and int(speaker) < len(config.speakers):
        return int(speaker)
    raise LstError(f"The vocoder {name} has no speaker {speaker!r}.", hint=f"It has {', '.join(config.speakers)}.")
