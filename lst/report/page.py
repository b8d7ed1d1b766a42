"""The page: sections in order, each made from the manifests that are there, and saying so where they are not."""

import base64
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lst.errors import LstError
from lst.manifest import explain_os_errors, write_atomic
from lst.pipeline.summary import run_summary, summary_rows
from lst.report.data import alignment_section, mixture_section, patches_section
from lst.report.evaluation import evaluation_section
from lst.report.figures import figures_section, has_figures
from lst.report.html import Html, note, number, seconds, table, tag
from lst.report.listening import listening_section
from lst.report.origin import origin_section, stages_section
from lst.report.run import Run, open_run
from lst.report.style import SCRIPT, STYLE
from lst.report.training import training_section
from lst.report.utterance import utterance_section

_SECTIONS: tuple[tuple[str, str, Callable[[Run], Html]], ...] = (
    ("listen", "Listen", listening_section),
    ("utterance", "One utterance, from sound to patches", utterance_section),
    ("training", "Training", training_section),
    ("evaluation", "Evaluation", evaluation_section),
    ("patches", "Lengths of patches", patches_section),
    ("mixture", "Mixture", mixture_section),
    ("alignment", "Alignment", alignment_section),
    ("stages", "Stages", stages_section),
    ("origin", "Origin and licences", origin_section),
)

_PATHS = frozenset({"models", "wavs", "report"})
"""Facts that name places on the machine: of no use elsewhere."""


def write_page(run_dir: Path, out_html: Path) -> Path:
    """Write the page of the run in `run_dir`; see `lst.report.report`."""
    run = open_run(run_dir)
    page = build_page(run)
    with explain_os_errors(f"writing {out_html}"):
        try:
            out_html.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise LstError(f"{out_html} cannot be written: a file is in the place of its directory.") from error
        if out_html.is_dir():
            raise LstError(f"{out_html} is a directory.", hint="Give the HTML file to write with --out.")
        write_atomic(out_html, page)
    return out_html


def build_page(run: Run) -> str:
    """The whole page. The same run gives the same text."""
    title = f"{run.recipe or run.path.name}: report of {'an evaluation' if run.is_result else 'a run'}"
    body = [
        tag("h1", title),
        *(
            [tag("section", tag("h2", "Evaluation"), _guarded(evaluation_section, run))]
            if run.is_result
            else _parts(run)
        ),
        tag("footer", "Made by lst report from the manifests of the run."),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(STYLE)),
    ]
    page = tag("html", tag("head", head), tag("body", tag("main", body), tag("script", Html(SCRIPT))), lang="en")
    return f"<!doctype html>\n{page}\n"


def _parts(run: Run) -> list[Html | None]:
    """A run's page below its title."""
    facts = _summary(run)
    drawn = (("figures", "Figures", figures_section),) if has_figures(run) else ()
    sections = (*drawn, *_SECTIONS)
    return [
        tag("p", f"{len(run.made)} stages. This file holds everything it shows, sound included.", class_="lead"),
        tag("nav", [tag("a", name, href=f"#{key}") for key, name, _ in (("summary", "Summary", None), *sections)]),
        _tiles(facts),
        tag("section", tag("h2", "Summary"), _facts(facts), id="summary"),
        *(tag("section", tag("h2", name), _guarded(make, run), id=key) for key, name, make in sections),
    ]


def _policy() -> str:
    """Nothing may be fetched, and no script may run but ours: transcripts and names come from outside."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; script-src 'sha256-{digest}'"
    )


def _guarded(make: Callable[[Run], Html], run: Run) -> Html:
    """A section, or why it could not be made: one damaged file must not cost the rest of the report."""
    try:
        return make(run)
    except (LstError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        logging.getLogger(__name__).debug("a section of the report failed", exc_info=True)
        what = str(error) if isinstance(error, LstError) else f"{type(error).__name__}: {error}"
        return note(f"This part could not be made. {what}")


def _summary(run: Run) -> dict[str, Any]:
    try:
        facts = run_summary(run.path, None)
    except (LstError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return {"problem": f"{type(error).__name__}: {error}"}
    return {key: value for key, value in facts.items() if key not in _PATHS}


def _facts(facts: dict[str, Any]) -> Html:
    if "problem" in facts:
        return note(f"The summary could not be made. {facts['problem']}")
    return table(["", ""], summary_rows(facts), text_columns=2)


def _tiles(facts: dict[str, Any]) -> Html | None:
    """The few numbers to see first."""
    tiles: list[tuple[str, str]] = []
    if "hours" in facts:
        tiles.append((seconds(3600 * facts["hours"]), f"of speech, {number(facts.get('utterances', 0))} utterances"))
    if "words_aligned" in facts:
        tiles.append((number(facts["words_aligned"]), "words aligned"))
    if "units_per_word" in facts:
        tiles.append((number(facts["units_per_word"]), "units per word"))
    loss = facts.get("pretrain_loss", {})
    if {"first_loss", "train_loss"} <= set(loss):
        tiles.append((f"{loss['first_loss']:.2f} → {loss['train_loss']:.2f}", "training loss, nats per token"))
    for name, value in facts.get("held_out", {}).items():
        tiles.append((number(round(value, 2)), f"held-out {name}"))
    if "parameters" in facts:
        tiles.append((_short(facts["parameters"]), "parameters"))
    if facts.get("minutes"):
        tiles.append((f"{facts['minutes']:g} min", "of work in all"))
    return (
        tag(
            "div",
            [tag("div", tag("b", value), tag("span", what), class_="tile") for value, what in tiles],
            class_="tiles",
        )
        if tiles
        else None
    )


def _short(value: float) -> str:
    """`1.4 M` for large counts."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.1f} {letter}"
    return number(value)
