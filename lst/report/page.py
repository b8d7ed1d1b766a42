"""The page: sections in order, each made from the manifests that are there."""

from html import escape
from pathlib import Path

from lst.errors import LstError
from lst.manifest import explain_os_errors
from lst.pipeline.summary import run_summary, summary_rows


def write_page(run_dir: Path, out_html: Path) -> Path:
    """Write the page of the run in `run_dir`; see `lst.report.report`."""
    facts = run_summary(run_dir, None)
    if not (run_dir / "run.json").is_file():
        raise LstError(f"{run_dir} holds no run.json.", hint="Give the --out directory of lst run.")
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in summary_rows(facts))
    with explain_os_errors(f"writing {out_html}"):
        out_html.write_text(f"<!doctype html><meta charset='utf-8'><table>{rows}</table>\n", encoding="utf-8")
    return out_html
