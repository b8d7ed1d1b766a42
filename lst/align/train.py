"""The stage `train-aligner`: recordings with transcripts -> a CTC aligner, on the encoder of a unit tokenizer.

1. The alphabet is that of the transcripts (as they are spoken: `lst.text.normalise`); characters that are too rare to
   be learnt are left out, and rows that cannot be spelled or said in their time are rejected.
2. CTC (Graves et al. 2006) on rows of similar length, from the tokenizer's encoder, or from nothing. Where the times of
   words are known, each word is a problem of its own, and a few steps before CTC teach about where characters are.
3. Calibration (`lst.align.calibrate`): what boundaries are off by, and the limit for scores, go into the weights' file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lst.align.calibrate import Words, measure_limit, measure_shifts, read_words
from lst.align.ctc import CTCAligner
from lst.align.network import FORM, SPACE, CTCConfig, CTCNetwork, save_ctc
from lst.align.train_corpus import Corpus, Rows, prepare
from lst.constants import SAMPLE_RATE
from lst.errors import LstError
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    StageSpec,
    build_directory,
    is_held_out,
    sha256_file,
    write_json,
)
from lst.train.config import OptimizerConfig
from lst.train.loop import LoopConfig, LoopJob, artifacts_of, build_seeded, step_generator, train_loop
from lst.units.codecs import require_codecs
from lst.units.hubert_config import NetworkConfig
from lst.units.network import HubertNetwork

SCHEMA = "lst.aligner/1"
VERSION = 2
WEIGHTS_FILE = "model.safetensors"
MEASURED = 100
"""Held-out rows at most that a validation looks at."""


class TrainAlignerConfig(LoopConfig):
    """How an aligner is trained."""

    steps: int = Field(3000, ge=1, description="optimiser steps")
    optimizer: OptimizerConfig = Field(
        OptimizerConfig(lr=5e-4, weight_decay=0.02, warmup_steps=200),
        description="AdamW and its schedule",
    )
    language: str = Field("en", description="how digits are read")
    freeze: bool = Field(False, description="keep the tokenizer's encoder as it is, and train the head only")
    network: NetworkConfig | None = Field(None, description="an encoder from nothing, where no tokenizer is given")
    hidden: int = Field(192, ge=8, le=4096, description="width of the head")
    prior_weight: float = Field(0.0, ge=0, le=1, description="how much of the labels' prior is subtracted")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the head")
    flat_steps: int = Field(
        100, ge=0, description="steps before CTC, on rows whose words have times: characters spread evenly over words"
    )
    noise: bool = Field(True, description="disturb seven in ten rows by noise")
    codec: float = Field(
        0.0, ge=0, le=1, description="share of rows that go through a codec: Opus, Vorbis, or mu-law or GSM at 8 kHz"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="of matrix products; bfloat16 doubles the speed where the processor has it"
    )
    seconds: float = Field(40.0, gt=1, description="audio per step")
    longest_s: float = Field(16.0, gt=0, description="longer rows are left out")
    rare: int = Field(5, ge=1, description="characters seen fewer times are not in the alphabet")
    held_out: float = Field(0.05, gt=0, lt=0.5, description="share of rows that choose the weights to keep")
    name: str = Field("", description="what the aligner calls itself; default: ctc")
    licence: str = Field("", description="licence on its card; default: those of the audio")

    def as_json(self) -> dict[str, Any]:
        """The settings; `codec` is left out where there is none, as before there was the key."""
        return super().as_json() if self.codec else self.model_dump(mode="json", exclude={"codec"})


def train_aligner_spec(
    audio: Manifest, config: TrainAlignerConfig, tokenizer: str | None, words: Path | None = None
) -> StageSpec:
    """What `train_aligner` would make."""
    from lst.units import tokenizer_fingerprint

    fingerprints = {} if tokenizer is None else {"tokenizer": tokenizer_fingerprint(tokenizer)}
    return StageSpec(
        schema=SCHEMA,
        stage="train-aligner",
        version=VERSION,
        config=config.as_json(),
        inputs={"audio": audio},
        fingerprints=fingerprints,
        provenance=audio.provenance,
        files={} if words is None else {"words": sha256_file(words)},
    )


def train_aligner(
    audio: Manifest,
    out: Path,
    config: TrainAlignerConfig,
    *,
    tokenizer: str | None = None,
    words: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Train an aligner on the recordings and transcripts of `audio`; `out` is then usable as `--aligner`.

    `tokenizer` is a name or directory whose encoder it starts from; without one it starts from nothing. `words`: true
    times of words in some of the recordings (`lst.align.calibrate.read_words`), which boundaries are learnt from and
    calibrated on. A run that was stopped or killed goes on from its last checkpoint. `workers` is ignored. Raises
    TrainingStopped after a stop signal, and LstError for too little speech, a tokenizer without a network, or as
    `train_loop`.
    """
    times = {} if words is None else read_words(words)
    if config.codec:
        require_codecs()

    def make(directory: Path) -> DirectoryResult:
        encoder, layer = _encoder(config, tokenizer)
        return _train(directory, audio, config, encoder, layer, times, progress or (lambda *_: None), device)

    return build_directory(out, train_aligner_spec(audio, config, tokenizer, words), make, force=force)


def _encoder(config: TrainAlignerConfig, tokenizer: str | None) -> tuple[HubertNetwork, int]:
    """The encoder to start from, and the layer whose features are read."""
    if tokenizer is None:
        if config.freeze:
            raise LstError("There is no tokenizer whose encoder could be kept.", hint="Give --tokenizer, or no freeze.")
        shape = config.network or NetworkConfig()
        return cast(HubertNetwork, build_seeded(config.seed, lambda: HubertNetwork(shape))), shape.layers
    if config.network is not None:
        raise LstError("The tokenizer's encoder has its own sizes.", hint="Leave out network, or the tokenizer.")
    from lst.assets import resolve_asset
    from lst.units.network import load_network
    from lst.units.spec import FbankHubertSpec, read_spec

    directory = Path(tokenizer) if (Path(tokenizer) / "tokenizer.json").is_file() else None
    directory = directory or resolve_asset(tokenizer, "tokenizer")
    spec = read_spec(directory).encoder
    if not isinstance(spec, FbankHubertSpec):
        raise LstError(
            f"The tokenizer {tokenizer} ({spec.kind}) has no network that lst train-tokenizer made.",
            hint="Give one of kind fbank-hubert, or leave out --tokenizer to start from nothing.",
        )
    network = load_network(directory / spec.weights).requires_grad_(not config.freeze)
    return network, network.config.layers


def ctc_losses(network: CTCNetwork, batch: Mapping[str, Tensor], *, half: bool = False) -> dict[str, Tensor]:
    """`loss`: CTC in nats per character; in training less the prior, by which it may be negative.

    Where the times of words are known, training takes every word for itself, in its own frames; what lies between
    words is the sign between words, what lies around them the blank. `half`: the network in bfloat16, the loss not.
    """
    device = network.spell.weight.device
    there = {name: value.to(device) for name, value in batch.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        logits = network.logits(there["samples"])
    plain = functional.log_softmax(logits.float(), dim=-1)
    scores = plain
    if network.training and network.config.prior_weight:
        _update_prior(network, plain.detach(), there["frames"])
        scores = plain - network.config.prior_weight * network.log_prior
    per_row = _ctc(scores, there["frames"], there["labels"], there["lengths"])
    characters = there["lengths"].sum()
    if network.training and len(there["words"]):
        total = per_row[~there["timed"]].sum() + _timed_words(scores, there) + _around_words(plain, there)
        return {"loss": total / characters}
    return {"loss": per_row.sum() / characters}


def _ctc(scores: Tensor, frames: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
    """(B,) CTC of (B, T, labels) scores, in nats; 0 where the labels do not fit."""
    return functional.ctc_loss(scores.transpose(0, 1), labels, frames, lengths, reduction="none", zero_infinity=True)


def _timed_words(scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The sum of CTC over words, each in its own frames."""
    rows, first, end = batch["words"].T
    frames = (end - first).clamp(min=1)
    places = (first[:, None] + torch.arange(int(frames.max()), device=first.device)).clamp(max=scores.shape[1] - 1)
    return _ctc(scores[rows[:, None], places], frames, batch["word_labels"], batch["word_lengths"]).sum()


def _around_words(scores: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The sum of -log probability of the sign between words where it is, and of the blank before and after them."""
    target = frame_targets(batch, scores.shape[1], inside=False).to(scores.device)
    return functional.nll_loss(scores.transpose(1, 2), target, ignore_index=-1, reduction="sum")


def frame_targets(batch: Mapping[str, Tensor], count: int, *, inside: bool) -> Tensor:
    """(B, count) labels of frames around timed words; with `inside`, in them too: characters spread evenly. Else -1."""
    target = torch.full((len(batch["timed"]), count), -1)
    words, lengths = batch["words"].tolist(), batch["word_lengths"].tolist()
    labels = torch.split(batch["word_labels"].cpu(), lengths)
    for row in {row for row, _, _ in words}:
        target[row, : int(batch["frames"][row])] = 0
        spans = [(first, end) for own, first, end in words if own == row]
        target[row, spans[0][0] : spans[-1][1]] = 1
    for (row, first, end), own in zip(words, labels, strict=True):
        places = torch.arange(max(0, min(end, count) - first))
        target[row, first:end] = own[places * len(own) // max(1, end - first)] if inside else -1
    return target


def flat_start(network: CTCNetwork, rows: Rows, config: TrainAlignerConfig, device: str) -> None:
    """Teach the head about where characters are: spread evenly over words whose times are known.

    CTC alone finds out, but only after hundreds of steps in which it says next to nothing. The encoder stays.
    """
    network.to(device).eval()
    head = [value for name, value in network.named_parameters() if not name.startswith("encoder.")]
    optimizer = torch.optim.AdamW(head, lr=FLAT_LR)
    for step in range(config.flat_steps):
        batch = rows.batch(step_generator(config.seed, step, "flat start"))
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = network.logits(batch["samples"].to(device)).float()
        target = frame_targets(batch, logits.shape[1], inside=True).to(device)
        loss = functional.cross_entropy(logits.transpose(1, 2), target, ignore_index=-1)
        gradients = torch.autograd.grad(loss, head)
        for value, gradient in zip(head, gradients, strict=True):
            value.grad = gradient
        optimizer.step()
    network.zero_grad()


FLAT_LR = 2e-3
PRIOR_MEMORY = 0.99


@torch.no_grad()
def _update_prior(network: CTCNetwork, scores: Tensor, frames: Tensor) -> None:
    """A running mean of how often each label is given, over the frames that hold a recording."""
    real = torch.arange(scores.shape[1], device=scores.device)[None] < frames.to(scores.device)[:, None]
    mean = scores.exp()[real].mean(0)
    before = network.log_prior.exp()
    if bool((network.log_prior == 0).all()):
        before = mean
    network.log_prior.copy_((PRIOR_MEMORY * before + (1 - PRIOR_MEMORY) * mean).clamp_min(1e-6).log())


def _validate(network: CTCNetwork, rows: Rows, held: list[int], corpus: Corpus) -> dict[str, float]:
    """CTC loss on held-out rows in nats per character, and the share of characters that greedy decoding gets wrong."""
    import jiwer

    loss, characters = 0.0, 0
    references, heard = [], []
    for index in held:
        batch = rows.of([index], None)
        count = int(batch["lengths"].sum())
        loss += float(ctc_losses(network, batch)["loss"]) * count
        characters += count
        best = network(batch["samples"].to(network.spell.weight.device))[0][0].argmax(-1).tolist()
        kept = [label for place, label in enumerate(best) if label and (not place or best[place - 1] != label)]
        references.append(_text(corpus.spelled[index], corpus.labels))
        heard.append(_text(kept, corpus.labels))
    return {"loss": loss / characters, "cer": float(jiwer.cer(references, heard))}


def _text(spelled: list[int], labels: tuple[str, ...]) -> str:
    return "".join(" " if labels[label] == SPACE else labels[label] for label in spelled)


def _train(
    directory: Path,
    audio: Manifest,
    config: TrainAlignerConfig,
    encoder: HubertNetwork,
    layer: int,
    words: Words,
    progress: Progress,
    device: str,
) -> DirectoryResult:
    corpus, rejected = prepare(directory / "prepared", audio, config, words, progress)
    held = [index for index, row_id in enumerate(corpus.ids) if is_held_out(row_id, config.held_out)]
    train = [index for index, row_id in enumerate(corpus.ids) if not is_held_out(row_id, config.held_out)]
    if not train or not held:
        raise LstError(f"{audio.path} has too few rows to hold some out ({len(corpus.ids)}).", hint="Give more.")
    shape = CTCConfig(
        encoder=encoder.config,
        layer=layer,
        labels=corpus.labels,
        hidden=config.hidden,
        prior_weight=config.prior_weight,
        language=config.language,
    )
    network = cast(CTCNetwork, build_seeded(config.seed, lambda: CTCNetwork(shape, encoder, config.dropout)))
    rows = Rows(corpus, train, config)
    timed = [index for index in train if corpus.spans[index] is not None]
    if timed and config.flat_steps and not (directory / "checkpoints").exists():
        flat_start(network, Rows(corpus, timed, config), config, device)
    lines = train_loop(
        LoopJob(
            directory,
            config,
            network,
            rows.batch,
            lambda batch: ctc_losses(network, batch, half=config.precision == "bfloat16"),
            lambda: _validate(network, rows, held[:MEASURED], corpus),
            device=device,
            progress=progress,
        )
    )
    calibration = _calibrate(
        directory, network, audio, [corpus.ids[index] for index in train], [corpus.ids[index] for index in held], words
    )
    best = min((line for line in lines if line["split"] == "valid"), key=lambda line: float(line["loss"]))
    parameters = sum(value.numel() for value in network.parameters())
    hours = corpus.audio.size / SAMPLE_RATE / 3600
    write_json(directory / "card.json", _card(directory, audio, config, corpus, best, parameters, hours, calibration))
    numbers = {"valid_loss": round(best["loss"], 5), "valid_cer": round(best["cer"], 5)}
    return DirectoryResult(
        artifacts=["card.json", WEIGHTS_FILE, *artifacts_of(directory)],
        totals={"hours": hours, "rows": len(corpus.ids), "parameters": parameters, **numbers},
        rejected=rejected,
    )


def _calibrate(
    directory: Path, network: CTCNetwork, audio: Manifest, train: list[str], held: list[str], words: Words
) -> dict[str, Any]:
    """Write the weights with what is measured on them: shifts on recordings `train`, the limit on recordings `held`."""
    path = directory / WEIGHTS_FILE
    save_ctc(path, network)
    aligner = CTCAligner.from_checkpoint(path, name="ctc")
    start, end = measure_shifts(aligner, audio, train, words) if words else (0.0, 0.0)
    calibration = {"start_shift_s": start, "end_shift_s": end, "min_score": measure_limit(aligner, audio, held)}
    save_ctc(path, network, network.config.model_copy(update=calibration))
    return calibration


def _card(
    directory: Path,
    audio: Manifest,
    config: TrainAlignerConfig,
    corpus: Corpus,
    best: dict[str, Any],
    parameters: int,
    hours: float,
    calibration: dict[str, Any],
) -> dict[str, Any]:
    path = directory / WEIGHTS_FILE
    licences = sorted({entry.get("licence", "") for entry in audio.provenance} - {""})
    return {
        "name": config.name or "ctc",
        "kind": "aligner",
        "version": "1",
        "licence": config.licence or "; ".join(licences) or "not stated",
        "source": "trained by lst train-aligner",
        "description": f"CTC at 100 Hz ({FORM}), language {config.language}, {parameters / 1e6:.1f} M parameters.",
        "files": {WEIGHTS_FILE: {"sha256": sha256_file(path), "bytes": path.stat().st_size}},
        "data": audio.provenance,
        "alphabet": "".join(corpus.labels[2:]),
        "hours": round(hours, 3),
        "steps": config.steps,
        "parameters": parameters,
        "settings": config.as_json(),
        "calibration": calibration,
        "numbers": {"best_step": best["step"], "loss": round(best["loss"], 5), "cer": round(best["cer"], 5)},
    }
