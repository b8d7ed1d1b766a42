"""Audio -> a HuBERT tokenizer (Hsu et al. 2021): targets, masked prediction, codebook. Every step resumes.

    WORK/audio.i16, audio.json      the recordings on the 40 ms grid (and valid/ likewise)
    WORK/phones.json                phones of a part of them, if discriminants are asked for
    WORK/targets.safetensors        codebook of the teacher's features, fitted on a part of the audio
    WORK/targets.npy                cluster of every frame
    WORK/checkpoint.pt              the training (`lst.units.pretrain`)
    network.safetensors             float16 weights, the prediction head among them: a later training can start there

All in the unfinished output, so a killed command goes on where it was; WORK is left out of the finished one.
"""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lst.constants import FRAME_RATE
from lst.errors import LstError
from lst.manifest import DirectoryResult, Manifest, Progress, Rejection, sha256_file, write_atomic, write_json
from lst.units.codebooks import LABELLED_FRAMES, Fitted, Phones, PredictionHead, fit, usage
from lst.units.codecs import require_codecs
from lst.units.fbank_hubert import FbankHubertEncoder
from lst.units.hubert_config import HubertConfig
from lst.units.informed import informed_head
from lst.units.loading import identify_tokenizer
from lst.units.network import load_network, save_network
from lst.units.phones import align_phones
from lst.units.pretrain import METRICS, pretrain
from lst.units.quantizers import LinearQuantizer
from lst.units.recordings import Recordings, collect_recordings
from lst.units.segments import Corpus
from lst.units.spec import FbankHubertSpec
from lst.units.targets import TargetClusters, fit_targets, load_targets
from lst.units.teachers import EncoderTeacher, Teacher, open_teacher

if TYPE_CHECKING:
    from lst.units.train import TrainTokenizerConfig

WORK = "work"
NETWORK_FILE = "network.safetensors"
TARGETS_FILE = "targets.safetensors"


def identities(config: HubertConfig) -> dict[str, Any]:
    """What the paths in `config` stand for: the teacher, the initial weights."""
    start = sha256_file(_initial_weights(config.init)) if config.init else ""
    return {
        "targets": open_teacher(config.targets, config.targets_layer).identity,
        "targets_layer": None,
        "init": start,
    }


def make_hubert(
    directory: Path,
    audio: Manifest,
    valid: Manifest | None,
    config: "TrainTokenizerConfig",
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> DirectoryResult:
    """Fill `directory` with a tokenizer. Called again after a kill, it goes on. Errors: see `train_tokenizer`."""
    from lst.units.train import describe

    hubert = config.hubert
    if hubert.network.clusters != config.units:
        hubert = hubert.model_copy(update={"network": hubert.network.model_copy(update={"clusters": config.units})})
    training = hubert.training.model_copy(update={"seed": config.seed})
    if training.codec:
        require_codecs()
    work = directory / WORK
    rejected: list[Rejection] = []
    recordings = collect_recordings(audio, work, rejected, progress)
    phones = None
    if hubert.discriminants or hubert.phone_weight:
        phones = _phones(recordings, work, hubert, config.seed, progress)
    corpus, held_out, clusters = _corpora(recordings, valid, phones, work, config, device, progress)
    network = pretrain(
        work,
        corpus,
        held_out,
        hubert.network,
        training,
        cluster_phones=clusters.cluster_phones(),
        init=_initial_weights(hubert.init) if hubert.init else None,
        device=device,
        progress=progress,
    )
    # Units are made with the weights as they are kept, in half precision.
    save_network(directory / NETWORK_FILE, network, torch.float16)
    layer = hubert.layer or hubert.network.layers
    encoder = FbankHubertEncoder(load_network(directory / NETWORK_FILE), layer, device)
    part = _part(recordings, phones, hubert.fit_hours, config.seed)
    if hubert.units_from == "prediction":
        fitted = _with_usage(_prediction_head(encoder), encoder, part, config.units)
    elif hubert.units_from == "phones":
        head = informed_head(
            load_network(directory / NETWORK_FILE),
            corpus,
            frames=hubert.head_frames,
            steps=hubert.head_steps,
            stability=hubert.stability,
            seed=config.seed,
        )
        fitted = _with_usage(head, encoder, part, config.units)
    else:
        fitted = fit(
            EncoderTeacher(encoder, {}).features(part),
            config.units,
            config.seed,
            config.max_frames,
            source=audio.path,
            phones=phones,
            dimensions=hubert.discriminants,
        )
    made = {
        "features": f"k-means on layer {layer}",
        "prediction": "the predicted clusters",
        "phones": "what tells most of the phone in the last layer",
    }[hubert.units_from]
    shutil.copyfile(work / METRICS, directory / METRICS)
    shutil.copyfile(work / TARGETS_FILE, directory / TARGETS_FILE)
    board = directory / "tensorboard"
    shutil.copytree(work / "tensorboard", board, dirs_exist_ok=True)
    events = sorted(path.relative_to(directory).as_posix() for path in board.glob("events*"))
    return describe(
        directory,
        audio,
        config,
        FbankHubertSpec(weights=NETWORK_FILE, layer=layer).model_dump(mode="json"),
        fitted,
        rejected,
        f"{config.units} units at {FRAME_RATE} Hz: {made} of a HuBERT with a log-mel front end.",
        numbers=_last_numbers(work / METRICS),
        facts={
            "hours": round(recordings.frames / FRAME_RATE / 3600, 3),
            "speakers": len({utterance.speaker for utterance in recordings.utterances}),
            "steps": training.steps,
            "parameters": sum(value.numel() for value in encoder.network.parameters()),
            "settings": {**hubert.model_dump(mode="json"), **identities(config.hubert)},
        },
        kept=(TARGETS_FILE,),
        logs=(METRICS, *events),
    )


def _prediction_head(encoder: FbankHubertEncoder) -> PredictionHead:
    """The cluster that the network itself finds likeliest: the largest cosine, whose norms do not matter."""
    network = encoder.network
    embeddings = torch.nn.functional.normalize(network.label_embs, dim=1)
    weight, bias = embeddings @ network.final_proj.weight, embeddings @ network.final_proj.bias
    return PredictionHead(weight.cpu().numpy(), bias.cpu().numpy())


def _with_usage(
    head: PredictionHead, encoder: FbankHubertEncoder, utterances: "Iterator[tuple[int, np.ndarray]]", units: int
) -> Fitted:
    """How many units occur in some utterances."""
    quantizer = LinearQuantizer([(head.weight, head.bias)], blank=False)
    codes = np.concatenate([quantizer.codes(encoder.features(samples)) for _, samples in utterances])
    return Fitted(head, len(codes), len(codes), usage(codes, units))


def _corpora(
    recordings: Recordings,
    valid: Manifest | None,
    phones: Phones | None,
    work: Path,
    config: "TrainTokenizerConfig",
    device: str,
    progress: Progress | None,
) -> tuple[Corpus, Corpus | None, TargetClusters]:
    """The recordings with the cluster of every frame: those to train on, and those to validate on; and the clusters."""
    hubert = config.hubert
    sets: list[tuple[Recordings, Path, Phones]] = [(recordings, work / "targets.npy", phones or {})]
    if valid is not None:
        held_out = collect_recordings(valid, work / "valid", [], progress)
        said = _phones(held_out, work / "valid", hubert, config.seed, progress) if hubert.validates_phones else {}
        sets.append((held_out, work / "valid" / "targets.npy", said))
    if not all(path.exists() for _, path, _ in sets):
        teacher = open_teacher(hubert.targets, hubert.targets_layer, device)
        if not (work / TARGETS_FILE).exists():
            # The first iteration is HuBERT's own: clusters of the MFCC as they are.
            plain = hubert.targets == "mfcc"
            fit_targets(
                teacher.features(_part(recordings, phones, hubert.fit_hours, config.seed)),
                config.units,
                config.seed,
                config.max_frames,
                source="the training audio",
                phones=None if plain else phones,
                dimensions=0 if plain else hubert.discriminants,
                phone_weight=hubert.phone_weight,
                silence_clusters=hubert.silence_clusters,
            ).save(work / TARGETS_FILE)
        fitted = load_targets(work / TARGETS_FILE)
        for some, path, known in sets:
            # Validation asks for the clusters of the teacher alone, whether or not phones are known there.
            _assign(teacher, fitted, some, known if some is recordings else {}, path, progress)
    clusters = load_targets(work / TARGETS_FILE)
    corpora = [_corpus(some, np.load(path), clusters, known, config.seed) for some, path, known in sets]
    return corpora[0], corpora[1] if valid is not None else None, clusters


def _assign(
    teacher: Teacher,
    clusters: TargetClusters,
    recordings: Recordings,
    phones: Phones,
    path: Path,
    progress: Progress | None,
) -> None:
    """The cluster of every frame, -1 where the teacher has none (HuBERT's convolutions end a frame early)."""
    targets = np.full(recordings.frames, -1, np.int16)
    everything = ((index, recordings.samples(utterance)) for index, utterance in enumerate(recordings.utterances))
    for done, (index, features) in enumerate(teacher.features(everything)):
        utterance = recordings.utterances[index]
        codes = clusters.codes(features, phones.get(index))[: utterance.frames]
        targets[utterance.start : utterance.start + len(codes)] = codes
        if progress is not None:
            progress(done + 1, len(recordings.utterances), "utterances")
    buffer = io.BytesIO()
    np.save(buffer, targets)
    write_atomic(path, buffer.getvalue())


def _corpus(
    recordings: Recordings, targets: "np.ndarray", clusters: TargetClusters, known: Phones, seed: int
) -> Corpus:
    """In random order: validation takes the first rows, and speakers should be mixed in them."""
    groups = clusters.cluster_phones()
    # A phone so rare that no cluster is its own cannot be found.
    place = {} if groups is None else {clusters.phones[index]: index for index in np.unique(groups)}
    phones = np.full(recordings.frames, -1, np.int16)
    for index, names in known.items():
        utterance = recordings.utterances[index]
        places = [place.get(name, -1) for name in names[: utterance.frames]]
        phones[utterance.start : utterance.start + len(places)] = places
    order = [utterance for _, utterance in recordings.shuffled(seed)]
    starts = np.array([utterance.start for utterance in order], np.int64)
    lengths = np.array([utterance.frames for utterance in order], np.int64)
    return Corpus(recordings.audio, targets, starts, lengths, phones)


def _phones(
    recordings: Recordings, work: Path, config: HubertConfig, seed: int, progress: Progress | None
) -> dict[int, list[str]]:
    """Phones of `phones_hours` of utterances that have a text, by the utterance's number."""
    path = work / "phones.json"
    if not path.exists():
        texts = (
            (str(index), recordings.samples(utterance), utterance.text, utterance.frames)
            for index, utterance in recordings.shuffled(seed)
            if utterance.text
        )
        frames = round(config.phones_hours * 3600 * FRAME_RATE)
        found, _ = align_phones(texts, frames=frames, aligner=config.aligner, progress=progress)
        if not found:
            raise LstError(
                "No utterance could be aligned with its text, so there are no phones.",
                hint="Give transcribed audio, or set hubert.discriminants=0 hubert.phone_weight=0.",
            )
        write_json(path, found)
    return {int(index): phones for index, phones in json.loads(path.read_text(encoding="utf-8")).items()}


def _part(recordings: Recordings, phones: Phones | None, hours: float, seed: int) -> "Iterator[tuple[int, np.ndarray]]":
    """Utterances for a fit: `hours` of them in random order, then aligned ones until there are enough of those."""
    frames, labelled = round(hours * 3600 * FRAME_RATE), 0
    for index, utterance in recordings.shuffled(seed):
        known = phones is not None and index in phones
        if frames > 0 or (known and labelled < LABELLED_FRAMES):
            frames -= utterance.frames
            labelled += utterance.frames if known else 0
            yield index, recordings.samples(utterance)


def _initial_weights(name: str) -> Path:
    found = identify_tokenizer(name)
    if not isinstance(found.spec.encoder, FbankHubertSpec):
        raise LstError(
            f"{name} is a tokenizer of kind {found.spec.encoder.kind}: a training cannot start from it.",
            hint="Give one that was made by lst train-tokenizer --kind hubert.",
        )
    return found.directory / found.spec.encoder.weights


def _last_numbers(metrics: Path) -> dict[str, float]:
    """Loss and accuracy at the end of the training, in training and validation."""
    numbers: dict[str, float] = {}
    for line in map(json.loads, metrics.read_text(encoding="utf-8").splitlines()):
        for name in ("loss", "accuracy", "masked_accuracy", "phone_loss", "phone_accuracy"):
            if name in line:
                numbers[f"{line['split']}_{name}"] = round(line[name], 4)
    return numbers
