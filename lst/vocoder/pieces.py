"""Training the network from units to frames, for the kinds convnext and gan: pieces, losses, what is measured."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lst.assets import find_by_fingerprint, tokenizer_label
from lst.constants import FRAME_RATE, SAMPLES_PER_FRAME
from lst.errors import LstError
from lst.manifest import DirectoryResult, Manifest, Rejection, is_held_out, write_atomic, write_json
from lst.train.config import OptimizerConfig
from lst.train.loop import LoopConfig, artifacts_of
from lst.units.loading import TokenizerIdentity, identify_tokenizer
from lst.vocoder.config_file import CONFIG_FILE, WEIGHTS_FILE
from lst.vocoder.convnext import LEAD, FramesNetworkConfig, Network, NetworkShape, to_frames
from lst.vocoder.convnext_corpus import Corpus
from lst.vocoder.fitting import FitErrors
from lst.vocoder.listening import Listener
from lst.vocoder.loading import FILES
from lst.vocoder.source_filter import Frames
from lst.vocoder.train import vocoder_card

MEASURED = 100
"""Held-out utterances at most that a validation looks at."""


class TrainNetworkConfig(LoopConfig):
    """How a network from units to frames is trained: what the kinds convnext and gan have in common."""

    optimizer: OptimizerConfig = Field(
        OptimizerConfig(lr=1e-3, weight_decay=0.05, warmup_steps=50),
        description="AdamW and its schedule",
    )
    network: NetworkShape = Field(NetworkShape(), description="its shape")
    num_units: int = Field(501, ge=2, le=100_000, description="ids of the tokenizer: 0 to num_units - 1")
    speakers: bool = Field(False, description="learn a voice for each speaker; else one for all")
    batch: int = Field(16, ge=1, description="pieces per step")
    piece_units: int = Field(64, ge=8, description="length of a piece in units of 40 ms")
    hidden_units: float = Field(0.05, ge=0, lt=1, description="share of the units that are hidden from the network")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the embedding and of every block")
    held_out: float = Field(0.05, gt=0, lt=0.5, description="share of utterances that choose the weights to keep")
    listening: float = Field(
        0.0, ge=0, description="weight of what the network of a tokenizer hears differ; 0: only frames are compared"
    )
    listener: str = Field("", description="that tokenizer, a name or directory; empty: the asset that made the units")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of matrix products; bfloat16 doubles the speed where the processor has it"
    )
    name: str = Field("", description="what the vocoder calls itself; default: its kind")
    licence: str = Field("", description="licence on its card; default: those of the audio")


def listener_of(units: Manifest, config: TrainNetworkConfig) -> TokenizerIdentity | None:
    """The tokenizer whose network listens; None if none does."""
    if not config.listening:
        return None
    name: str | Path | None = config.listener or find_by_fingerprint(units.fingerprints["tokenizer"], "tokenizer")
    if name is None:
        raise LstError(
            f"No asset is the tokenizer of {units.path} ({tokenizer_label(units.fingerprints['tokenizer'], units)}).",
            hint="Give its directory as `listener`, or set listening=0.",
        )
    return identify_tokenizer(name)


def split_corpus(corpus: Corpus, held_out: float, source: str) -> tuple[list[int], list[int]]:
    """Utterances to train on and, at most `MEASURED`, to measure by. Raises LstError if either would be empty."""
    held = [index for index, row_id in enumerate(corpus.ids) if is_held_out(row_id, held_out)][:MEASURED]
    train = [index for index, row_id in enumerate(corpus.ids) if not is_held_out(row_id, held_out)]
    if not train or not held:
        raise LstError(
            f"{source} has too few utterances to hold some out ({len(corpus)}).", hint="Give more, or cut them."
        )
    return train, held


class Pieces:
    """Batches of pieces cut from the training part, and the losses on them."""

    def __init__(
        self,
        corpus: Corpus,
        train: list[int],
        config: TrainNetworkConfig,
        network: Network,
        listener: Listener | None = None,
    ) -> None:
        self._listener = listener
        self.corpus = corpus
        self._config = config
        self._network = network
        self._per_unit = network.per_unit
        lengths = np.array([corpus.length(index) for index in train])
        self._train = np.array(train)
        self._ends = np.cumsum(lengths)
        names = sorted(set(corpus.speakers))
        self._voice = np.array([names.index(speaker) for speaker in corpus.speakers]) if config.speakers else None

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Pieces drawn so that every unit of the training part is as likely as any other."""
        config, count = self._config, self._config.batch
        width = self.corpus.frames.shape[1]
        units = np.full((count, config.piece_units), config.num_units, np.int64)
        frames = np.zeros((count, config.piece_units * self._per_unit, width), np.float32)
        known = np.zeros((count, config.piece_units), bool)
        samples = np.zeros((count, config.piece_units * SAMPLES_PER_FRAME), np.int16)
        chosen = torch.randint(int(self._ends[-1]), (count,), generator=generator).numpy()
        places = torch.rand(count, generator=generator).numpy()
        utterances = self._train[np.searchsorted(self._ends, chosen, side="right")]
        for row, (utterance, where) in enumerate(zip(utterances, places, strict=True)):
            row_units, row_frames = self.corpus.utterance(int(utterance), self._per_unit)
            # Places -LEAD ... T + LEAD of the utterance, "no unit" where there is none: as when it is spoken.
            free = max(0, len(row_units) + 2 * LEAD - config.piece_units)
            first = int(where * (free + 1)) - LEAD
            low, high = max(0, first), min(len(row_units), first + config.piece_units)
            units[row, low - first : high - first] = row_units[low:high]
            known[row, low - first : high - first] = True
            part = slice(low * self._per_unit, high * self._per_unit)
            frames[row, (low - first) * self._per_unit : (high - first) * self._per_unit] = stacked(row_frames[part])
            if self.corpus.samples is not None:
                start = int(self.corpus.starts[utterance]) + low
                place = slice((low - first) * SAMPLES_PER_FRAME, (high - first) * SAMPLES_PER_FRAME)
                samples[row, place] = self.corpus.samples[start * SAMPLES_PER_FRAME :][: place.stop - place.start]
        if self._network.lookahead:
            known[:, -self._network.lookahead :] = False  # what they wait for is cut off
        hidden = torch.rand(units.shape, generator=generator).numpy() < config.hidden_units
        units[hidden] = config.num_units
        voice = np.zeros(count, np.int64) if self._voice is None else self._voice[utterances]
        heard = {} if self.corpus.samples is None else {"samples": torch.from_numpy(samples)}
        return {
            **heard,
            "units": torch.from_numpy(units),
            "frames": torch.from_numpy(frames),
            "known": torch.from_numpy(np.repeat(known, self._per_unit, axis=1)),
            "voice": torch.from_numpy(voice),
        }

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`loss`, `mel` and `f0` in standard deviations, `voicing` in nats: means over the frames that count.

        With a listener also `heard`, see `Listener.difference`.
        """
        device = self._network.head.weight.device
        there = {name: value.to(device) for name, value in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=self._config.precision == "bfloat16"):
            predicted = self._network(there["units"], there["voice"])
            return self.compare(predicted.float(), there["frames"], there["known"])

    def compare(self, predicted: Tensor, frames: Tensor, known: Tensor) -> dict[str, Tensor]:
        """The losses of what the network says (B, K, n_mels + 2) of these frames, where they are `known` (B, K)."""
        losses = frame_losses(self._network, predicted, frames, known)
        if self._listener is None:
            return losses
        mel = predicted[..., :-2] * self._network.deviation[:-1] + self._network.mean[:-1]  # type: ignore[index]
        heard = self._listener.difference(mel, frames[..., :-2], known)
        return {**losses, "loss": losses["loss"] + self._config.listening * heard, "heard": heard.detach()}


def frame_losses(network: Network, predicted: Tensor, frames: Tensor, known: Tensor) -> dict[str, Tensor]:
    """predicted: (B, K, n_mels + 2) of the network; frames: the same as measured; known: (B, K) what counts."""
    weight = known.float()
    target = (frames[..., :-1] - network.mean) / network.deviation  # type: ignore[operator]
    voiced = frames[..., -1] * weight
    mel = ((predicted[..., :-2] - target[..., :-1]).abs().mean(-1) * weight).sum() / weight.sum().clamp_min(1)
    f0 = ((predicted[..., -2] - target[..., -1]).abs() * voiced).sum() / voiced.sum().clamp_min(1)
    voicing = functional.binary_cross_entropy_with_logits(predicted[..., -1], frames[..., -1], reduction="none")
    voicing = (voicing * weight).sum() / weight.sum().clamp_min(1)
    return {
        "loss": mel + 0.2 * f0 + 0.2 * voicing,
        "mel": mel.detach(),
        "f0": f0.detach(),
        "voicing": voicing.detach(),
    }


def stacked(frames: Frames) -> NDArray[np.float32]:
    """Log-mel, log F0 and voicing side by side: (K, n_mels + 2)."""
    values = np.concatenate([frames.log_mel, frames.log_f0[:, None], frames.voicing[:, None]], axis=1)
    return values.astype(np.float32, copy=False)


def means(parts: Iterable[tuple[Mapping[str, Tensor], int]]) -> dict[str, float]:
    """Of losses by name and the number of frames that each is over."""
    sums: dict[str, float] = {}
    total = 0
    for losses, count in parts:
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value) * count
        total += count
    return {name: value / total for name, value in sums.items()}


def normalise(network: Network, corpus: Corpus, train: list[int]) -> None:
    """Sets the network's mean and deviation of every band, and of log F0 where voiced, over the training part."""
    per_unit = network.per_unit
    total = np.zeros((3, corpus.frames.shape[1] - 1))
    for index in train:
        _, frames = corpus.utterance(index, per_unit)
        values = np.concatenate([frames.log_mel, frames.log_f0[:, None]], axis=1).astype(np.float64)
        weight = np.ones_like(values)
        weight[:, -1] = frames.voicing
        total += np.stack([(values * weight).sum(0), (values**2 * weight).sum(0), weight.sum(0)])
    count = np.maximum(total[2], 1)
    mean = total[0] / count
    deviation = np.sqrt(np.maximum(total[1] / count - mean**2, 1e-2))
    network.mean.copy_(torch.from_numpy(mean))  # type: ignore[operator]
    network.deviation.copy_(torch.from_numpy(deviation))  # type: ignore[operator]


def whole(network: Network, corpus: Corpus, index: int) -> tuple[Tensor, Frames]:
    """What the network says of a whole utterance, (K, n_mels + 2), and its true frames."""
    hidden, frames = hidden_whole(network, corpus, index)
    return network.decode(hidden), frames


def hidden_whole(network: Network, corpus: Corpus, index: int) -> tuple[Tensor, Frames]:
    """What the network makes frames of, of a whole utterance, (K, dim), and its true frames."""
    units, frames = corpus.utterance(index, network.per_unit)
    outside = np.full(LEAD, network.embedding.num_embeddings - 1, np.int64)
    device = network.head.weight.device
    padded = torch.from_numpy(np.concatenate([outside, units, outside]))[None].to(device)
    voice = None
    if network.voices is not None:
        voice = torch.tensor([sorted(set(corpus.speakers)).index(corpus.speakers[index])], device=device)
    hidden = network.hidden(padded, voice)[0]
    return hidden[LEAD * network.per_unit : -LEAD * network.per_unit], frames


@torch.inference_mode()
def measure(network: Network, corpus: Corpus, held: list[int]) -> FitErrors:
    """How far the predicted frames of these utterances are from the true ones."""
    errors = FitErrors()
    for index in held:
        predicted, frames = whole(network, corpus, index)
        errors.add(to_frames(predicted, network), frames)
    return errors


def save_network(directory: Path, vocoder: FramesNetworkConfig, network: nn.Module) -> None:
    """Write the weights and `config.json`."""
    from safetensors.torch import save

    # Half precision halves the size; what it rounds is far below the network's own errors.
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    write_atomic(directory / WEIGHTS_FILE, save(tensors))
    write_json(directory / CONFIG_FILE, vocoder.model_dump(mode="json"))


def save_vocoder(
    directory: Path,
    config: TrainNetworkConfig,
    vocoder: FramesNetworkConfig,
    network: nn.Module,
    units: Manifest,
    corpus: Corpus,
    errors: FitErrors,
    rejected: list[Rejection],
    *,
    kind: str,
    does: str,
    named: Mapping[str, str],
    facts: Mapping[str, object] | None = None,
) -> DirectoryResult:
    """Write a trained network and its card. `named`: settings by what they are called; `does` ends the description."""
    save_network(directory, vocoder, network)
    seconds = len(corpus.units) / FRAME_RATE
    parameters = sum(value.numel() for value in network.parameters())
    card = vocoder_card(
        directory,
        kind=kind,
        name=config.name,
        licence=config.licence,
        tokenizer=vocoder.tokenizer,
        provenance=units.provenance,
        description=(
            f"Units to 16 kHz speech: ConvNeXt ({parameters / 1e6:.1f} M parameters, {vocoder.network.lookahead} units "
            f"of look-ahead) {does}"
        ),
    )
    card |= {
        "hours": round(seconds / 3600, 3),
        "steps": config.steps,
        **(facts or {}),
        "parameters": parameters,
        "settings": {**config.as_json(), **named, "spectrum": asdict(vocoder.spectrum)},
        "numbers": {"held_out_frames": errors.frames, **errors.numbers()},
    }
    write_json(directory / "card.json", card)
    return DirectoryResult(
        artifacts=["card.json", *FILES[kind], *artifacts_of(directory)],
        totals={"hours": seconds / 3600, "units": len(corpus.units), "parameters": parameters, **errors.numbers()},
        rejected=rejected,
        fingerprints={"vocoder": card["fingerprint"]},
    )
