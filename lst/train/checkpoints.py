"""Checkpoints that are complete or absent, and the last good one if the newest is damaged.

    checkpoints/step-00001200/
        trainer-0.pt        counters, random states and metrics of process 0 (one file per process)
        model-0.pt  optimizer-0.pt           parameters and moments (FSDP2: one file per process, with its rows)
        data.pt             where the data goes on, in rows of all processes
        checkpoint.json     the step, the number of processes, and size and SHA-256 of every file: written last

Written beside, synced, renamed. fairseq2's own manager does neither sync nor hash, starts over when the newest is
damaged, and cannot go on with another number of processes; this one takes its place behind the same interface.
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq2.checkpoint import CheckpointManager
from fairseq2.gang import Gangs, broadcast_flag
from fairseq2.typing import Stateful
from torch import Tensor, nn

from lst.errors import LstError
from lst.manifest.files import explain_os_errors, fsync_directory, fsync_file, remove
from lst.train.config import CheckpointConfig
from lst.train.metrics import TALLY, as_counted_now
from lst.train.saving import INDEX, find_damage, save_state
from lst.train.shards import (
    is_sharded,
    load_model_pieces,
    load_optimizer_pieces,
    model_pieces,
    optimizer_pieces,
    read_pieces,
)

log = logging.getLogger("lst.train")


class DirectoryCheckpoints(CheckpointManager):
    """fairseq2's interface to checkpoints of `module` below `directory`.

    The trainer offers to save every few steps; `ending` tells that this is the last offer, else `config` says when
    it is time. `on_restored(step, totals)` is called after a checkpoint was loaded, with the counts of all processes.
    """

    def __init__(
        self,
        directory: Path,
        module: nn.Module,
        config: CheckpointConfig,
        gangs: Gangs,
        *,
        ending: Callable[[], bool] = lambda: False,
        on_restored: Callable[[int, Tensor], None] = lambda step, totals: None,
    ) -> None:
        self._directory = directory
        self._module = module
        self._config = config
        self._gangs = gangs
        self._ending = ending
        self._on_restored = on_restored
        self.totals = torch.zeros(0)
        self._saved_step = 0
        self._saved_time = time.monotonic()
        if gangs.root.rank == 0:
            directory.mkdir(parents=True, exist_ok=True)
            self._set_damaged_aside()
        gangs.root.barrier()

    # Saving

    def save_checkpoint(
        self,
        step_nr: int,
        trainer: Stateful,
        model: Stateful,
        optimizer: Stateful,
        data_reader: Stateful,
        *,
        ready_callback: Any = None,
        saved_callback: Any = None,
        blocking: bool = False,
    ) -> None:
        """Save, if it is time. Raises LstError if the disk is full: what was saved before is still there."""
        if not self._due(step_nr):
            return
        rank = self._gangs.root.rank
        files: dict[str, Callable[[], dict[str, Any]]] = {f"trainer-{rank}.pt": trainer.state_dict}
        if rank == 0 or is_sharded(self._module):
            files[f"model-{rank}.pt"] = lambda: model_pieces(self._module)
            files[f"optimizer-{rank}.pt"] = lambda: optimizer_pieces(optimizer)  # type: ignore[arg-type]
        if rank == 0:
            files["data.pt"] = data_reader.state_dict
        self._write(step_nr, files, {"processes": self._gangs.root.size})
        self._saved_step, self._saved_time = step_nr, time.monotonic()
        log.info("Checkpoint of step %d saved.", step_nr)
        if saved_callback is not None:
            saved_callback(step_nr, True)

    def _due(self, step: int) -> bool:
        if self._ending():
            return True
        every = self._config.every_steps
        if every is not None and step // every > self._saved_step // every:
            return True
        if self._config.every_seconds is None:
            return False
        # Clocks differ between machines: the first process decides for all.
        return broadcast_flag(self._gangs.root, time.monotonic() - self._saved_time >= self._config.every_seconds)

    def _write(self, step: int, files: dict[str, Callable[[], dict[str, Any]]], facts: dict[str, Any]) -> None:
        root = self._gangs.root
        final = self._path(step)
        temporary = final.with_suffix(".writing")
        with explain_os_errors(f"saving the checkpoint of step {step} in {self._directory}"):
            if root.rank == 0:
                remove(temporary)
                temporary.mkdir()
            root.barrier()
            try:
                digests = {name: save_state(temporary / name, state()) for name, state in files.items()}
                (temporary / f"files-{root.rank}.json").write_text(json.dumps(digests), encoding="utf-8")
            except OSError:
                remove(temporary)  # gives the space back
                raise
            root.barrier()
            if root.rank == 0:
                index: dict[str, Any] = {"step": step, **facts, "files": {}}
                for part in sorted(temporary.glob("files-*.json")):
                    index["files"] |= json.loads(part.read_text(encoding="utf-8"))
                    part.unlink()
                (temporary / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
                fsync_file(temporary / INDEX)
                fsync_directory(temporary)
                remove(final)
                temporary.rename(final)
                fsync_directory(self._directory)
            root.barrier()

    def save_model_only(
        self,
        step_nr: int,
        model: Stateful,
        *,
        ready_callback: Any = None,
        saved_callback: Any = None,
        blocking: bool = False,
    ) -> None:
        """Not used: every checkpoint is one to continue from."""
        raise LstError("A checkpoint without the optimiser cannot be continued from; lst does not write one.")

    def maybe_complete_save_operation(self, *, blocking: bool = False) -> bool | None:
        """Saving is never in the background: None, nothing to complete."""
        return None

    @property
    def is_saving(self) -> bool:
        return False

    def save_score(self, step_nr: int, score: float) -> None:
        """Scores are kept with the best weights, not with checkpoints."""
        raise LstError("Checkpoints carry no scores.")

    def load_scores(self) -> list[tuple[float, int]]:
        """None: see `save_score`."""
        return []

    # Loading

    def load_trainer_state(self, step_nr: int, trainer: Stateful) -> None:
        """Counters and random states of this process; with another number of processes, those of the first."""
        rank, processes = self._gangs.root.rank, self._facts(step_nr)["processes"]
        states = [self._load(step_nr, f"trainer-{other}.pt") for other in range(processes)]
        for state in states:
            state["_metric_bag"][TALLY]["values"] = as_counted_now(state["_metric_bag"][TALLY]["values"])
        self.totals = torch.stack([state["_metric_bag"][TALLY]["values"] for state in states]).sum(0)
        if processes == self._gangs.root.size:
            state = states[rank]
        else:
            # What all processes have counted so far becomes the first one's count; the others begin at zero.
            state = states[0]
            state["_metric_bag"][TALLY]["values"] = self.totals if rank == 0 else torch.zeros_like(self.totals)
        _keep_generators(state, trainer)
        trainer.load_state_dict(state)
        self._saved_step = step_nr

    def load_model_state(self, step_nr: int, model: Stateful) -> None:
        """The weights; this process's rows of them, if they are sharded."""
        load_model_pieces(self._module, read_pieces(self.model_files(step_nr)))

    def load_optimizer_state(self, step_nr: int, optimizer: Stateful) -> None:
        """The optimiser's moments and learning rates."""
        load_optimizer_pieces(optimizer, read_pieces(self._parts(step_nr, "optimizer")))  # type: ignore[arg-type]

    def load_data_reader_state(self, step_nr: int, data_reader: Stateful) -> None:
        """Where the data goes on, counted in rows of all processes. The last part to be loaded."""
        data_reader.load_state_dict(self._load(step_nr, "data.pt"))
        self._on_restored(step_nr, self.totals)

    def model_files(self, step: int) -> list[Path]:
        """The files that together hold the weights of a checkpoint."""
        return self._parts(step, "model")

    def _parts(self, step: int, kind: str) -> list[Path]:
        """The files of `kind` that the processes wrote, the first one's first."""
        names = [name for name in self._facts(step)["files"] if name.startswith(f"{kind}-")]
        return [self._path(step) / name for name in sorted(names, key=lambda name: int(name[len(kind) + 1 : -3]))]

    def _load(self, step: int, name: str) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(self._path(step) / name, map_location="cpu", weights_only=True)
        return state

    def _facts(self, step: int) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self._path(step) / INDEX).read_text(encoding="utf-8"))
        return facts

    # Finding and deleting

    def _path(self, step: int) -> Path:
        return self._directory / f"step-{step:08d}"

    def get_step_numbers(self, *, exclude_model_only: bool = False) -> list[int]:
        """Steps with a complete checkpoint, in order."""
        found = self._directory.glob(f"step-[0-9]*/{INDEX}")
        return sorted(int(path.parent.name[5:]) for path in found if not path.parent.suffix)

    def has_checkpoint(self, *, exclude_model_only: bool = False) -> bool:
        return bool(self.get_step_numbers())

    def maybe_get_last_step_number(self, *, exclude_model_only: bool = False) -> int | None:
        return next(iter(self.get_step_numbers()[::-1]), None)

    def get_stale_step_numbers(
        self, keep_last_n: int | None, keep_best_n: int | None, keep_every_n_steps: int | None
    ) -> list[int]:
        """All but the newest `keep_last_n`."""
        return self.get_step_numbers()[: -(keep_last_n or self._config.keep)]

    def delete_checkpoint(self, step_nr: int, *, keep_model: bool = False) -> None:
        # No barrier: each process lists what is stale for itself; one that lists after the first has deleted it finds
        # nothing and does not come here. Nobody reads a stale checkpoint, so nobody need wait.
        if self._gangs.root.rank == 0:
            remove(self._path(step_nr))

    def _set_damaged_aside(self) -> None:
        """Rename checkpoints that fail their hashes, from the newest down to the first good one."""
        for leftover in self._directory.glob("step-*.writing"):
            remove(leftover)
        for path in sorted(self._directory.glob("step-[0-9]*"), reverse=True):
            if path.suffix:
                continue
            problem = find_damage(path)
            if problem is None:
                return
            log.warning("%s is damaged (%s): going back to the checkpoint before it.", path, problem)
            aside = path.with_suffix(".damaged")
            remove(aside)
            path.rename(aside)

    def close(self) -> None:
        """Nothing is held open."""


def _keep_generators(state: dict[str, Any], trainer: Stateful) -> None:
    """A run saved on a GPU has the state of a generator more than one on a CPU: on the other device the process keeps
    its own. fairseq2 would refuse the run; lst draws from none of them (every draw has a generator of its own)."""
    fresh = trainer.state_dict()["_rng_bag"]
    if len(state["_rng_bag"]["generators"]) != len(fresh["generators"]):  # type: ignore[index]
        state["_rng_bag"] = fresh
