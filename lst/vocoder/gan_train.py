"""The stage `train-vocoder` for the kind `gan`: units and their audio -> a vocoder directory, against discriminators.

1. Every recording is analysed once (`lst.vocoder.convnext_corpus`); its samples are kept.
2. A share `alone` of the steps without discriminators: the frames as for the kind convnext, and the spectra of the
   waveform. With `start`, the frames come from a ConvNeXt vocoder that is trained already; `freeze` keeps it as it is.
3. Then the discriminators learn to tell recordings from what is made (`lst.vocoder.discriminators`), and the waveform
   is to deceive them as well (`lst.vocoder.gan_duel`).
4. The last weights are kept: a loss by spectra says little of how natural a sound is.
"""

from pathlib import Path
from typing import cast

from lst.errors import LstError
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    StageSpec,
    build_directory,
    merge_provenance,
)
from lst.train.loop import LoopJob, Opponent, build_seeded, train_loop
from lst.vocoder.convnext import ConvnextVocoder
from lst.vocoder.convnext_corpus import Corpus, analyse_corpus
from lst.vocoder.discriminators import Discriminators
from lst.vocoder.gan import GanConfig, GanNetwork
from lst.vocoder.gan_config import TrainGanConfig
from lst.vocoder.gan_duel import Duel
from lst.vocoder.listening import Listener, open_listener
from lst.vocoder.loading import load_vocoder, vocoder_fingerprint, vocoder_name
from lst.vocoder.pieces import (
    Pieces,
    listener_of,
    measure,
    normalise,
    save_vocoder,
    split_corpus,
)
from lst.vocoder.spectrum import Spectrum
from lst.vocoder.train import SCHEMA

VERSION = 1


def train_gan_spec(units: Manifest, audio: Manifest, config: TrainGanConfig) -> StageSpec:
    """What `train_gan` would make. A listener and a start count by what they are, not by where they lie."""
    listener = listener_of(units, config)
    named = {
        "listener": "" if listener is None else listener.fingerprint,
        "start": vocoder_fingerprint(config.start) if config.start else "",
    }
    return StageSpec(
        schema=SCHEMA,
        stage="train-vocoder",
        version=VERSION,
        config={**config.as_json(), **named},
        inputs={"units": units, "audio": audio},
        fingerprints={"tokenizer": units.fingerprints["tokenizer"]},
        provenance=merge_provenance(units.provenance, audio.provenance),
    )


def train_gan(
    units: Manifest,
    audio: Manifest,
    out: Path,
    config: TrainGanConfig,
    *,
    progress: Progress | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Train a vocoder on the units of `units` and the recordings of `audio`; `out` is then usable as `--vocoder`.

    A run that was stopped or killed goes on from its last checkpoint. Raises TrainingStopped after a stop signal, and
    LstError for too little speech, units beyond the vocabulary, a `start` that does not fit, or as `train_loop`.
    """

    def make(directory: Path) -> DirectoryResult:
        return _train(directory, units, audio, config, progress or (lambda *_: None), device)

    return build_directory(out, train_gan_spec(units, audio, config), make, force=force)


def _train(
    directory: Path, units: Manifest, audio: Manifest, config: TrainGanConfig, progress: Progress, device: str
) -> DirectoryResult:
    corpus, rejected = analyse_corpus(
        directory / "analysed",
        units,
        audio,
        config.num_units,
        config.name or config.kind,
        progress,
        with_samples=True,
    )
    train, held = split_corpus(corpus, config.held_out, str(units.path))
    vocoder, network = build_gan(config, units.fingerprints["tokenizer"], corpus, train)
    found = listener_of(units, config)
    listener = None if found is None else open_listener(found, vocoder.spectrum)
    duel = make_duel(config, corpus, train, network, listener)
    train_loop(gan_job(directory, config, duel, held, device, progress))
    return save_vocoder(
        directory,
        config,
        vocoder,
        network,
        units,
        corpus,
        measure(network.frames, corpus, held),
        rejected,
        kind="gan",
        does="to spectral frames and from them to the waveform, trained against discriminators.",
        named={
            "listener": "" if found is None else found.spec.name,
            "start": vocoder_name(config.start) if config.start else "",
        },
    )


def build_gan(config: TrainGanConfig, tokenizer: str, corpus: Corpus, train: list[int]) -> tuple[GanConfig, GanNetwork]:
    """The vocoder before training. Raises LstError if `start` does not fit the corpus or the settings."""
    voices = tuple(sorted(set(corpus.speakers))) if config.speakers else ()
    if config.freeze and not config.start:
        raise LstError(
            "freeze keeps the network of `start` as it is, and there is no start.", hint="Give start=VOCODER."
        )
    start = None if not config.start else load_vocoder(config.start, tokenizer=tokenizer)
    if start is not None and not isinstance(start, ConvnextVocoder):
        raise LstError(
            f"start: {start.name} is no ConvNeXt vocoder.", hint="Give one of lst train-vocoder --kind convnext."
        )
    vocoder = GanConfig(
        tokenizer=tokenizer,
        num_units=config.num_units,
        network=config.network if start is None else start.config.network,
        speakers=voices,
        spectrum=Spectrum(),
        synthesis=config.synthesis,
    )
    if start is not None:
        for what in ("num_units", "speakers", "spectrum"):
            theirs, ours = getattr(start.config, what), getattr(vocoder, what)
            if theirs != ours:
                raise LstError(
                    f"start: {start.name} has {what} {theirs}, not {ours}.", hint="Train it with these units."
                )
    network = cast(GanNetwork, build_seeded(config.seed, lambda: GanNetwork(vocoder, config.dropout)))
    if start is None:
        normalise(network.frames, corpus, train)
    else:
        network.frames.load_state_dict(start.network.state_dict())
        network.frames.requires_grad_(not config.freeze)
    return vocoder, network


def make_duel(
    config: TrainGanConfig, corpus: Corpus, train: list[int], network: GanNetwork, listener: Listener | None
) -> Duel:
    """The vocoder and its discriminators, on pieces of the training part."""
    discriminators = build_seeded(config.seed, lambda: Discriminators(config.discriminators))
    pieces = Pieces(corpus, train, config, network.frames)
    return Duel(pieces, network, cast(Discriminators, discriminators), listener, config)


def gan_job(
    directory: Path, config: TrainGanConfig, duel: Duel, held: list[int], device: str, progress: Progress
) -> LoopJob:
    """What `train_loop` is to do."""
    return LoopJob(
        directory,
        config,
        duel.network,
        duel.batch,
        duel.alone,
        lambda: duel.validate(held),
        keep="last",
        opponent=Opponent(
            duel.discriminators, config.against, int(config.alone * config.steps), duel.deceive, duel.tell_apart
        ),
        device=device,
        progress=progress,
    )
