"""The stage `train-vocoder` for the kind `convnext`: units and their audio -> a vocoder directory, by gradient descent.

1. Every recording is analysed once (`lst.vocoder.recordings`); units and frames lie in two files beside the
   checkpoints and are mapped, so the memory does not grow with the corpus.
2. Steps on pieces cut at random from the training part: mean absolute error of log-mel and of log F0 where voiced,
   cross-entropy of voicing. Some units are hidden, since a small corpus is learnt by heart otherwise.
3. The weights that predict the held-out part best are kept.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lst.constants import FRAME_RATE
from lst.errors import LstError
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    Rejection,
    StageSpec,
    build_directory,
    is_held_out,
    merge_provenance,
    write_atomic,
    write_json,
)
from lst.train.config import OptimizerConfig
from lst.train.loop import LoopConfig, LoopJob, artifacts_of, build_seeded, train_loop
from lst.vocoder.base import Units
from lst.vocoder.config_file import CONFIG_FILE, WEIGHTS_FILE
from lst.vocoder.convnext import LEAD, ConvnextConfig, Network, NetworkShape, to_frames
from lst.vocoder.fitting import FitErrors
from lst.vocoder.loading import FILES
from lst.vocoder.recordings import analysed_utterances
from lst.vocoder.source_filter import Frames
from lst.vocoder.spectrum import Spectrum
from lst.vocoder.train import SCHEMA, check_amount, vocoder_card

VERSION = 1
MEASURED = 100
"""Held-out utterances at most that a validation looks at."""


class TrainConvnextConfig(LoopConfig):
    """How a ConvNeXt vocoder is trained."""

    kind: Literal["convnext"] = "convnext"
    steps: int = Field(3000, ge=1, description="optimiser steps")
    optimizer: OptimizerConfig = Field(
        OptimizerConfig(lr=1e-3, weight_decay=0.05, warmup_steps=50),  # type: ignore[call-arg]
        description="AdamW and its schedule",
    )
    network: NetworkShape = Field(NetworkShape(), description="its shape")  # type: ignore[call-arg]
    num_units: int = Field(501, ge=2, le=100_000, description="ids of the tokenizer: 0 to num_units - 1")
    speakers: bool = Field(False, description="learn a voice for each speaker; else one for all")
    batch: int = Field(16, ge=1, description="pieces per step")
    piece_units: int = Field(64, ge=8, description="length of a piece in units of 40 ms")
    hidden_units: float = Field(0.05, ge=0, lt=1, description="share of the units that are hidden from the network")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the embedding and of every block")
    held_out: float = Field(0.05, gt=0, lt=0.5, description="share of utterances that choose the weights to keep")
    name: str = Field("", description="what the vocoder calls itself; default: its kind")
    licence: str = Field("", description="licence on its card; default: those of the audio")


def train_convnext_spec(units: Manifest, audio: Manifest, config: TrainConvnextConfig) -> StageSpec:
    """What `train_convnext` would make."""
    return StageSpec(
        schema=SCHEMA,
        stage="train-vocoder",
        version=VERSION,
        config=config.as_json(),
        inputs={"units": units, "audio": audio},
        fingerprints={"tokenizer": units.fingerprints["tokenizer"]},
        provenance=merge_provenance(units.provenance, audio.provenance),
    )


def train_convnext(
    units: Manifest,
    audio: Manifest,
    out: Path,
    config: TrainConvnextConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Train a vocoder on the units of `units` and the recordings of `audio`; `out` is then usable as `--vocoder`.

    A run that was stopped or killed goes on from its last checkpoint. `workers` is ignored: training uses torch's
    threads. Raises TrainingStopped after a stop signal, and LstError for too little speech, units beyond the
    vocabulary, or as `train_loop`.
    """

    def make(directory: Path) -> DirectoryResult:
        return _train(directory, units, audio, config, progress or (lambda *_: None), device)

    return build_directory(out, train_convnext_spec(units, audio, config), make, force=force)


@dataclass(frozen=True)
class Corpus:
    """Units (N,) and frames (4 N, n_mels + 2) of all utterances, mapped from disk, and where each begins."""

    ids: list[str]
    speakers: list[str]
    starts: NDArray[np.int64]
    units: NDArray[np.int64]
    frames: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.ids)

    def length(self, index: int) -> int:
        """Units of an utterance."""
        return int(self.starts[index + 1] - self.starts[index])

    def utterance(self, index: int, per_unit: int) -> tuple[Units, Frames]:
        """The units and frames of one utterance."""
        start, end = int(self.starts[index]), int(self.starts[index + 1])
        values = np.asarray(self.frames[start * per_unit : end * per_unit], np.float32)
        return np.asarray(self.units[start:end]), Frames(values[:, :-2], values[:, -2], values[:, -1])


def analyse_corpus(
    directory: Path, units: Manifest, audio: Manifest, config: TrainConvnextConfig, progress: Progress
) -> tuple[Corpus, list[Rejection]]:
    """Analyse every recording into `directory`; those of an earlier attempt are there already.

    `index.jsonl` has a line for each utterance, written when its units and frames are in the two other files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    index_file, units_file, frames_file = (directory / name for name in ("index.jsonl", "units.i64", "frames.f16"))
    per_unit, width = Spectrum().frames_per_unit, Spectrum().n_mels + 2
    lines = _complete_lines(index_file)
    done = sum(line["units"] for line in lines)
    rejected: list[Rejection] = []
    with index_file.open("ab") as index, units_file.open("ab") as of_units, frames_file.open("ab") as of_frames:
        index.truncate(sum(len(_line(line)) for line in lines))
        of_units.truncate(done * 8)
        of_frames.truncate(done * per_unit * width * 2)
        known = {line["id"] for line in lines}
        name = config.name or config.kind
        for row_id, speaker, row_units, frames in analysed_utterances(
            units, audio, config.num_units, name, rejected, progress, known=known
        ):
            values = np.concatenate([frames.log_mel, frames.log_f0[:, None], frames.voicing[:, None]], axis=1)
            of_units.write(row_units.tobytes())
            of_frames.write(values.astype(np.float16).tobytes())
            of_units.flush()
            of_frames.flush()
            lines.append({"id": row_id, "speaker": speaker, "units": len(row_units)})
            index.write(_line(lines[-1]))
            index.flush()
    seconds = sum(line["units"] for line in lines) / FRAME_RATE
    check_amount(units, seconds)
    corpus = Corpus(
        [line["id"] for line in lines],
        [line["speaker"] for line in lines],
        np.cumsum([0, *(line["units"] for line in lines)]),
        np.memmap(units_file, np.int64, "r"),
        np.memmap(frames_file, np.float16, "r").reshape(-1, width),
    )
    return corpus, rejected


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of an index; the last one may have been cut short by a kill."""
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


class Pieces:
    """Batches of pieces cut from the training part, and the losses on them."""

    def __init__(self, corpus: Corpus, train: list[int], config: TrainConvnextConfig, network: Network) -> None:
        self._corpus = corpus
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
        width = self._corpus.frames.shape[1]
        units = np.full((count, config.piece_units), config.num_units, np.int64)
        frames = np.zeros((count, config.piece_units * self._per_unit, width), np.float32)
        known = np.zeros((count, config.piece_units), bool)
        chosen = torch.randint(int(self._ends[-1]), (count,), generator=generator).numpy()
        places = torch.rand(count, generator=generator).numpy()
        utterances = self._train[np.searchsorted(self._ends, chosen, side="right")]
        for row, (utterance, place) in enumerate(zip(utterances, places, strict=True)):
            row_units, row_frames = self._corpus.utterance(int(utterance), self._per_unit)
            # Places -LEAD ... T + LEAD of the utterance, "no unit" where there is none: as when it is spoken.
            free = max(0, len(row_units) + 2 * LEAD - config.piece_units)
            first = int(place * (free + 1)) - LEAD
            low, high = max(0, first), min(len(row_units), first + config.piece_units)
            units[row, low - first : high - first] = row_units[low:high]
            known[row, low - first : high - first] = True
            part = slice(low * self._per_unit, high * self._per_unit)
            values = np.concatenate(
                [row_frames.log_mel[part], row_frames.log_f0[part, None], row_frames.voicing[part, None]], axis=1
            )
            frames[row, (low - first) * self._per_unit : (high - first) * self._per_unit] = values
        if self._network.lookahead:
            known[:, -self._network.lookahead :] = False  # what they wait for is cut off
        hidden = torch.rand(units.shape, generator=generator).numpy() < config.hidden_units
        units[hidden] = config.num_units
        voice = np.zeros(count, np.int64) if self._voice is None else self._voice[utterances]
        return {
            "units": torch.from_numpy(units),
            "frames": torch.from_numpy(frames),
            "known": torch.from_numpy(np.repeat(known, self._per_unit, axis=1)),
            "voice": torch.from_numpy(voice),
        }

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`loss`, `mel` and `f0` in standard deviations, `voicing` in nats: means over the frames that count."""
        device = self._network.head.weight.device
        there = {name: value.to(device) for name, value in batch.items()}
        predicted = self._network(there["units"], there["voice"])
        return frame_losses(self._network, predicted, there["frames"], there["known"])


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


def _train(
    directory: Path, units: Manifest, audio: Manifest, config: TrainConvnextConfig, progress: Progress, device: str
) -> DirectoryResult:
    corpus, rejected = analyse_corpus(directory / "analysed", units, audio, config, progress)
    held = [index for index, row_id in enumerate(corpus.ids) if is_held_out(row_id, config.held_out)][:MEASURED]
    train = [index for index, row_id in enumerate(corpus.ids) if not is_held_out(row_id, config.held_out)]
    if not train or not held:
        raise LstError(
            f"{units.path} has too few utterances to hold some out ({len(corpus)}).", hint="Give more, or cut them."
        )
    vocoder = ConvnextConfig(
        tokenizer=units.fingerprints["tokenizer"],
        num_units=config.num_units,
        network=config.network,
        speakers=tuple(sorted(set(corpus.speakers))) if config.speakers else (),
        spectrum=Spectrum(),
    )
    network = build_seeded(config.seed, lambda: Network(vocoder, config.dropout))
    assert isinstance(network, Network)
    _normalise(network, corpus, train)
    pieces = Pieces(corpus, train, config, network)
    lines = train_loop(
        LoopJob(
            directory,
            config,
            network,
            pieces.batch,
            pieces.losses,
            lambda: _validate(network, corpus, held),
            device=device,
            progress=progress,
        )
    )
    errors = _measure(network, corpus, held)
    _save(directory, vocoder, network)
    seconds = len(corpus.units) / FRAME_RATE
    parameters = sum(value.numel() for value in network.parameters())
    best = min((line for line in lines if line["split"] == "valid"), key=lambda line: float(line["loss"]))
    card = vocoder_card(
        directory,
        kind="convnext",
        name=config.name,
        licence=config.licence,
        tokenizer=vocoder.tokenizer,
        provenance=units.provenance,
        description=(
            f"Units to 16 kHz speech: ConvNeXt ({parameters / 1e6:.1f} M parameters, {config.network.lookahead} units "
            "of look-ahead) to log-mel, F0 and voicing, then a source-filter."
        ),
    )
    card |= {
        "hours": round(seconds / 3600, 3),
        "steps": config.steps,
        "best_step": best["step"],
        "parameters": parameters,
        "settings": {**config.as_json(), "spectrum": asdict(vocoder.spectrum)},
        "numbers": {"held_out_frames": errors.frames, **errors.numbers()},
    }
    write_json(directory / "card.json", card)
    return DirectoryResult(
        artifacts=["card.json", *FILES["convnext"], *artifacts_of(directory)],
        totals={"hours": seconds / 3600, "units": len(corpus.units), "parameters": parameters, **errors.numbers()},
        rejected=rejected,
        fingerprints={"vocoder": card["fingerprint"]},
    )


def _normalise(network: Network, corpus: Corpus, train: list[int]) -> None:
    """Mean and deviation of every band, and of log F0 where voiced, over the training part."""
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


def _whole(network: Network, corpus: Corpus, index: int) -> tuple[Tensor, Frames]:
    """What the network says of a whole utterance, (K, n_mels + 2), and its true frames."""
    units, frames = corpus.utterance(index, network.per_unit)
    outside = np.full(LEAD, network.embedding.num_embeddings - 1, np.int64)
    device = network.head.weight.device
    padded = torch.from_numpy(np.concatenate([outside, units, outside]))[None].to(device)
    voice = None
    if network.voices is not None:
        voice = torch.tensor([sorted(set(corpus.speakers)).index(corpus.speakers[index])], device=device)
    predicted = network(padded, voice)[0]
    return predicted[LEAD * network.per_unit : -LEAD * network.per_unit], frames


def _validate(network: Network, corpus: Corpus, held: list[int]) -> dict[str, float]:
    """Mean losses over whole held-out utterances, by frames."""
    sums: dict[str, float] = {}
    count = 0
    for index in held:
        predicted, frames = _whole(network, corpus, index)
        true = np.concatenate([frames.log_mel, frames.log_f0[:, None], frames.voicing[:, None]], axis=1)
        target = torch.from_numpy(true).to(predicted.device)[None]
        known = torch.ones(target.shape[:2], dtype=torch.bool, device=predicted.device)
        for name, value in frame_losses(network, predicted[None], target, known).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(frames)
        count += len(frames)
    return {name: total / count for name, total in sums.items()}


@torch.inference_mode()
def _measure(network: Network, corpus: Corpus, held: list[int]) -> FitErrors:
    errors = FitErrors()
    for index in held:
        predicted, frames = _whole(network, corpus, index)
        errors.add(to_frames(predicted, network), frames)
    return errors


def _save(directory: Path, vocoder: ConvnextConfig, network: Network) -> None:
    from safetensors.torch import save

    # Half precision halves the size; what it rounds is far below the network's own errors.
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    write_atomic(directory / WEIGHTS_FILE, save(tensors))
    write_json(directory / CONFIG_FILE, vocoder.model_dump(mode="json"))
