"""The stage `train-vocoder` for the kind `convnext`: units and their audio -> a vocoder directory, by gradient descent.

1. Every recording is analysed once (`lst.vocoder.convnext_corpus`).
2. Steps on pieces cut at random from the training part: mean absolute error of log-mel and of log F0 where voiced,
   cross-entropy of voicing; with `listening`, how different it sounds to the network of a tokenizer
   (`lst.vocoder.listening`). Some units are hidden, since a small corpus is learnt by heart otherwise.
3. The weights that predict the held-out part best are kept.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    StageSpec,
    build_directory,
    merge_provenance,
)
from lst.train.loop import LoopJob, build_seeded, train_loop
from lst.vocoder.convnext import ConvnextConfig, Network
from lst.vocoder.convnext_corpus import Corpus, analyse_corpus
from lst.vocoder.listening import open_listener
from lst.vocoder.pieces import (
    Pieces,
    TrainNetworkConfig,
    listener_of,
    means,
    measure,
    normalise,
    save_vocoder,
    split_corpus,
    stacked,
    whole,
)
from lst.vocoder.spectrum import Spectrum
from lst.vocoder.train import SCHEMA

VERSION = 1


class TrainConvnextConfig(TrainNetworkConfig):
    """How a ConvNeXt vocoder is trained."""

    kind: Literal["convnext"] = "convnext"
    steps: int = Field(3000, ge=1, description="optimiser steps")


def train_convnext_spec(units: Manifest, audio: Manifest, config: TrainConvnextConfig) -> StageSpec:
    """What `train_convnext` would make. A listener counts by what it is, not by where it lies."""
    listener = listener_of(units, config)
    return StageSpec(
        schema=SCHEMA,
        stage="train-vocoder",
        version=VERSION,
        config={**config.as_json(), "listener": "" if listener is None else listener.fingerprint},
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


def _train(
    directory: Path, units: Manifest, audio: Manifest, config: TrainConvnextConfig, progress: Progress, device: str
) -> DirectoryResult:
    corpus, rejected = analyse_corpus(
        directory / "analysed", units, audio, config.num_units, config.name or config.kind, progress
    )
    train, held = split_corpus(corpus, config.held_out, str(units.path))
    vocoder = ConvnextConfig(
        tokenizer=units.fingerprints["tokenizer"],
        num_units=config.num_units,
        network=config.network,
        speakers=tuple(sorted(set(corpus.speakers))) if config.speakers else (),
        spectrum=Spectrum(),
    )
    network = build_seeded(config.seed, lambda: Network(vocoder, config.dropout))
    assert isinstance(network, Network)
    normalise(network, corpus, train)
    found = listener_of(units, config)
    listener = None if found is None else open_listener(found, vocoder.spectrum).to(device)
    pieces = Pieces(corpus, train, config, network, listener)
    lines = train_loop(
        LoopJob(
            directory,
            config,
            network,
            pieces.batch,
            pieces.losses,
            lambda: _validate(network, corpus, held, pieces),
            device=device,
            progress=progress,
        )
    )
    best = min((line for line in lines if line["split"] == "valid"), key=lambda line: float(line["loss"]))
    return save_vocoder(
        directory,
        config,
        vocoder,
        network,
        units,
        corpus,
        measure(network, corpus, held),
        rejected,
        kind="convnext",
        does="to log-mel, F0 and voicing, then a source-filter.",
        named={"listener": "" if found is None else found.spec.name},
        facts={"best_step": best["step"]},
    )


def _validate(network: Network, corpus: Corpus, held: list[int], pieces: Pieces) -> dict[str, float]:
    """Mean losses over whole held-out utterances, by frames."""

    def one(index: int) -> tuple[dict[str, Tensor], int]:
        predicted, frames = whole(network, corpus, index)
        target = torch.from_numpy(stacked(frames)).to(predicted.device)[None]
        known = torch.ones(target.shape[:2], dtype=torch.bool, device=predicted.device)
        return pieces.compare(predicted[None], target, known), len(frames)

    return means(map(one, held))
