"""Figures and the HTML report."""

from pathlib import Path

__all__ = ["report"]


def report(run_dir: Path, out_html: Path) -> Path:
    """Write what the run in `run_dir` made as one HTML file that needs no other; returns its path.

    Raises LstError if `run_dir` holds no run, or if the file cannot be written.
    """
    from lst.report.page import write_page

    return write_page(run_dir, out_html)
