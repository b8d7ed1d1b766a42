"""Where a corpus comes from and under which licence: `corpus.json` in the source folder, or what its reader knows."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lst.audio.corpora import CorpusReader
from lst.errors import LstError

CARD_FILE = "corpus.json"


class Source(BaseModel):
    """A part of a corpus with one licence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    corpus: str = Field(description="Name of the corpus, as one would cite it.")
    licence: str = Field(description="Its licence.")
    source: str = Field(default="", description="Where it was obtained.")
    path: str = Field(default="", description="Folder of this part, beside corpus.json; empty: all.", pattern="^[^/]*$")


class CorpusCard(BaseModel):
    """`corpus.json`: {"name": ..., "language": ..., "provenance": [{"corpus", "licence", "source", "path"}, ...]}."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="", description="Begins the ids of rows.", pattern=r"^[\w.-]*$")
    language: str = Field(default="", description="Language of utterances that do not say (en, de, ...).")
    provenance: list[Source] = Field(min_length=1)

    def entries(self, folders: set[str]) -> list[dict[str, str]]:
        """The provenance of the parts that have recordings; `folders`: those beside the card that do."""
        parts = [part for part in self.provenance if not part.path or part.path in folders] or self.provenance
        return [{"corpus": part.corpus, "licence": part.licence, "source": part.source} for part in parts]


def find_card(src: Path, reader: CorpusReader) -> CorpusCard:
    """The card of a source. Raises LstError if `corpus.json` is there and wrong."""
    path = (src if src.is_dir() else src.parent) / CARD_FILE
    if not path.is_file():
        corpus = reader.corpus or "not stated"
        part = Source(corpus=corpus, licence=reader.licence or "not stated", source=reader.source)
        return CorpusCard(language=reader.language, provenance=[part])
    try:
        return CorpusCard.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "(all)"
        raise LstError(
            f"{path}: {key}: {first['msg']}.", hint="See docs/ingest.md for what a corpus.json holds."
        ) from error
    except (ValueError, OSError) as error:
        raise LstError(f"{path} cannot be read as JSON ({error}).") from error
