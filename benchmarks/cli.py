"""How long the command line takes to start, against an empty Typer application, in turns so that load hits both."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EMPTY_APP = """
import typer
app = typer.Typer()

@app.callback(invoke_without_command=True)
def nothing(): ...

@app.command()
def one(): ...

@app.command()
def two(): ...

app()
"""
ROUNDS = 15


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall and CPU time of one run of `command`, which must succeed."""
    used, start = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.children_user + after.children_system - used.children_user - used.children_system


def main() -> None:
    """Print one line per command."""
    from lst.manifest import DirectoryResult, StageSpec, build_directory

    with tempfile.TemporaryDirectory() as scratch:
        empty = Path(scratch) / "empty.py"
        empty.write_text(EMPTY_APP)
        build_directory(Path(scratch) / "made", StageSpec("lst.eval/1", "bench", 1, {}), lambda _: DirectoryResult([]))
        lst = [sys.executable, "-m", "lst"]
        commands = {
            "empty": [sys.executable, str(empty), "--help"],
            "lst --help": [*lst, "--help"],
            "lst manifest show": [*lst, "manifest", "show", str(Path(scratch) / "made")],
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                times[name].append(seconds(command))
    medians = {name: [statistics.median(part) for part in zip(*values, strict=True)] for name, values in times.items()}
    empty = medians.pop("empty")
    for name, (wall, cpu) in medians.items():
        line = {
            "bench": f"cli: {name}",
            "seconds": round(wall, 3),
            "empty_typer_seconds": round(empty[0], 3),
            "ratio": round(wall / empty[0], 2),
            "cpu_ratio": round(cpu / empty[1], 2),
            "goal": "<= 1.3",
            "load_1min": round(os.getloadavg()[0], 1),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
