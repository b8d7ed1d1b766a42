"""A benchmark for a model, from whatever the user names: items already imported, or files that become items first."""

import os
from pathlib import Path

from lst.errors import LstError
from lst.evaluate.benchmark import BenchmarkConfig, import_benchmark, import_benchmark_spec
from lst.manifest import Manifest, Progress, load_manifest


def benchmark_for(
    model: Manifest,
    data: Path,
    *,
    tokenizer: str | None = None,
    text_only: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """`data` as `lst.bench/1` with the units of `model`.

    A manifest is taken as it is. Files are imported once, with the model's own unit tokenizer (or `tokenizer`), into
    the user's cache, named by their content. Raises LstError if the model's tokenizer is not on this machine.
    """
    if (data / "manifest.json").is_file():
        return load_manifest(data, "lst.bench")
    name = None if text_only else tokenizer or _tokenizer_of(model)
    config = BenchmarkConfig(tokenizer=name)
    spec = import_benchmark_spec(data, config)
    out = cache_home() / "benchmarks" / f"{data.resolve().stem}-{spec.id[:16]}"
    out.parent.mkdir(parents=True, exist_ok=True)
    return import_benchmark(data, out, config, workers=workers, progress=progress)


def cache_home() -> Path:
    """Where things are kept that can be made again: $LST_CACHE, else the user's cache directory."""
    configured = os.environ.get("LST_CACHE")
    if configured:
        return Path(configured)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path(os.path.expanduser("~")) / ".cache") / "lst"


def _tokenizer_of(model: Manifest) -> str:
    from lst.assets import find_by_fingerprint

    wanted = model.fingerprints.get("tokenizer", "")
    found = find_by_fingerprint(wanted, "tokenizer") if wanted else None
    if found is None:
        raise LstError(
            f"The unit tokenizer of {model.path} (fingerprint {wanted[:12] or 'unknown'}) is not on this machine.",
            hint="Give its directory with --tokenizer, or compare text only with --mode t-t.",
        )
    return str(found)
