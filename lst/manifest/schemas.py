"""Schema names, versions, and the Arrow tables behind them.

Extend a table by adding a column that readers may find absent; rename or change one by raising its version, with a
migration in `lst.manifest.manifest`. pyarrow loads only when a table is touched: `lst manifest show` is instant.
"""

from functools import cache
from typing import TYPE_CHECKING

from lst.errors import LstError

if TYPE_CHECKING:
    import pyarrow as pa

VERSIONS: dict[str, int] = {
    "lst.audio": 1,  # recordings: where, how long, who, what is said
    "lst.units": 1,  # speech units at 25 Hz
    "lst.aligned": 1,  # units and words on their grid
    "lst.text": 1,  # tokenized documents
    "lst.pairs": 1,  # aligned speech with text tokens: what training reads
    "lst.tokenizer": 1,  # a speech unit tokenizer
    "lst.vocoder": 1,
    "lst.aligner": 1,  # speech and its words to when they are said
    "lst.model": 1,  # weights, config, text tokenizer
    "lst.waves": 1,  # synthesised audio
    "lst.spoken": 1,  # a text benchmark with sound files
    "lst.bench": 1,  # benchmark items
    "lst.eval": 1,  # scores
}
"""Newest version of each schema that this release reads and writes."""


@cache
def arrow_schema(schema: str) -> "pa.Schema | None":
    """The Arrow schema of a table such as `lst.units/1`, or None where the stage's table is its own affair."""
    import pyarrow as pa

    word = pa.struct([("text", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("score", pa.float32())])
    span = pa.struct([("start", pa.int32()), ("end", pa.int32())])
    units = pa.list_(pa.uint16())
    speech = [
        ("id", pa.string()),
        ("duration_s", pa.float64()),
        ("units", units),
        ("speaker", pa.string()),
        ("text", pa.string()),
    ]
    tables: dict[str, list[tuple[str, pa.DataType]]] = {
        "lst.audio/1": [
            ("id", pa.string()),
            ("audio_path", pa.string()),
            ("offset_s", pa.float64()),
            ("duration_s", pa.float64()),
            ("sample_rate", pa.int32()),
            ("channels", pa.int16()),
            ("speaker", pa.string()),
            ("text", pa.string()),
            ("language", pa.string()),
            ("sha256", pa.string()),
        ],
        "lst.units/1": speech,
        "lst.aligned/1": [*speech, ("words", pa.list_(word))],
        "lst.text/1": [
            ("id", pa.string()),
            ("text", pa.string()),
            ("tokens", pa.list_(pa.int32())),
            ("split", pa.string()),
            ("licence", pa.string()),
            ("source", pa.string()),
        ],
        "lst.pairs/1": [
            *speech,
            ("words", pa.list_(word)),
            ("tokens", pa.list_(pa.int32())),
            ("token_spans", pa.list_(span)),
            ("split", pa.string()),
        ],
        "lst.waves/1": [("id", pa.string()), ("path", pa.string()), ("duration_s", pa.float64())],
        "lst.bench/1": [
            ("id", pa.string()),
            ("group", pa.string()),
            ("category", pa.string()),
            ("label", pa.int16()),
            ("context_text", pa.string()),
            ("choices_text", pa.list_(pa.string())),
            ("context_units", units),
            ("choices_units", pa.list_(units)),
        ],
    }
    columns = tables.get(schema)
    return None if columns is None else pa.schema(columns)


def parse_schema(schema: str) -> tuple[str, int]:
    """`lst.units/1` -> (`lst.units`, 1). Raises LstError for anything else."""
    name, _, version = schema.partition("/")
    if not version.isdecimal() or name not in VERSIONS:
        known = ", ".join(f"{key}/{value}" for key, value in VERSIONS.items())
        raise LstError(f"Unknown schema {schema!r}.", hint=f"This version of lst knows {known}.")
    return name, int(version)
