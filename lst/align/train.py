"""The stage `train-aligner`: recordings with transcripts -> a CTC aligner, on the encoder of a unit tokenizer.

1. The alphabet is that of the transcripts (as they are spoken: `lst.text.normalise`); characters that are too rare to
   be learnt are left out, and rows that cannot be spelled or said in their time are rejected.
2. Recordings lie end to end in one file beside the checkpoints, and are mapped: memory does not grow with the corpus.
3. CTC (Graves et al. 2006) on rows of similar length, with the labels' prior subtracted (`lst.align.network`), from
   the tokenizer's encoder, or from nothing.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lst.align.ctc import CTCAligner
from lst.align.network import BLANK, FORM, SPACE, STRIDE, CTCConfig, CTCNetwork, save_ctc
from lst.audio import AudioError, open_row_audio
from lst.constants import SAMPLE_RATE
from lst.errors import LstError
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    Rejection,
    StageSpec,
    build_directory,
    is_held_out,
    iter_rows,
    sha256_file,
    write_json,
)
from lst.text.normalise import fold, spoken_text
from lst.train.config import OptimizerConfig
from lst.train.loop import LoopConfig, LoopJob, artifacts_of, build_seeded, train_loop
from lst.units.hubert_config import NetworkConfig
from lst.units.network import HubertNetwork
from lst.units.segments import add_noise

SCHEMA = "lst.aligner/1"
VERSION = 1
WEIGHTS_FILE = "model.safetensors"
MIN_SECONDS = 60.0
"""Less speech than this is refused: most characters would hardly have been heard."""
MEASURED = 100
"""Held-out rows at most that a validation looks at."""
SILENT = 1e-4


class TrainAlignerConfig(LoopConfig):
    """How an aligner is trained."""

    steps: int = Field(3000, ge=1, description="optimiser steps")
    optimizer: OptimizerConfig = Field(
        OptimizerConfig(lr=5e-4, weight_decay=0.02, warmup_steps=200),  # type: ignore[call-arg]
        description="AdamW and its schedule",
    )
    language: str = Field("en", description="how digits are read")
    freeze: bool = Field(False, description="keep the tokenizer's encoder as it is, and train the head only")
    network: NetworkConfig | None = Field(None, description="an encoder from nothing, where no tokenizer is given")
    hidden: int = Field(192, ge=8, le=4096, description="width of the head")
    prior_weight: float = Field(0.3, ge=0, le=1, description="how much of the labels' prior is subtracted")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the head")
    noise: bool = Field(True, description="disturb half of the rows by noise")
    seconds: float = Field(40.0, gt=1, description="audio per step")
    longest_s: float = Field(16.0, gt=0, description="longer rows are left out")
    rare: int = Field(5, ge=1, description="characters seen fewer times are not in the alphabet")
    held_out: float = Field(0.05, gt=0, lt=0.5, description="share of rows that choose the weights to keep")
    name: str = Field("", description="what the aligner calls itself; default: ctc")
    licence: str = Field("", description="licence on its card; default: those of the audio")


def train_aligner_spec(audio: Manifest, config: TrainAlignerConfig, tokenizer: str | None) -> StageSpec:
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
    )


def train_aligner(
    audio: Manifest,
    out: Path,
    config: TrainAlignerConfig,
    *,
    tokenizer: str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Train an aligner on the recordings and transcripts of `audio`; `out` is then usable as `--aligner`.

    `tokenizer` is a name or directory whose encoder it starts from; without one it starts from nothing. A run that was
    stopped or killed goes on from its last checkpoint. `workers` is ignored. Raises TrainingStopped after a stop
    signal, and LstError for too little speech, a tokenizer without a network, or as `train_loop`.
    """

    def make(directory: Path) -> DirectoryResult:
        encoder, layer = _encoder(config, tokenizer)
        return _train(directory, audio, config, encoder, layer, progress or (lambda *_: None), device)

    return build_directory(out, train_aligner_spec(audio, config, tokenizer), make, force=force)


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


@dataclass(frozen=True)
class Corpus:
    """Recordings end to end, (samples,) int16, and of each row: where it begins and ends, and its labels."""

    ids: list[str]
    starts: NDArray[np.int64]
    spelled: list[list[int]]
    audio: NDArray[np.int16]
    labels: tuple[str, ...]

    def samples(self, index: int) -> NDArray[np.float32]:
        """(n,) of one row."""
        part = self.audio[self.starts[index] : self.starts[index + 1]]
        return np.asarray(part, np.float32) / np.float32(32768)

    def length(self, index: int) -> int:
        """Samples of one row."""
        return int(self.starts[index + 1] - self.starts[index])


def alphabet_of(texts: list[str], rare: int) -> tuple[str, ...]:
    """Blank, sign between words, and the characters that `texts` (spoken words) have at least `rare` times."""
    counts = Counter(character for text in texts for character in text if not character.isspace())
    kept = sorted(character for character, count in counts.items() if count >= rare and character != SPACE)
    return (BLANK, SPACE, *kept)


def spell(text: str, labels: tuple[str, ...]) -> list[int]:
    """The labels of spoken words; a character outside the alphabet is spelled without its diacritics, or left out."""
    numbers = {label: index for index, label in enumerate(labels)}
    words = []
    for word in text.split():
        found = [
            numbers[part]
            for character in word
            for part in ([character] if character in numbers else fold(character))
            if part in numbers
        ]
        if found:
            words.append(found)
    return [label for index, word in enumerate(words) for label in ([1] if index else []) + word]


def prepare(
    directory: Path, audio: Manifest, config: TrainAlignerConfig, progress: Progress
) -> tuple[Corpus, list[Rejection]]:
    """Read every recording into `directory`, or map what an earlier attempt has read."""
    index_file = directory / "index.json"
    if not index_file.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        spoken = {row["id"]: spoken_text(row["text"] or "", config.language) for row in iter_rows(audio)}
        labels = alphabet_of(list(spoken.values()), config.rare)
        if len(labels) < 3:
            raise LstError(f"{audio.path} has no transcripts to learn from.", hint="Ingest recordings with their text.")
        rejected: list[Rejection] = []
        ids, starts, spelled = [], [0], []
        with (directory / "audio.i16").open("wb") as file:
            for done, row in enumerate(iter_rows(audio)):
                progress(done, audio.rows, "recordings")
                own = spell(spoken[row["id"]], labels)
                samples = _readable(audio, row, own, config, rejected)
                if samples is not None:
                    file.write(np.round(np.clip(samples, -1, 32767 / 32768) * 32768).astype("<i2").tobytes())
                    ids.append(row["id"])
                    starts.append(starts[-1] + len(samples))
                    spelled.append(own)
        rejections = [asdict(rejection) for rejection in rejected]
        body = {"ids": ids, "starts": starts, "spelled": spelled, "labels": labels, "rejected": rejections}
        write_json(index_file, body)
    body = json.loads(index_file.read_text(encoding="utf-8"))
    seconds = body["starts"][-1] / SAMPLE_RATE
    if seconds < MIN_SECONDS:
        raise LstError(
            f"{audio.path} has {seconds:.1f} s of usable speech with a transcript, too little for an aligner.",
            hint=f"Give at least {MIN_SECONDS:.0f} s, better some hours. Rejected: {_reasons(body['rejected'])}.",
        )
    corpus = Corpus(
        body["ids"],
        np.asarray(body["starts"], np.int64),
        body["spelled"],
        np.memmap(directory / "audio.i16", "<i2", "r"),
        tuple(body["labels"]),
    )
    return corpus, [Rejection(**rejection) for rejection in body["rejected"]]


def _reasons(rejected: list[dict[str, Any]]) -> str:
    counts = Counter(entry["reason"] for entry in rejected)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"


def _readable(
    audio: Manifest,
    row: Mapping[str, Any],
    labels: list[int],
    config: TrainAlignerConfig,
    rejected: list[Rejection],
) -> NDArray[np.float32] | None:
    """The samples of a row, or None and a reason."""

    def reject(reason: str, detail: str = "") -> NDArray[np.float32] | None:
        rejected.append(Rejection(row["id"], reason, detail))
        return None

    if not labels:
        return reject("no-text" if not row["text"] else "text-outside-alphabet", (row["text"] or "")[:60])
    if row["duration_s"] > config.longest_s:
        return reject("too-long", f"{row['duration_s']:.1f} s")
    repeats = sum(first == second for first, second in pairwise(labels))
    if len(labels) + repeats > row["duration_s"] * SAMPLE_RATE / STRIDE:
        return reject("text-too-long", f"{len(labels)} characters in {row['duration_s']:.1f} s")
    try:
        samples = open_row_audio(audio, row)
    except AudioError as error:
        return reject(error.reason, str(error))
    if np.abs(samples - samples.mean()).max() < SILENT:
        return reject("audio-silent", "silent or constant")
    return np.asarray(samples, np.float32)


class Rows:
    """Batches of rows of similar length, and the loss on them."""

    def __init__(self, corpus: Corpus, train: list[int], config: TrainAlignerConfig, network: CTCNetwork) -> None:
        self._corpus = corpus
        self._config = config
        self._network = network
        self._order = sorted(train, key=lambda index: (corpus.length(index), corpus.ids[index]))

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Neighbours in the order of length, around a row drawn at random, of about `seconds` in all."""
        first = int(torch.randint(len(self._order), (1,), generator=generator))
        budget = self._config.seconds * SAMPLE_RATE
        size = max(1, round(budget / self._corpus.length(self._order[first])))
        low = max(0, min(first - size // 2, len(self._order) - size))
        return self.of(self._order[low : low + size], generator if self._config.noise else None)

    def of(self, rows: list[int], generator: torch.Generator | None) -> dict[str, Tensor]:
        """`samples` (B, n) filled up with silence, `frames` (B,), `labels` (sum,), `lengths` (B,)."""
        longest = max(self._corpus.length(index) for index in rows)
        samples = np.zeros((len(rows), longest), np.float32)
        for row, index in enumerate(rows):
            samples[row, : self._corpus.length(index)] = self._corpus.samples(index)
        if generator is not None:
            add_noise(samples, np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator))))
        spelled = [self._corpus.spelled[index] for index in rows]
        return {
            "samples": torch.from_numpy(samples),
            "frames": torch.tensor([self._corpus.length(index) // STRIDE for index in rows]),
            "labels": torch.tensor([label for labels in spelled for label in labels]),
            "lengths": torch.tensor([len(labels) for labels in spelled]),
        }

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`loss`: CTC in nats per character; in training less the prior, by which it may be negative."""
        network = self._network
        logits = network.logits(batch["samples"].to(network.spell.weight.device)).float()
        scores = functional.log_softmax(logits, dim=-1)
        if network.training and network.config.prior_weight:
            _update_prior(network, scores.detach(), batch["frames"])
            scores = scores - network.config.prior_weight * network.log_prior
        per_row = functional.ctc_loss(
            scores.transpose(0, 1),
            batch["labels"].to(scores.device),
            batch["frames"],
            batch["lengths"],
            reduction="none",
            zero_infinity=True,
        )
        return {"loss": per_row.sum() / batch["lengths"].sum()}


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
        loss += float(rows.losses(batch)["loss"]) * count
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
    progress: Progress,
    device: str,
) -> DirectoryResult:
    corpus, rejected = prepare(directory / "prepared", audio, config, progress)
    held = [index for index, row_id in enumerate(corpus.ids) if is_held_out(row_id, config.held_out)][:MEASURED]
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
    rows = Rows(corpus, train, config, network)
    lines = train_loop(
        LoopJob(
            directory,
            config,
            network,
            rows.batch,
            rows.losses,
            lambda: _validate(network, rows, held, corpus),
            device=device,
            progress=progress,
        )
    )
    save_ctc(directory / WEIGHTS_FILE, network)
    CTCAligner.from_checkpoint(directory / WEIGHTS_FILE, name=config.name or "ctc")  # what is written can be read
    best = min((line for line in lines if line["split"] == "valid"), key=lambda line: float(line["loss"]))
    parameters = sum(value.numel() for value in network.parameters())
    hours = corpus.audio.size / SAMPLE_RATE / 3600
    write_json(directory / "card.json", _card(directory, audio, config, corpus, best, parameters, hours))
    numbers = {"valid_loss": round(best["loss"], 5), "valid_cer": round(best["cer"], 5)}
    return DirectoryResult(
        artifacts=["card.json", WEIGHTS_FILE, *artifacts_of(directory)],
        totals={"hours": hours, "rows": len(corpus.ids), "parameters": parameters, **numbers},
        rejected=rejected,
    )


def _card(
    directory: Path,
    audio: Manifest,
    config: TrainAlignerConfig,
    corpus: Corpus,
    best: dict[str, Any],
    parameters: int,
    hours: float,
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
        "numbers": {"best_step": best["step"], "loss": round(best["loss"], 5), "cer": round(best["cer"], 5)},
    }
