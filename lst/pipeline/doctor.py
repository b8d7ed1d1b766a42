"""What the machine and the installation can do: the facts a bug report needs."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lst.assets import all_cards, asset_home, verify_asset
from lst.errors import LstError

CORE = ("torch", "torchaudio", "fairseq2", "soundfile", "pyarrow", "sentencepiece", "pocketsphinx", "scikit-learn")
PINNED = {"torch": "2.9.1"}
"""fairseq2n 0.8.1 is built against exactly this torch."""


@dataclass(frozen=True)
class Check:
    """One finding. An `optional` one that is not ok limits what can be done, but breaks nothing."""

    name: str
    ok: bool
    detail: str
    optional: bool = False


def examine() -> list[Check]:
    """Run every check; a check that fails unexpectedly is itself a finding."""
    checks: list[Check] = []
    parts: tuple[Callable[[], list[Check]], ...] = (_machine, _packages, _sound, _accelerator, _assets)
    for part in parts:
        try:
            checks += part()
        except (ImportError, OSError, LstError) as error:
            checks.append(Check(part.__name__.strip("_"), False, f"{type(error).__name__}: {error}"))
    return checks


def _machine() -> list[Check]:
    version = platform.python_version()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    supported = version.startswith(("3.11.", "3.12."))
    return [
        Check("python", supported, version if supported else f"{version}; 3.11 or 3.12 is needed"),
        Check("cores", True, str(len(os.sched_getaffinity(0)))),
        Check("memory", pages >= 4, f"{pages:.1f} GiB" + ("" if pages >= 4 else "; the demo needs 4")),
        Check("disk", free >= 2, f"{free:.1f} GiB free here" + ("" if free >= 2 else "; the demo needs 2")),
    ]


def _packages() -> list[Check]:
    checks = []
    for name in CORE:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(name, False, "not installed; run: uv sync --locked"))
            continue
        wanted = PINNED.get(name)
        right = wanted is None or version.split("+")[0] == wanted
        checks.append(Check(name, right, version if right else f"{version}; {wanted} is needed; run: uv sync --locked"))
    import fairseq2
    import soundfile  # noqa: F401  (before fairseq2: its wheel brings the libsndfile that fairseq2 looks for)

    checks.append(Check("fairseq2 loads", True, f"{fairseq2.__version__}, with the libsndfile of soundfile"))
    return checks


def _sound() -> list[Check]:
    import soundfile

    formats = soundfile.available_formats()
    missing = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name not in formats]
    detail = f"libsndfile {soundfile.__libsndfile_version__}" + (f" lacks {', '.join(missing)}" if missing else "")
    return [Check("sound formats", not missing, detail)]


def _accelerator() -> list[Check]:
    import torch

    if not torch.cuda.is_available():
        return [Check("GPU", False, "none: everything runs on the CPU", optional=True)]
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return [Check("GPU", True, f"{names}; CUDA {torch.version.cuda}")]


def _assets() -> list[Check]:
    checks = []
    for name, (card, directory) in all_cards().items():
        if directory is None:
            checks.append(Check(f"{card.kind} {name}", False, f"not in {asset_home()}", optional=True))
            continue
        problems = verify_asset(directory)
        checks.append(Check(f"{card.kind} {name}", not problems, problems[0] if problems else "intact"))
    return checks
