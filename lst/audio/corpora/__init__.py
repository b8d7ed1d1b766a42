"""Corpus readers: from the layouts in which corpora are published to a stream of utterances."""

from pathlib import Path

from lst.audio.corpora.base import CorpusReader, Utterance
from lst.audio.corpora.libri import LIBRILIGHT, LIBRISPEECH, MLS
from lst.audio.corpora.peoples_speech import PEOPLES_SPEECH
from lst.audio.corpora.spotify import SPOTIFY
from lst.audio.corpora.tables import FOLDER, KALDI, LJSPEECH, TSV
from lst.errors import UsageError

# In the order in which `auto` tries them: the most particular layout first, the plain folder last.
READERS: dict[str, CorpusReader] = {
    reader.name: reader
    for reader in (KALDI, LJSPEECH, SPOTIFY, MLS, LIBRISPEECH, LIBRILIGHT, PEOPLES_SPEECH, TSV, FOLDER)
}


def find_reader(name: str, src: Path) -> CorpusReader:
    """The reader called `name`, or with `auto` the first whose layout `src` has. Raises UsageError for a wrong name."""
    if name != "auto":
        if name not in READERS:
            raise UsageError(f"No corpus layout is called {name!r}.", hint=f"There are: auto, {', '.join(READERS)}.")
        return READERS[name]
    if src.is_file():
        return TSV if TSV.detect(src) else FOLDER
    return next(reader for reader in READERS.values() if reader.detect(src))


__all__ = ["READERS", "CorpusReader", "Utterance", "find_reader"]
