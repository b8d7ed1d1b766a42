"""LibriSpeech, LibriLight and Multilingual LibriSpeech: speaker/book folders of LibriVox recordings."""

import json
from collections.abc import Iterator
from pathlib import Path

from lst.audio.corpora.base import (
    CorpusReader,
    Utterance,
    find_audio,
    first_file,
    is_audio,
    read_map,
    split_line,
    walk,
)
from lst.audio.text import read_lines, read_text

MLS_LANGUAGES = {
    "english": "en",
    "german": "de",
    "dutch": "nl",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "polish": "pl",
}


def read_librispeech(src: Path) -> Iterator[Utterance]:
    """`dev-clean/84/121123/84-121123-0000.flac` and, beside it, `84-121123.trans.txt`, one utterance a line."""
    for directory, files in walk(src):
        transcripts = {}
        for name in files:
            if name.endswith(".trans.txt"):
                transcripts.update(read_map(directory / name))
        recordings = {name.rsplit(".", 1)[0]: name for name in files if is_audio(name)}
        for key in sorted(recordings.keys() | transcripts.keys()):
            text, problem = transcripts.get(key, ("", None))
            audio = directory / recordings.get(key, f"{key}.flac")
            yield Utterance(str(audio), text, key.split("-")[0], problem=problem)


def read_librilight(src: Path) -> Iterator[Utterance]:
    """`small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_64kb.flac` and a `.json` of the same name; no transcripts.

    The speaker is in the JSON, else it is the name of the folder above the book. A `.txt` of the same name (a
    transcript made by a recogniser) is taken if it is there.
    """
    for directory, files in walk(src):
        names = set(files)
        for name in files:
            if not is_audio(name):
                continue
            stem = name.rsplit(".", 1)[0]
            text, problem = read_text(directory / f"{stem}.txt") if f"{stem}.txt" in names else ("", None)
            speaker = _librilight_speaker(directory / f"{stem}.json") if f"{stem}.json" in names else ""
            yield Utterance(str(directory / name), text, speaker or directory.parent.name, problem=problem)


def _librilight_speaker(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes()).get("speaker", ""))
    except (ValueError, AttributeError):  # damaged: the recording itself may be sound
        return ""


def _is_librilight(src: Path) -> bool:
    """A recording whose JSON speaks of voice activity."""
    found = first_file(src, lambda name: name.endswith(".json"), directories=200)
    if found is None or not found.with_suffix(".flac").is_file():
        return False
    with found.open("rb") as file:
        head = file.read(1 << 20)
    return b'"voice_activity"' in head or b'"book_meta"' in head


def read_mls(src: Path) -> Iterator[Utterance]:
    """`mls_english/train/transcripts.txt` (id, tab, text) and `train/audio/4800/10003/4800_10003_000000.flac`.

    The id is speaker_book_number. `segments.txt`, which says where in LibriVox a recording came from, is not needed.
    """
    for directory, files in walk(src):
        if "transcripts.txt" not in files or directory.parent.name == "limited_supervision":
            continue
        language = _mls_language(directory)
        seen: set[str] = set()
        for line in read_lines(directory / "transcripts.txt"):
            key, text = split_line(line, "\t")
            parts = key.split("_")
            if len(parts) != 3 or "/" in key:
                detail = f"{directory.name}/transcripts.txt, line {line.number}: {key!r} is not speaker_book_number"
                yield Utterance(str(directory / "audio" / key.replace("/", "_")), problem=("bad-line", detail))
                continue
            seen.add(key)
            audio = find_audio(directory / "audio" / parts[0] / parts[1] / key)
            yield Utterance(str(audio), text, parts[0], language, problem=line.problem)
        for place, names in walk(directory / "audio") if (directory / "audio").is_dir() else ():
            for name in names:
                key = name.rsplit(".", 1)[0]
                if is_audio(name) and key not in seen:
                    yield Utterance(str(place / name), "", key.split("_")[0], language)


def _mls_language(directory: Path) -> str:
    """From the name `mls_german` (or `mls_german_opus`) of a folder above."""
    for name in (directory.name, directory.parent.name, directory.parent.parent.name):
        parts = name.lower().split("_")
        if parts[0] == "mls" and len(parts) > 1:
            return MLS_LANGUAGES.get(parts[1], "")
    return ""


def _is_mls(src: Path) -> bool:
    found = first_file(src, lambda name: name == "transcripts.txt", directories=50)
    return found is not None and (found.parent / "audio").is_dir()


LIBRISPEECH = CorpusReader(
    name="librispeech",
    corpus="LibriSpeech",
    detect=lambda src: first_file(src, lambda name: name.endswith(".trans.txt")) is not None,
    read=read_librispeech,
    language="en",
    licence="CC BY 4.0",
    source="https://www.openslr.org/12",
    expects="SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac and SPEAKER-CHAPTER.trans.txt",
)
LIBRILIGHT = CorpusReader(
    name="librilight",
    corpus="Libri-Light",
    detect=_is_librilight,
    read=read_librilight,
    language="en",
    licence="public domain (LibriVox)",
    source="https://github.com/facebookresearch/libri-light",
    expects="SIZE/SPEAKER/BOOK/NAME.flac and NAME.json",
)
MLS = CorpusReader(
    name="mls",
    corpus="Multilingual LibriSpeech",
    detect=_is_mls,
    read=read_mls,
    language="en",
    licence="CC BY 4.0",
    source="https://www.openslr.org/94",
    expects="mls_LANGUAGE/SPLIT/transcripts.txt and SPLIT/audio/SPEAKER/BOOK/SPEAKER_BOOK_NNNNNN.flac",
)
