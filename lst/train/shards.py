"""State that may be spread over processes, saved in pieces and put together again for any number of them.

FSDP2 gives every process some rows (the first dimension) of every parameter, and the optimiser's moments lie beside
them. A piece is `{"rows": tensor, "first": where they begin, "shape": of the whole}`; a process writes its own, and on
loading takes from everybody's files the rows that are its own now. What all processes hold alike is one piece, written
by the first. fairseq2 saves such state per process and cannot load it with another number of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.optim import Optimizer

from lst.errors import LstError

Pieces = dict[str, Any]
"""Pieces by name."""


def is_sharded(module: nn.Module) -> bool:
    """Whether this process holds only a part of the module's parameters."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def model_pieces(module: nn.Module) -> Pieces:
    """This process's pieces of a module's parameters and buffers."""
    return {name: _piece(value) for name, value in module.state_dict().items()}


def optimizer_pieces(optimizer: Optimizer) -> Pieces:
    """This process's pieces of an optimiser's state, and its settings under `groups`."""
    state = optimizer.state_dict()
    pieces: Pieces = {"groups": state["param_groups"]}
    for index, entry in state["state"].items():
        for name, value in entry.items():
            pieces[f"{index}.{name}"] = _piece(value)
    return pieces


def load_model_pieces(module: nn.Module, parts: Sequence[Pieces]) -> None:
    """Fill a module, sharded or not, from everybody's pieces."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            _own(value).copy_(_take(name, parts, value))


def load_optimizer_pieces(optimizer: Optimizer, parts: Sequence[Pieces]) -> None:
    """Fill an optimiser from everybody's pieces; its parameters say which rows are this process's."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key in parts[0]:
        if key == "groups":
            continue
        index, _, name = key.partition(".")
        like = parameters[int(index)]
        whole = parts[0][key]["shape"] == list(like.shape)  # else a counter, which everybody holds
        own = _take(key, parts, like if whole else torch.empty(parts[0][key]["shape"]))
        if whole and isinstance(like, DTensor):
            own = DTensor.from_local(
                own.to(like.to_local().device),
                like.device_mesh,
                like.placements,
                run_check=False,
                shape=like.shape,
                stride=like.stride(),
            )
        state.setdefault(int(index), {})[name] = own
    optimizer.load_state_dict({"state": state, "param_groups": parts[0]["groups"]})


def read_pieces(files: Sequence[Path]) -> list[Pieces]:
    """Everybody's files. The tensors stay on disk until their rows are taken."""
    return [torch.load(file, map_location="cpu", weights_only=True, mmap=True) for file in files]


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a module, whole, on the CPU. All processes have to call this together."""
    state = {}
    for name, value in module.state_dict().items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        state[name] = whole.detach().to("cpu")
        del whole
    return state


def _piece(value: Any) -> dict[str, Any]:
    tensor = torch.as_tensor(value).detach()
    return {"rows": _own(tensor), "first": _first_row(tensor), "shape": list(tensor.shape)}


def _own(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _first_row(value: Tensor) -> int:
    """Where this process's rows begin: FSDP2 cuts the first dimension as `torch.chunk` does."""
    if not isinstance(value, DTensor) or all(isinstance(placement, Replicate) for placement in value.placements):
        return 0
    (sharded,) = [n for n, placement in enumerate(value.placements) if not isinstance(placement, Replicate)]
    if value.placements[sharded] != Shard(0):
        raise LstError(f"A parameter is cut along {value.placements[sharded]}, which checkpoints do not know.")
    processes, rank = value.device_mesh.size(sharded), value.device_mesh.get_local_rank(sharded)
    return min(value.shape[0], rank * -(-value.shape[0] // processes))


def _take(name: str, parts: Sequence[Mapping[str, Any]], like: Tensor) -> Tensor:
    """The rows of `like` that are this process's, from everybody's pieces."""
    own = _own(like)
    if like.dim() == 0:
        rows: Tensor = parts[0][name]["rows"]
        return rows.clone()
    first = _first_row(like)
    found = torch.empty(own.shape, dtype=parts[0][name]["rows"].dtype)
    filled = 0
    for part in parts:
        piece = part.get(name)
        if piece is None:
            continue
        if piece["shape"] != list(like.shape):
            raise LstError(f"The checkpoint's {name} has shape {piece['shape']}, the model's {list(like.shape)}.")
        start, stop = max(first, piece["first"]), min(first + len(own), piece["first"] + len(piece["rows"]))
        if start < stop:
            found[start - first : stop - first] = piece["rows"][start - piece["first"] : stop - piece["first"]]
            filled += stop - start
    if filled != len(own):
        raise LstError(f"The checkpoint holds {filled} of the {len(own)} rows of {name} that are needed here.")
    return found
