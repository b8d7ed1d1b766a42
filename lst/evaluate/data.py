"""A benchmark for a model, from whatever the user names: items already imported, or files that become items first."""

import os
from pathlib import Path

from lst.errors import LstError
from lst.evaluate.benchmark import BenchmarkConfig, cached_benchmark, has_audio
from lst.manifest import Manifest, Progress, load_manifest


class NoUnits(LstError):
    """The model's units cannot be made here: its unit tokenizer is missing, or it never met speech."""


def benchmark_for(
    model: Manifest,
    data: Path,
    *,
    kind: str = "auto",
    tokenizer: str | None = None,
    text_only: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """`data` as `lst.bench/1` with the units of `model`.

    A manifest is taken as it is. Files are imported once, with the model's own unit tokenizer (or `tokenizer`), into
    the user's cache, named by their content. Raises LstError if the model's tokenizer is not on this machine, or if
    `data` is another benchmark than `kind`.
    """
    # A spoken benchmark (lst make-benchmark) is a manifest too, of files that are still to be imported.
    if (data / "manifest.json").is_file() and load_manifest(data).schema != "lst.spoken/1":
        made = load_manifest(data, "lst.bench")
        found = made.config.get("kind", "storycloze")
        if kind not in ("auto", found) and made.config.get("kind") is not None:
            raise LstError(f"{data} holds {found}, not {kind}.", hint=f"Run lst eval {found} on it.")
        return made
    name = None
    if not text_only and has_audio(data, kind):
        name = tokenizer or tokenizer_of(model)
    config = BenchmarkConfig(kind=kind, tokenizer=name)
    return cached_benchmark(data, cache_home() / "benchmarks", config, workers=workers, progress=progress)


def cache_home() -> Path:
    """Where things are kept that can be made again: $LST_CACHE, else the user's cache directory."""
    configured = os.environ.get("LST_CACHE")
    if configured:
        return Path(configured)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path(os.path.expanduser("~")) / ".cache") / "lst"


def tokenizer_of(model: Manifest) -> str:
    """The unit tokenizer that `model` was trained with. Raises NoUnits if there is none, or not on this machine."""
    from lst.assets import find_by_fingerprint

    wanted = model.fingerprints.get("tokenizer", "")
    if not hears(model) or not wanted:
        raise NoUnits(f"{model.path} was trained on text only.", hint="Measure it on text: --mode t-t.")
    found = find_by_fingerprint(wanted, "tokenizer")
    if found is None:
        raise NoUnits(
            f"The unit tokenizer of {model.path} (fingerprint {wanted[:12]}) is not on this machine.",
            hint="Give its directory with --tokenizer, or compare text only with --mode t-t.",
        )
    return str(found)


def hears(model: Manifest) -> bool:
    """Whether speech was in the mixture that `model`, or the model it was fine-tuned from, was trained on."""
    for config in (model.config, *(entry["config"] for entry in model.ancestors.values())):
        mixture = config.get("mixture")
        if isinstance(mixture, dict) and not mixture.get("speech", 1):
            return False
    return True
