"""The single commands' settings: a YAML file and KEY=VALUE changes, checked, with the nearest valid name in errors."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lst.config import StageConfig
from lst.errors import LstError, UsageError
from lst.manifest import Manifest, load_manifest
from lst.pipeline.recipe import check_config, parse_override, read_yaml, set_dotted
from lst.train.plan import training_plan
from lst.train.stage import PretrainConfig, model_config_of

C = TypeVar("C", bound=StageConfig)

PATHS = ("pairs", "text", "warm_start")
"""Keys of the file that name directories."""

PAPER_TEXT_SIZE = 32_000
"""Pieces of Llama-2's tokenizer: assumed for a plan without data."""


@dataclass(frozen=True)
class PretrainOptions:
    """What `lst pretrain --config FILE` was asked to do."""

    pairs: Path | None
    text: Path | None
    config: PretrainConfig

    def open(self) -> tuple[Manifest, Manifest]:
        """The data. Raises LstError naming the missing key or directory."""
        return _open(self.pairs, "pairs"), _open(self.text, "text")


def _open(directory: Path | None, key: str) -> Manifest:
    if directory is None:
        raise LstError(f"The settings name no {key}.", hint=f"Add {key}: DIR to the file, or {key}=DIR.")
    return load_manifest(directory, f"lst.{key}")


def load_pretrain_options(file: Path, changes: Sequence[str], *, warm_start: Path | None = None) -> PretrainOptions:
    """Read the YAML `file` and apply KEY=VALUE `changes`.

    Directories in the file are relative to it, those among the changes to the current directory. `warm_start` replaces
    the file's. Raises LstError for a key that does not exist, a value that does not fit, or a recipe.
    """
    body = read_yaml(file)
    if "stages" in body or "include" in body:
        raise LstError(
            f"{file} is a recipe: it names stages. lst pretrain takes a file with the settings of one.",
            hint=f"Run lst run {file}, or with --only pretrain; recipes/pretrain-nano.yaml shows the other form.",
        )
    given = {key: body.pop(key, None) for key in PATHS}
    paths = {key: file.parent / str(value) for key, value in given.items() if value is not None}
    left = []
    for change in changes:
        key, value = parse_override(change)
        if key not in PATHS:
            left.append(change)
        elif value is None:
            paths.pop(key, None)
        else:
            paths[key] = Path(str(value))
    config = settings_of(PretrainConfig, body, left, str(file))
    config = config.model_copy(update={"warm_start": warm_start or paths.get("warm_start")})
    return PretrainOptions(paths.get("pairs"), paths.get("text"), config)


def settings_of(config_class: type[C], settings: Mapping[str, Any], changes: Sequence[str], where: str) -> C:
    """A checked configuration from `settings` and KEY=VALUE `changes`; `where` begins the path in messages."""
    body = copy.deepcopy(dict(settings))  # changes go deep
    try:
        check_config(config_class, body, "")
    except LstError as error:
        raise LstError(f"{where}: {error.message}" if where else error.message, hint=error.hint) from error
    for change in changes:
        key, value = parse_override(change)
        set_dotted(body, key.split("."), value)
        try:
            config = check_config(config_class, body, "")
        except LstError as error:
            raise UsageError(f"{change}: {error.message}", hint=error.hint) from error
    config = check_config(config_class, body, "")
    assert isinstance(config, config_class)
    return config


def plan_of(options: PretrainOptions, *, processes: int = 1) -> dict[str, Any]:
    """What `--dry-run` prints of a run with so many processes; the data is looked at if it is there."""
    text_size, source = PAPER_TEXT_SIZE, "assumed"
    if options.pairs is not None and options.pairs.is_dir():
        from lst.data.loader import vocabulary_of

        text_size, source = vocabulary_of(load_manifest(options.pairs, "lst.pairs")).text_size, "of the data"
    config = options.config
    model = model_config_of(config, text_size=text_size)
    plan = training_plan(model, config, processes=processes, name_words=config.words is not None)
    return {"text_pieces": f"{text_size} ({source})", **plan}
