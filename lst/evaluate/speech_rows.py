"""Which recordings with transcripts an evaluation looks at, and their samples."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lst.constants import FRAME_RATE
from lst.errors import LstError
from lst.manifest import Manifest, iter_rows, sha256_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def chosen_rows(units: Manifest, count: int, *, seed: int, longest_s: float) -> list[dict[str, Any]]:
    """At most `count` rows {id, units, text} with a text, in the order of a hash of seed and id.

    Raises LstError if no row has a text and is short enough.
    """
    found = [
        row
        for row in iter_rows(units, ["id", "units", "text"])
        if row["units"] and row["text"] and len(row["units"]) <= longest_s * FRAME_RATE
    ]
    if not found:
        raise LstError(
            f"{units.path} has no utterance with a text and at most {longest_s:g} s.",
            hint="Ingest recordings with transcripts, or segment them on ingest.",
        )
    found.sort(key=lambda row: sha256_bytes(f"{seed}/{row['id']}".encode()))
    return found[:count]


def recordings_of(audio: Manifest, rows: list[dict[str, Any]]) -> "Iterator[NDArray[np.float32]]":
    """The samples of the rows, (n,) each, in their order. Raises LstError for a row that `audio` does not have."""
    from lst.audio import open_row_audio

    sources = audio_rows(audio, rows)
    for row in rows:
        yield open_row_audio(audio, sources[row["id"]])


def audio_rows(audio: Manifest, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows of `audio` with the ids of `rows`, by id. Raises LstError if one is missing."""
    wanted = {row["id"] for row in rows}
    sources = {row["id"]: row for row in iter_rows(audio) if row["id"] in wanted}
    for row in rows:
        if row["id"] not in sources:
            raise LstError(f"{audio.path} has no row {row['id']}.", hint="Give the audio that the units were made of.")
    return sources
