"""Patch embeddings of words: how alike they are, and the t-SNE map (paper: Figure 5)."""

from typing import Any

from lst.errors import LstError
from lst.evaluate.word_embeddings import POINTS_FILE
from lst.manifest import Manifest
from lst.report.html import Html, figure, note, table
from lst.report.svg import Cloud, clouds


def word_parts(manifest: Manifest, summary: dict[str, Any]) -> list[Html]:
    """The table of `lst eval words` and its map; a map that cannot be read is named."""
    rows = []
    for name, body in (("patches", summary), ("bare units", summary["floor"])):
        values = [body["within"], body["between"], body["centred"]["within"], body["centred"]["between"]]
        rows.append([name, *(f"{value:.3f}" for value in (*values, body["silhouette"]))])
    parts = [table(["", "within", "between", "centred within", "centred between", "silhouette"], rows)]
    try:
        drawing = clouds(_clouds(manifest), title=f"t-SNE of {summary['occurrences']} patch embeddings")
    except (LstError, OSError, ValueError, KeyError) as error:
        return [*parts, note(f"The map of the words cannot be read: {error}")]
    told = (
        f"Every dot is a spoken word ({summary['patching']} patches), its name stands at the middle of its dots. "
        "Cosines within and between words; centred: with the mean embedding taken out."
    )
    return [*parts, figure(drawing, told)]


def _clouds(manifest: Manifest) -> list[Cloud]:
    import pyarrow.parquet as pq

    points: dict[str, list[tuple[float, float]]] = {}
    columns = pq.read_table(manifest.file(POINTS_FILE), columns=["word", "x", "y"]).to_pydict()
    for word, x, y in zip(columns["word"], columns["x"], columns["y"], strict=True):
        points.setdefault(word, []).append((x, y))
    return [Cloud(word, found) for word, found in points.items()]
