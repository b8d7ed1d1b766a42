"""Whether the parts of a recipe will understand each other: told before hours are spent on training one of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lst.errors import LstError

if TYPE_CHECKING:
    from lst.pipeline.recipe import StageNode


def check_benchmarks(path: Path, stages: "Mapping[str, StageNode]") -> None:
    """Raise LstError if a benchmark's units would be another tokenizer's than those of the model it is to test.

    A tokenizer that is not on this machine is left to the stage that uses it.
    """
    for node in stages.values():
        bench = stages.get(node.inputs.get("bench", ""))
        units = _behind(stages, node.inputs.get("model", ""), "tokenize-audio")
        if bench is None or units is None or bench.kind_name != "import-benchmark":
            continue
        theirs, ours = (str(getattr(other.config, "tokenizer", "")) for other in (bench, units))
        if getattr(bench.config, "tokenizer", None) is None or theirs == ours:
            continue
        from lst.units import tokenizer_fingerprint

        try:
            same = tokenizer_fingerprint(theirs) == tokenizer_fingerprint(ours)
        except LstError:
            continue
        if not same:
            raise LstError(
                f"{path}: stages.{bench.name}.tokenizer: {node.name} would test a model of the units of {ours} with "
                f"those of {theirs}.",
                hint=f"Set it to {ours} (--set {bench.name}.tokenizer={ours}).",
            )


def _behind(stages: "Mapping[str, StageNode]", name: str, kind: str) -> "StageNode | None":
    """The stage of this kind that `name` was made from, however far back."""
    node = stages.get(name)
    if node is None or node.kind_name == kind:
        return node
    found = (_behind(stages, other, kind) for other in node.inputs.values())
    return next((each for each in found if each is not None and each.kind_name == kind), None)
