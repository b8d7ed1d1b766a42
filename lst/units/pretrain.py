"""Masked prediction of clusters: the training of a `HubertNetwork`, resumable to the bit.

    DIRECTORY/checkpoint.pt      weights, optimiser, step: written beside and renamed; the one before is kept
    DIRECTORY/metrics.jsonl      a line per logged step and per validation
    DIRECTORY/tensorboard/       the same numbers

Everything random in step k (batch, masks, dropout) is drawn from the seed and k, so there is no other state.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lst.errors import LstError
from lst.manifest import Progress, explain_os_errors, write_atomic
from lst.train.control import RunControl, TrainingStopped, stop_signals
from lst.units.hubert_config import NetworkConfig, PretrainConfig
from lst.units.network import HubertNetwork, hubert_loss, load_network, phone_loss, phone_scores
from lst.units.segments import Corpus, Segments, plain_segments

CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
METRICS = "metrics.jsonl"
VALID_ROWS = 40
log = logging.getLogger("lst.units")


def pretrain(
    directory: Path,
    corpus: Corpus,
    valid: Corpus | None,
    network_config: NetworkConfig,
    config: PretrainConfig,
    *,
    cluster_phones: "np.ndarray | None" = None,
    init: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> HubertNetwork:
    """Train, or go on with the training in `directory`, and return the network for evaluation, on the CPU.

    `config.steps`, `decay_share` and what is logged may differ from those of an earlier attempt: a run can be made
    longer. `cluster_phones`: (clusters,) the phone of each, for `config.phone_loss`. `init`: weights to start from,
    of a network of the same sizes, or without its `detail` or its last layers. Raises TrainingStopped after a stop
    signal (saved; the same call goes on), LstError for a loss that is not a number or a checkpoint of another network.
    """
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    network = HubertNetwork(network_config)
    if init is not None:
        _start_from(network, init)
    network.to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    segments = Segments(
        corpus, config.frames, network_config.mel_bands, config.seed, disturb=config.disturb, codec=config.codec
    )
    first = _restore(directory, network, optimizer)
    groups = None if cluster_phones is None else torch.from_numpy(cluster_phones.astype(np.int64)).to(device)
    recorder = _Recorder(directory, first)
    control = RunControl()
    saved_at = time.monotonic()
    with stop_signals(control):
        for step in range(first, config.steps):
            facts = _update(network, optimizer, segments, config, step, groups)
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                recorder.write(done, "train", facts())
            if valid is not None and (done % config.validate_every == 0 or done == config.steps):
                recorder.write(done, "valid", validate(network, valid, config.precision, groups))
            if progress is not None:
                progress(done, config.steps, "steps")
            if control.ending or done == config.steps or time.monotonic() - saved_at > config.checkpoint_seconds:
                _save(directory, network, optimizer, done)
                saved_at = time.monotonic()
            if control.ending and done < config.steps:
                raise TrainingStopped(
                    f"Stopped after step {done} of {config.steps}; the run is saved.",
                    hint="Run the same command again to continue.",
                    signal_number=control.signal_number or 15,
                )
    recorder.close()
    return network.cpu().eval().requires_grad_(False)


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up, constant, linear to 0 over the last `decay_share`.

    A longer run thus repeats the beginning of a shorter one.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    tail = max(1.0, config.decay_share * config.steps)
    return config.lr * min(warmup, (config.steps - step) / tail)


def _update(
    network: HubertNetwork,
    optimizer: torch.optim.Optimizer,
    segments: Segments,
    config: PretrainConfig,
    step: int,
    cluster_phones: torch.Tensor | None,
) -> Callable[[], dict[str, float]]:
    """One step of training. Returns what gives its numbers, if they are wanted."""
    started = time.monotonic()
    batch = segments[step]
    network.train()
    torch.manual_seed(config.seed * 1_000_003 + step)
    device = network.label_embs.device
    samples, targets = torch.from_numpy(batch.samples).to(device), torch.from_numpy(batch.targets).to(device)
    gain, places = torch.from_numpy(batch.band_gain).to(device), torch.from_numpy(batch.band_places).to(device)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        logits, mask = network.logits(samples, gain, places)
    loss = hubert_loss(logits.float(), targets, mask, config.unmasked_weight)
    if config.phone_loss and cluster_phones is not None:
        phones = torch.from_numpy(batch.phones).to(device)
        of_phones = phone_loss(logits.float(), phones, mask, config.unmasked_weight, cluster_phones)
        loss = loss + config.phone_loss * of_phones
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
    if not torch.isfinite(norm):
        raise LstError(f"The loss of step {step + 1} is not a number.", hint="Lower the learning rate.")
    optimizer.step()
    optimizer.zero_grad()

    def facts() -> dict[str, float]:
        hit, known = (logits.argmax(-1) == targets).float(), targets >= 0
        masked, open_ = mask & known, ~mask & known
        return {
            "loss": float(loss.detach()),
            "masked_accuracy": float(hit[masked].sum() / masked.sum().clamp(min=1)),
            "accuracy": float(hit[open_].sum() / open_.sum().clamp(min=1)),
            "grad_norm": float(norm),
            "lr": learning_rate(config, step),
            "seconds": time.monotonic() - started,
        }

    return facts


@torch.inference_mode()
def validate(
    network: HubertNetwork, corpus: Corpus, precision: str, cluster_phones: torch.Tensor | None = None
) -> dict[str, float]:
    """Nothing masked, nothing disturbed: cross entropy in nats and share of frames whose cluster is found.

    The same of phones, where they are known.
    """
    network.eval()
    device = network.label_embs.device
    clusters, phones_found = _Score(), _Score()
    for samples, targets, phones in plain_segments(corpus, 400, VALID_ROWS):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            features = network.features(torch.from_numpy(samples)[None].to(device))
            logits = network.predict(features)[0].float().cpu()
        clusters.add(logits.log_softmax(dim=-1), torch.from_numpy(targets))
        if cluster_phones is not None:
            phones_found.add(phone_scores(logits, cluster_phones.cpu()), torch.from_numpy(phones))
    return {
        **clusters.numbers(""),
        **(phones_found.numbers("phone_") if phones_found.frames else {}),
    }


class _Score:
    """Sums over frames whose label is known (not below 0)."""

    def __init__(self) -> None:
        self.loss, self.hits, self.frames = 0.0, 0.0, 0

    def add(self, scores: torch.Tensor, wanted: torch.Tensor) -> None:
        """(T, C) log probabilities and (T,) labels."""
        known = wanted >= 0
        self.loss += float(torch.nn.functional.nll_loss(scores[known], wanted[known], reduction="sum"))
        self.hits += float((scores.argmax(-1) == wanted)[known].sum())
        self.frames += int(known.sum())

    def numbers(self, prefix: str) -> dict[str, float]:
        """Means."""
        frames = max(self.frames, 1)
        return {f"{prefix}loss": self.loss / frames, f"{prefix}accuracy": self.hits / frames}


def _start_from(network: HubertNetwork, path: Path) -> None:
    """Weights of another network; the embeddings of its clusters too, where there are as many.

    What it lacks begins so that the function stays: a `detail` begins as nothing, and layers after its last one with
    output projections of zero.
    """
    source = load_network(path)
    weights = source.state_dict()
    own = network.state_dict()
    for name in own.keys() - weights.keys():
        weights[name] = own[name]
        parts = name.split(".")
        if parts[:2] == ["encoder", "layers"] and parts[3:5] in (["self_attn", "output_proj"], ["ffn", "output_proj"]):
            weights[name] = torch.zeros_like(own[name])
    if len(source.label_embs) != len(network.label_embs):
        weights["label_embs"] = network.label_embs.detach()
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise LstError(
            f"{path} has other sizes than the network to be trained: {source.config.model_dump(mode='json')}.",
            hint="Give the same sizes under hubert.network.",
        ) from error


def _save(directory: Path, network: HubertNetwork, optimizer: torch.optim.Optimizer, step: int) -> None:
    import io

    buffer = io.BytesIO()
    state = {
        "step": step,
        "config": network.config.model_dump(mode="json"),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, buffer)
    with explain_os_errors(f"saving the checkpoint of step {step} in {directory}"):
        if (directory / CHECKPOINT).exists():
            os.replace(directory / CHECKPOINT, directory / PREVIOUS)
        write_atomic(directory / CHECKPOINT, buffer.getvalue())


def _restore(directory: Path, network: HubertNetwork, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint that is whole; returns the steps done, 0 if there is none."""
    for path in (directory / CHECKPOINT, directory / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged zip or pickle makes of itself
            log.warning("%s is damaged (%s); the checkpoint before it is used.", path, error)
            continue
        if NetworkConfig.model_validate(state["config"]) != network.config:
            raise LstError(f"{path} belongs to a network of another size.", hint="Use another directory, or --force.")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])
    return 0


class _Recorder:
    """`metrics.jsonl` and TensorBoard; lines after the step a run resumes from are removed."""

    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = directory / METRICS
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            write_atomic(self._path, "".join(line + "\n" for line in kept))
        self._board: Any = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        self._board.flush()

    def close(self) -> None:
        self._board.close()
