"""Models on disk: `model.safetensors`, `config.json` and the text tokenizer `tokenizer.model` in a directory.

    config.json        {"format": "lst-model/1", "lst": LSTConfig as JSON}
    model.safetensors  every parameter by its module name; tied weights once

Nothing here unpickles: a model file from anyone is safe to open.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lst.data.vocabulary import Vocabulary
from lst.errors import LstError
from lst.manifest import Manifest, check_hash, explain_os_errors, load_manifest, write_json
from lst.manifest.files import fsync_file, written_aside
from lst.manifest.manifest import MANIFEST_FILE
from lst.model.attention import Backend
from lst.model.config import LSTConfig
from lst.model.init import empty_model
from lst.model.lst import LST

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.model"
FORMAT = "lst-model/1"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to use (in eval mode), and what belongs to it."""

    model: LST
    config: LSTConfig
    directory: Path
    manifest: Manifest | None
    """None while a training run has not finished its directory yet."""

    @property
    def vocabulary(self) -> Vocabulary:
        return self.config.vocabulary

    @property
    def tokenizer_path(self) -> Path:
        """The text tokenizer's SentencePiece file. Raises LstError if the directory holds none."""
        if self.manifest is not None:
            return self.manifest.file(TOKENIZER_FILE)
        path = self.directory / TOKENIZER_FILE
        if not path.is_file():
            raise LstError(f"{self.directory} holds no {TOKENIZER_FILE}.", hint="Copy the text tokenizer into it.")
        return path


def write_weights(directory: Path, model: LST, config: LSTConfig) -> list[str]:
    """Writes `config.json` and `model.safetensors` into `directory`, each whole or not at all.

    Returns their names: what a stage lists as artifacts. Weights keep their dtype. Raises LstError if the disk is full.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():  # a tied weight comes once, under its first name
        tensors[name] = parameter.detach().to("cpu").contiguous()
    with explain_os_errors(f"writing {directory / WEIGHTS_FILE}"):
        with written_aside(directory / WEIGHTS_FILE) as temporary:
            save_file(tensors, temporary, metadata={"format": FORMAT})
            fsync_file(temporary)
        write_json(directory / CONFIG_FILE, {"format": FORMAT, "lst": config.as_json()})
    return [CONFIG_FILE, WEIGHTS_FILE]


def load_config(directory: Path | str) -> LSTConfig:
    """The configuration of the model in `directory`. Raises LstError if there is none or it is not understood."""
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        raise LstError(f"{directory} holds no model: there is no {CONFIG_FILE}.", hint="Give the --out of a training.")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LstError(f"{path} is damaged: not valid JSON.", hint="Restore it, or train again.") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        found = body.get("format") if isinstance(body, dict) else None
        raise LstError(f"{path} has format {found!r}, this lst reads {FORMAT!r}.", hint="Use the lst that wrote it.")
    try:
        return LSTConfig.model_validate(body.get("lst"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(all)"
        raise LstError(
            f"{path}: {key}: {first['msg']}.", hint="It was edited, or written by another version."
        ) from error


def load_model(directory: Path | str, device: torch.device | str = "cpu", *, backend: Backend = "auto") -> LoadedModel:
    """Loads the model in `directory` onto `device`, in eval mode.

    With a manifest the weights' hash is checked first. Raises LstError when files are missing or damaged, or when the
    weights do not fit the configuration.
    """
    path = Path(directory)
    manifest = load_manifest(path, "lst.model") if (path / MANIFEST_FILE).is_file() else None
    if manifest is not None:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            check_hash(manifest.file(name), manifest.artifacts[name].sha256)
    config = load_config(path)
    model = empty_model(config, backend)
    read_weights(path / WEIGHTS_FILE, model, device)
    return LoadedModel(model=model.eval(), config=config, directory=path, manifest=manifest)


def read_weights(path: Path, model: LST, device: torch.device | str = "cpu") -> None:
    """Puts the tensors of a weights file in place of the model's parameters (the model may be on the meta device).

    Weights stored in half precision become float32: it saves disk, not arithmetic. Raises LstError if the file is
    missing or damaged, or if a name or shape differs.
    """
    if not path.is_file():
        raise LstError(f"There are no weights at {path}.", hint="Train the model, or restore the file.")
    names = [name for name, _ in model.named_parameters()]
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            stored = set(file.keys())
            _same_names(path, set(names), stored)
            tensors = {name: _full(file.get_tensor(name)) for name in names}
    except SafetensorError as error:
        raise LstError(f"{path} is damaged: {error}.", hint="Restore it, or train again.") from error
    for name in names:
        expected = model.get_parameter(name)
        if tensors[name].shape != expected.shape:
            raise LstError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, the configuration says "
                f"{tuple(expected.shape)}.",
                hint="These weights belong to another configuration.",
            )
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie()


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _same_names(path: Path, expected: set[str], stored: set[str]) -> None:
    if expected == stored:
        return
    lacks, extra = sorted(expected - stored), sorted(stored - expected)
    what = f"lacks {lacks[0]}" if lacks else f"has an unknown {extra[0]}"
    raise LstError(
        f"{path} {what} ({len(lacks)} missing, {len(extra)} unknown in all).",
        hint="These weights belong to another configuration.",
    )
