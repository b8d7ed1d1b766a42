"""What was drawn or tabled of a run outside this package: PNG and CSV files in its directory `figures`, captioned."""

import base64
import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

from lst.errors import LstError
from lst.report.html import Html, figure, join, note, table, tag
from lst.report.run import Run

DIRECTORY = "figures"
CAPTIONS_FILE = "figures.json"
"""`{"losses.png": "Held-out losses over FLOPs"}`, in the order of the page. Other files are not shown."""

_PNG = b"\x89PNG\r\n\x1a\n"


def keep_figures(run_dir: Path, figures: Mapping[str, tuple[str, bytes]]) -> None:
    """Put figures (file name -> caption and content) beside a run, in place of those listed there: `lst report` shows
    them. A `.csv` is a table whose first line has its columns; anything else has to be PNG.

    Raises OSError if they cannot be written.
    """
    from lst.manifest import write_atomic, write_json

    home = run_dir / DIRECTORY
    home.mkdir(parents=True, exist_ok=True)
    for name, (_, image) in figures.items():
        write_atomic(home / name, image)
    write_json(home / CAPTIONS_FILE, {name: caption for name, (caption, _) in figures.items()})


def has_figures(run: Run) -> bool:
    """Whether someone put figures beside the run; most runs have none."""
    return (run.path / DIRECTORY / CAPTIONS_FILE).is_file()


def figures_section(run: Run) -> Html:
    """The figures inside the page, in the order of the list; one that is not there, or neither PNG nor CSV, is named.

    Raises LstError if the list is damaged.
    """
    home = run.path / DIRECTORY
    try:
        captions = dict(json.loads((home / CAPTIONS_FILE).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise LstError(f"{DIRECTORY}/{CAPTIONS_FILE} is damaged.") from error
    return join([_figure(home, str(name), caption) for name, caption in captions.items()])


def _figure(home: Path, name: str, caption: object) -> Html:
    path = home / name
    content = path.read_bytes() if path.parent == home and path.is_file() else b""
    if path.suffix == ".csv" and content:
        head, *rows = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
        return figure(table(head, rows, text_columns=len(head)), caption)
    if not content.startswith(_PNG):
        return note(f"{DIRECTORY}/{name} is not there, or no PNG.")
    data = base64.b64encode(content).decode("ascii")
    return figure(tag("img", src=f"data:image/png;base64,{data}", alt=caption), caption)
