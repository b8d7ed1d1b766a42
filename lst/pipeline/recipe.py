"""Recipes: a YAML file that names stages, their sources and their settings; checked before anything runs.

name: demo
seed: 0                                  # for every stage that has a seed and does not set its own
stages:
  ingest: {source: sample, corpus: tsv}  # a stage's key is its name; paths are relative to the recipe
  finetune-asr:
    stage: finetune                      # its kind, where the name is not one
    inputs: {model: pretrain}            # where it reads from, where the default does not fit; settings that are models
                                         # (warm_start, recogniser, listener) may be stages too, which then come first;
                                         # null takes such an input away
    task: asr                            # everything else is the stage's own configuration

`include`, `settings` and `runs` save writing the same again: `lst.pipeline.expand`.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lst.config import StageConfig
from lst.errors import LstError, UsageError
from lst.manifest import Manifest
from lst.pipeline.expand import expand
from lst.pipeline.handshake import check_benchmarks
from lst.pipeline.kinds import StageKind, stage_kind

RECIPE_KEYS = ("name", "description", "seed", "include", "settings", "runs", "stages")
STAGE_KEYS = ("stage", "inputs", "source")


@dataclass(frozen=True)
class StageNode:
    """A stage of a recipe: its kind, its checked configuration, and where its inputs come from (role -> stage).

    Of a setting that is a model (`StageKind.models`) and comes from a stage, the configuration gets the path by `fed`.
    """

    name: str
    kind_name: str
    kind: StageKind
    config: StageConfig
    inputs: dict[str, str] = field(default_factory=dict)
    source: Path | None = None

    def fed(self, inputs: Mapping[str, Manifest]) -> tuple[list[Any], StageConfig]:
        """What its functions are called with: its source or the manifests it reads, and its configuration."""
        models = {role: inputs[role].path for role in self.kind.models if role in inputs}
        read = [inputs[role] for role in self.kind.inputs] if self.source is None else [self.source]
        return read, self.config.model_copy(update=models)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe; `stages` are in an order in which they can run."""

    name: str
    description: str
    stages: dict[str, StageNode]

    def needed_for(self, names: Iterable[str]) -> list[str]:
        """The stages `names` and everything they depend on, in running order. Raises UsageError for an unknown one."""
        wanted: set[str] = set()
        queue = list(names)
        while queue:
            name = queue.pop()
            if name not in self.stages:
                raise UsageError(f"The recipe {self.name} has no stage {name!r}.", hint=nearest(name, self.stages))
            if name not in wanted:
                wanted.add(name)
                queue.extend(self.stages[name].inputs.values())
        return [name for name in self.stages if name in wanted]


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint with the valid name nearest to `name`, or with all of them."""
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Valid are: {', '.join(names)}."


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe; `overrides` are KEY=VALUE strings with dotted keys (`pretrain.seed=1`).

    Raises LstError with the file, the path of the key, and the nearest valid name.
    """
    body = expand(path, read_yaml, _check_keys)
    stages = body["stages"]
    if not isinstance(stages, dict) or not stages:
        raise LstError(f"{path}: stages: a mapping of stage names to their settings is needed here.")
    for override in overrides:
        key, value = parse_override(override)
        parts = key.removeprefix("stages.").split(".")
        if parts[0] == "seed" and len(parts) == 1:
            body["seed"] = value
            continue
        if parts[0] not in stages:
            raise UsageError(f"--set {override}: the recipe has no stage {parts[0]!r}.", hint=nearest(parts[0], stages))
        if len(parts) == 1:
            raise UsageError(f"--set {override}: a key of stage {parts[0]} is needed: {parts[0]}.KEY=VALUE.")
        set_dotted(stages, parts, value)
    nodes = {
        str(name): _stage_node(path, str(name), settings or {}, body.get("seed"), stages)
        for name, settings in stages.items()
    }
    ordered = _in_order(path, nodes)
    check_benchmarks(path, ordered)
    return Recipe(str(body.get("name", path.stem)), str(body.get("description", "")), ordered)


def _check_keys(path: Path, body: Mapping[str, Any]) -> None:
    for key in body:
        if key not in RECIPE_KEYS:
            raise LstError(f"{path}: unknown key {key!r}.", hint=nearest(str(key), RECIPE_KEYS))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises LstError with the line of a mistake; duplicate keys are one."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *other`: the keys of another mapping, which those beside it replace
            key = loader.construct_object(key_node)
            if key in seen:
                raise LstError(f"{path}, line {key_node.start_mark.line + 1}: {key!r} stands here twice.")
            seen.add(key)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        body = yaml.load(path.read_text(encoding="utf-8"), Loader)  # a SafeLoader: plain data only
    except FileNotFoundError as error:
        raise LstError(f"{path} does not exist.", hint="Give the path of a YAML file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise LstError(f"{path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise LstError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)}).") from error
    if not isinstance(body, dict):
        raise LstError(f"{path}: a mapping of keys to values is needed, not {type(body).__name__}.")
    return body


def parse_override(text: str) -> tuple[str, Any]:
    """`a.b=1` -> (`a.b`, 1); the value is read as YAML. Raises UsageError."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r} is not KEY=VALUE.", hint="Example: pretrain.seed=1")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"{text!r}: the value is not valid YAML.") from error


def set_dotted(target: dict[str, Any], parts: list[str], value: Any) -> None:
    """Set `target[a][b]… = value`, making mappings on the way; those below `target` may be shared (by `use`, or YAML's
    aliases), so copies are changed."""
    for part in parts[:-1]:
        inner = target.get(part)
        target[part] = dict(inner) if isinstance(inner, dict) else {}
        target = target[part]
    target[parts[-1]] = value


def check_config(config_class: type[StageConfig], settings: Mapping[str, Any], where: str) -> StageConfig:
    """`settings` as a checked configuration. Raises LstError with the path of the first wrong key and what is valid."""
    import pydantic

    try:
        return config_class.model_validate(dict(settings))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        path = ".".join([where, *(str(part) for part in first["loc"])]) if where else ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            valid = _keys_at(config_class, [str(part) for part in first["loc"][:-1]])
            raise LstError(f"{path}: unknown key.", hint=nearest(str(first["loc"][-1]), valid)) from error
        of_several = first["type"] == "value_error" and isinstance(first["input"], Mapping)  # the message names them
        given = "" if first["type"] == "missing" or of_several else f" (it is {first['input']!r})"
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise LstError(f"{path}: {message}{given}." if path else f"{message}{given}.") from error


def _keys_at(config_class: Any, parts: list[str]) -> list[str]:
    """Names valid below the dotted path `parts` of a configuration class."""
    import typing

    import pydantic

    for part in parts:
        fields = getattr(config_class, "model_fields", {})
        if part not in fields:
            continue  # the name of a union's branch, which pydantic puts into the path
        annotation = fields[part].annotation
        options = [annotation, *typing.get_args(annotation)]
        models = [item for item in options if isinstance(item, type) and issubclass(item, pydantic.BaseModel)]
        if not models:
            return []
        config_class = models[0]
    return list(getattr(config_class, "model_fields", {}))


def _stage_node(path: Path, name: str, settings: Any, seed: Any, stages: Mapping[str, Any]) -> StageNode:
    where = f"{path}: stages.{name}"
    if not isinstance(settings, dict):
        raise LstError(f"{where}: a mapping of settings is needed here.")
    kind_name = str(settings.get("stage", name))
    kind = stage_kind(kind_name, where if "stage" not in settings else f"{where}.stage")
    given = settings.get("inputs") or {}
    if not isinstance(given, dict):
        raise LstError(f"{where}.inputs: a mapping of roles to stages is needed here.")
    given = {role: stage for role, stage in given.items() if stage is not None or role not in kind.models}
    for role in given:
        if role not in (*kind.inputs, *kind.models):
            valid = [*kind.inputs, *kind.models]
            raise LstError(f"{where}.inputs.{role}: {kind_name} has no such input.", hint=nearest(role, valid))
        if role in kind.models and role in settings:
            raise LstError(f"{where}.{role}: it stands among the inputs too.", hint="Give a stage or a path, not both.")
    inputs = {role: str(given.get(role, default)) for role, default in kind.inputs.items()}
    inputs |= {role: str(given[role]) for role in kind.models if role in given}
    for role, upstream in inputs.items():
        if upstream not in stages:
            raise LstError(
                f"{where}.inputs.{role}: the recipe has no stage {upstream!r}.", hint=nearest(upstream, stages)
            )
    source = settings.get("source")
    if kind.needs_source and not source:
        raise LstError(f"{where}.source: the path of what {kind_name} reads is needed.")
    if source and not kind.needs_source:
        raise LstError(f"{where}.source: {kind_name} reads other stages, not a path.", hint="Remove the key.")
    own = {key: value for key, value in settings.items() if key not in STAGE_KEYS}
    if seed is not None and "seed" in kind.config.model_fields:
        own.setdefault("seed", seed)
    for key in (*kind.paths, *kind.models):
        if isinstance(own.get(key), str):
            own[key] = str(path.parent / own[key])
    return StageNode(
        name=name,
        kind_name=kind_name,
        kind=kind,
        config=check_config(kind.config, own, where),
        inputs=inputs,
        source=(path.parent / str(source)) if source else None,
    )


def _in_order(path: Path, nodes: dict[str, StageNode]) -> dict[str, StageNode]:
    """The stages so that each comes after its inputs, otherwise in the recipe's order. Raises LstError on a cycle."""
    ordered: dict[str, StageNode] = {}
    left = dict(nodes)
    while left:
        ready = [name for name, node in left.items() if all(source in ordered for source in node.inputs.values())]
        if not ready:
            raise LstError(f"{path}: the stages {', '.join(left)} wait for each other.", hint="Break the cycle.")
        ordered[ready[0]] = left.pop(ready[0])
    return ordered
