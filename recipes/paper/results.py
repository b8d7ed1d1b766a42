"""What the runs of `recipes/paper` show: CSV, figures, `docs/results.md`, and the run's report with both in it.

    python recipes/paper/results.py outputs/paper docs      # docs/results.md and docs/results/*.csv, *.png
                                                            # outputs/paper/report.html and outputs/paper/figures/*.png

Nothing in these is typed by hand but the introduction.

It reads whatever stages are finished (their weights need not be there) and says of the rest that they were not run.
`runs.py` reads, `evidence.py` has the statistics, `judges.py` the rules of the verdicts, `claims.py` the claims,
`tables.py` and `figures.py` what is shown.
"""

import csv
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import tables
from claims import Judged, claims_table, judge_all
from figures import figures
from runs import COSTS, LOSSES, Found, Run, read, scores_of

from lst.manifest import write_atomic
from lst.pipeline.summary import write_report
from lst.report.figures import keep_figures

GROWTH = """\
Less base's of the same seed, at equal FLOPs, each at the end of its schedule; of the sweep the best rate of each arm.
`slow-static` is static with half its rate, which base was not given.

"""
INTRODUCTION = (Path(__file__).with_name("introduction.md")).read_text(encoding="utf-8")


def main(directory: Path, docs: Path) -> None:
    """Read the runs below `directory`; write everything into `docs`, and the run's report anew."""
    found = read(directory)
    judged = judge_all(found)
    out = docs / "results"
    docs.mkdir(parents=True, exist_ok=True)
    drawn = figures(found)
    if found.runs:
        out.mkdir(exist_ok=True)
        for name, text in (
            ("claims.csv", claims_csv(judged)),
            ("runs.csv", runs_csv(found.runs)),
            ("scores.csv", scores_csv(found.runs)),
            ("curves.csv", curves_csv(found.runs)),
            ("speech.csv", speech_csv(found)),
        ):
            write_atomic(out / name, text)
        for name, (_, image) in drawn.items():
            write_atomic(out / name, image)
        keep_figures(directory, {"claims.csv": ("Each claim and its verdict", report_claims(judged).encode())} | drawn)
        print(write_report(directory, changed=True))
    write_atomic(docs / "results.md", page(found, judged, {name: title for name, (title, _) in drawn.items()}))
    made = sum(name in found.stages for name in found.wanted)
    print(f"{docs / 'results.md'}: {made} of {len(found.wanted)} stages, {len(found.runs)} models")


def page(found: Found, judged: list[Judged], drawn: Mapping[str, str]) -> str:
    """`results.md`; `drawn`: figures by file name, with their titles."""

    def picture(name: str) -> str:
        return f"\n![{drawn[name]}](results/{name})\n\n{drawn[name]}.\n" if name in drawn else ""

    sections = {about.title: tables.section(found, about) for about in tables.SECTIONS}
    sections["Table 4, equal data"] += "\n" + tables.savings_table(found)
    if sections["First look"] == tables.NOTHING:
        del sections["First look"]
    after = {
        "Table 3, equal FLOPs": picture("bits.png") + picture("losses.png"),
        "Table 3, equal global units": picture("quarter.png"),
        "Why: other local modules, equal FLOPs": picture("why.png"),
        "First look": picture("first.png"),
    }
    tuned = "Recognition:\n\n" + tables.recognition_table(found) + "\nSpeech:\n\n" + tables.synthesis_table(found)
    parts = [
        INTRODUCTION,
        "## Claims\n\n" + claims_table(judged),
        "## Learning rates\n\n" + tables.rates_table(found),
        *(f"## {title}\n\n{text}{after.get(title, '')}" for title, text in sections.items()),
        "## Against base as the budget grows\n\n" + GROWTH + tables.growth_table(found),
        "## Table 5, recognising and speaking\n\n" + tuned,
        "## Figure 4, sizes\n\n" + tables.sizes_table(found) + picture("figure4.png"),
        "## Figure 5, words\n\n" + tables.words_table(found) + picture("figure5.png"),
        "## Table 13, data\n\n" + tables.data_table(found),
        "## Not run\n\n" + tables.missing(found),
    ]
    return "\n".join(parts)


def claims_csv(judged: Sequence[Judged]) -> str:
    """A line per claim."""
    rows = [
        {"where": one.claim.table, "claim": one.claim.text, "paper": one.claim.paper, "verdict": one.word}
        | {"p": _small(one.finding.p), "p_corrected": _small(one.p_holm), "numbers": one.finding.numbers}
        for one in judged
    ]
    return _csv(["where", "claim", "paper", "verdict", "p", "p_corrected", "numbers"], rows)


def report_claims(judged: Sequence[Judged]) -> str:
    """What the report shows of them."""
    rows = [
        {"where": one.claim.table, "claim": one.claim.text, "paper": one.claim.paper, "verdict": one.word}
        | {"numbers": one.finding.numbers}
        for one in judged
    ]
    return _csv(["where", "claim", "paper", "verdict", "numbers"], rows)


def runs_csv(runs: Sequence[Run]) -> str:
    """A line per model; `loss`: nats per target over all that is held out."""
    rows = [
        {"run": run.name, "tier": run.tier or "full", "arm": run.arm, "seed": run.seed, "lr": run.lr}
        | {"device": run.device, "mfu": _small(run.mfu), "patch_length": _small(run.patch_length)}
        | {"parameters": run.parameters, "loss": _small(run.loss)}
        | {key: _small(value) for key, value in (run.costs | run.losses).items()}
        for run in runs
    ]
    about = ["run", "tier", "arm", "seed", "lr", "device", "mfu", "parameters", "patch_length"]
    return _csv([*about, *COSTS, "loss", *LOSSES], rows)


def scores_csv(runs: Sequence[Run]) -> str:
    """A line per model, benchmark, mode and variant."""
    rows = []
    for run in runs:
        for benchmark, manifest in run.scores.items():
            for mode, body in scores_of(manifest).items():
                for variant, value in body["variants"].items():
                    numbers = {key: f"{value[key]:.5f}" for key in ("accuracy", "low", "high")}
                    about = {"run": run.name, "benchmark": benchmark, "mode": mode, "n": body["n"], "variant": variant}
                    rows.append(about | {"headline": int(variant == body["headline"])} | numbers)
    return _csv(["run", "benchmark", "mode", "n", "variant", "headline", "accuracy", "low", "high"], rows)


def curves_csv(runs: Sequence[Run]) -> str:
    """A line per validation."""
    rows = [
        {"run": run.name} | {key: _small(value) for key, value in point.items()} for run in runs for point in run.curve
    ]
    return _csv(["run", "step", "flops", "global_units", *LOSSES], rows)


def speech_csv(found: Found) -> str:
    """What was measured of recognition and synthesis: stage and totals."""
    names = [name for name in found.stages if name.endswith(("-wer", "-cer"))]
    rows = [{"stage": name, **found.stages[name].totals} for name in names]
    return _csv(list(dict.fromkeys(["stage", *(key for row in rows for key in row)])), rows)


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
