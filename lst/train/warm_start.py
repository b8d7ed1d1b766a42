"""What pre-training may begin as: a text model of Llama's architecture, or a model of this toolkit that goes on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lst.assets.models import find_model
from lst.errors import LstError
from lst.manifest import Manifest, load_manifest, sha256_file

if TYPE_CHECKING:
    from lst.model.config import LSTConfig
    from lst.model.lst import LST


def find_start(given: Path) -> Path:
    """The directory that `given` names: its own, or that of an asset (`lst-nano`, `lst-nano/asr`)."""
    return find_model(given, "pretrained").directory


def start_manifest(directory: Path) -> Manifest | None:
    """The manifest of a model of this toolkit; None for a text model. Raises LstError for one without its manifest."""
    if (directory / "manifest.json").is_file():
        return load_manifest(directory, "lst.model")
    if _is_ours(directory):
        raise LstError(
            f"{directory} is a model without its manifest.json, which says what units and text it knows.",
            hint="Give the directory that lst pretrain or finetune wrote.",
        )
    return None


def start_fingerprint(directory: Path) -> str:
    """A hash of what a run would begin as; where it lies does not count."""
    if start_manifest(directory) is not None:
        from lst.model.checkpoint import WEIGHTS_FILE

        return sha256_file(directory / WEIGHTS_FILE)
    from lst.model.llama import fingerprint

    return fingerprint(directory)


def check_start(directory: Path, config: "LSTConfig", pairs: Manifest) -> None:
    """Raise LstError unless the model fits `config` (patching aside) and, if it is ours, the tokenizers of `pairs`."""
    ours = start_manifest(directory)
    if ours is None:
        from lst.model.llama import check_shape

        check_shape(directory, config)
        return
    from lst.model.checkpoint import load_config
    from lst.train.inputs import check_fingerprints

    check_fingerprints(ours, pairs)
    theirs, wanted = load_config(directory).as_json(), config.as_json()
    different = sorted(key for key in wanted if key != "patching" and theirs.get(key) != wanted[key])
    if different:
        key = different[0]
        raise LstError(
            f"{directory} has {key} {theirs.get(key)}, the settings make {wanted[key]}.",
            hint="Give the model.preset and model.overrides that it was trained with: lst model tells what they make.",
        )


def start_as(model: "LST", directory: Path) -> None:
    """Give `model` (of a shape that `check_start` found to fit) the weights of the model in `directory`."""
    ours = start_manifest(directory)
    if ours is None:
        from lst.model.llama import warm_start

        warm_start(model, directory)
        return
    from lst.manifest import check_hash
    from lst.model.checkpoint import WEIGHTS_FILE, read_weights

    check_hash(ours.file(WEIGHTS_FILE), ours.artifacts[WEIGHTS_FILE].sha256)
    read_weights(directory / WEIGHTS_FILE, model)


def _is_ours(directory: Path) -> bool:
    try:
        body = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # a text model's reader says what is wrong with it
    return isinstance(body, dict) and "lst" in body and "format" in body
