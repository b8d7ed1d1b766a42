"""Run every benchmark of this directory, each in a process of its own, and print their JSON lines.

python -m benchmarks                  # all but the long ones: under ten minutes on two cores
python -m benchmarks cli units        # some
python -m benchmarks generation-1.1b  # a long one: minutes, gigabytes
"""

import json
import os
import subprocess
import sys
from pathlib import Path

LONG = {"generation-1.1b": ["generation", "1.1b"], "steps-420m": ["steps", "420m", "256"]}
"""Name, and the module with its arguments."""


def main() -> int:
    """Returns the number of benchmarks that failed."""
    here = Path(__file__).resolve().parent
    short = sorted(path.stem for path in here.glob("*.py") if not path.stem.startswith("_"))
    known = [*short, *LONG]
    chosen = sys.argv[1:] or short
    unknown = [name for name in chosen if name not in known]
    if unknown:
        sys.stderr.write(f"No benchmark {', '.join(unknown)}; there are {', '.join(known)}.\n")
        return 2
    machine = {"cores": len(os.sched_getaffinity(0)), "load_1min": round(os.getloadavg()[0], 2)}
    print(json.dumps({"bench": "machine", **machine}), flush=True)
    failed = 0
    for name in chosen:
        module, *arguments = LONG.get(name, [name])
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        result = subprocess.run(command, cwd=here.parent, check=False)
        if result.returncode:
            failed += 1
            print(json.dumps({"bench": name, "failed": result.returncode}), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
