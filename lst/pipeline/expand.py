"""What a recipe says in short, written out: other files' stages, shared settings, and runs that differ in a little.

include: [data.yaml]                       # its stages and settings stand here too; its paths are relative to it
settings:
  train: {stage: pretrain, budget: {kind: flops, amount: 2.0e14}}
runs:                                      # one block, or a list of them
  seeds: [0, 1]                            # optional: {run} is ARM-SEED, and the stage {run} gets the seed
  arms:                                    # what the stage {run} says differently
    base: {patching: {mode: none}}
    static: {patching: {mode: static, size: 4}}
  stages:
    "{run}": {use: train}                  # `use: NAME` (or a list): these settings, with what stands beside it on top
    "{run}-losses": {stage: eval-losses, inputs: {model: "{run}"}}

Mappings are merged key by key, anything else is replaced. What comes out has stages only.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lst.errors import LstError
from lst.pipeline import kinds

RUN = "{run}"
BLOCK_KEYS = ("arms", "seeds", "stages")

Reader = Callable[[Path], dict[str, Any]]


def expand(path: Path, read: Reader, check: Callable[[Path, dict[str, Any]], None]) -> dict[str, Any]:
    """The recipe at `path` with `stages` only; paths of included stages are relative to the folder of `path`.

    `read` gives a file's mapping, `check` refuses unknown keys. Raises LstError naming the file and the key.
    """
    body, stages, _ = _expand(path, read, check, ())
    return {key: value for key, value in body.items() if key not in ("include", "settings", "runs")} | {
        "stages": stages
    }


def _expand(
    path: Path, read: Reader, check: Callable[[Path, dict[str, Any]], None], above: tuple[Path, ...]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The file's own mapping, its stages and its settings, those of included files among them."""
    if path.resolve() in above:
        raise LstError(f"{path}: include: it includes itself.", hint="Break the circle.")
    body = read(path)
    check(path, body)
    stages: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for name in _list(body.get("include", []), f"{path}: include"):
        other = path.parent / str(name)
        _, their_stages, their_settings = _expand(other, read, check, (*above, path.resolve()))
        folder = Path(str(name)).parent
        moved = {key: _moved(value, folder, name=str(key)) for key, value in their_stages.items()}
        _add(stages, moved, f"{path}: include {name}")
        settings |= {key: _moved(value, folder) for key, value in their_settings.items()}
    settings |= _mapping(body.get("settings", {}), f"{path}: settings")
    own = _mapping(body.get("stages", {}), f"{path}: stages")
    _add(
        stages, {key: opened(value, settings, f"{path}: stages.{key}") for key, value in own.items()}, f"{path}: stages"
    )
    blocks = body.get("runs", [])
    for number, block in enumerate(blocks if isinstance(blocks, list) else [blocks]):
        where = f"{path}: runs" + (f"[{number}]" if isinstance(blocks, list) else "")
        _add(stages, _runs(block, settings, where), where)
    return body, stages, settings


def _runs(block: Any, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The stages of one block of runs."""
    block = opened(_mapping(block, where), settings, where)
    for key in block:
        if key not in BLOCK_KEYS:
            raise LstError(f"{where}.{key}: unknown key.", hint=f"Valid are: {', '.join(BLOCK_KEYS)}.")
    arms = _mapping(block.get("arms", {}), f"{where}.arms")
    templates = _mapping(block.get("stages", {}), f"{where}.stages")
    if not arms or not templates:
        raise LstError(f"{where}: arms and stages are both needed.")
    if not all(RUN in str(name) for name in templates):
        raise LstError(f"{where}.stages: every name must hold {RUN}.", hint="Other stages belong below stages.")
    seeds = _list(block.get("seeds", [None]), f"{where}.seeds")
    stages: dict[str, Any] = {}
    for arm, changes in arms.items():
        changes = opened(changes or {}, settings, f"{where}.arms.{arm}")
        for seed in seeds:
            run = str(arm) if seed is None else f"{arm}-{seed}"
            for name, template in templates.items():
                filled = opened(_filled(template or {}, run), settings, f"{where}.stages.{name}")
                if name == RUN:
                    filled = merged(filled, changes) | ({} if seed is None else {"seed": seed})
                stages[str(name).replace(RUN, run)] = filled
    return stages


def merged(below: Any, above: Any) -> Any:
    """`above` over `below`: mappings key by key, anything else replaced."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{key: merged(below[key], value) if key in below else value for key, value in above.items()}}
    return above


def opened(value: Any, settings: Mapping[str, Any], where: str) -> Any:
    """A mapping with `use` as those settings with the rest of the mapping on top; anything else as it is.

    What lies deeper is left alone: in the stages of a block, `use` may depend on {run}.
    """
    if not isinstance(value, Mapping) or "use" not in value:
        return value
    start: Any = {}
    for name in _list(value["use"], f"{where}.use"):
        if name not in settings:
            known = ", ".join(settings) or "none"
            raise LstError(f"{where}.use: there are no settings called {name!r}.", hint=f"There are: {known}.")
        others = {key: item for key, item in settings.items() if key != name}  # so that a circle ends
        start = merged(start, opened(settings[name], others, f"settings.{name}"))
    return merged(start, {key: item for key, item in value.items() if key != "use"})


def _filled(value: Any, run: str) -> Any:
    """Every `{run}` replaced."""
    if isinstance(value, Mapping):
        return {key: _filled(item, run) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, run) for item in value]
    return value.replace(RUN, run) if isinstance(value, str) else value


def _moved(stage: Any, folder: Path, *, name: str = "") -> Any:
    """A stage of a file in `folder`, or settings for one: its paths, as they are called from here.

    Of settings that do not say for which kind they are, those are paths that name a model in any kind.
    """
    if not isinstance(stage, Mapping):
        return stage
    kind = kinds.KINDS.get(str(stage.get("stage", name)))  # a name that is none is told when stages are checked
    any_model = [key for other in kinds.KINDS.values() for key in other.models]
    paths = [*kind.paths, *kind.models] if kind else any_model
    moved = {key: (folder / stage[key]).as_posix() for key in paths if isinstance(stage.get(key), str)}
    if stage.get("source"):
        moved["source"] = (folder / str(stage["source"])).as_posix()
    return {**stage, **moved}


def _add(stages: dict[str, Any], more: Mapping[str, Any], where: str) -> None:
    """Add stages; one that is there must be the same."""
    for name, stage in more.items():
        if name in stages and stages[name] != stage:
            raise LstError(f"{where}: the stage {name!r} is there already, with other settings.", hint="Rename it.")
        stages[name] = stage


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise LstError(f"{where}: a mapping is needed here, not {type(value).__name__}.")
    return dict(value)


def _list(value: Any, where: str) -> list[Any]:
    """A list, or a single value as one."""
    if isinstance(value, Mapping):
        raise LstError(f"{where}: a list is needed here.")
    return list(value) if isinstance(value, list) else [value]
