"""The corpus of `recipes/paper`: text, spoken stories, and what a benchmark is made of. Everything follows from files.

    python recipes/paper/make_corpus.py text TEXT OUT                      # seconds
    python recipes/paper/make_corpus.py speak OUT --voice VOICE …          # espeak-ng: minutes; Piper: hours
    python recipes/paper/make_corpus.py recordings OUT FOLDER …            # recorded speech beside it

TEXT holds `tinystories.txt.gz` (a story a line) and `pg_children.txt.gz` (a paragraph a line, a blank line between
chapters). A hash of a story says what it is for: benchmarks, validation, or training; what is spoken follows it.

    OUT/text/stories.txt.gz, books.txt.gz, held-out.txt.gz    a document a line
    OUT/benchmarks/stories.txt                                 what `make_benchmarks.py` reads
    OUT/speech/spoken, held-out, NAME                          transcripts.tsv and recordings, for `lst ingest`

Each story is read by one voice, in passages of at most 60 words (about 15 s); `held-out` also by voices that are met
nowhere else. Programs that speak are those of `lst make-benchmark`. A run that was stopped goes on.
"""

import argparse
import csv
import gzip
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lst.audio.voices import Voice

BENCHMARK_SHARE = 0.105
VALID_SHARE = 0.015
"""Shares of the stories that nothing is trained on."""

STORY_COPIES = 5
"""How often the stories stand in the text: with the books once, a quarter of the tokens are stories."""
BOOK_CHARS = 3000
"""A document of the books: paragraphs of one chapter up to so many characters."""
PASSAGE_WORDS = 60
BLOCK = 400
"""Passages that are spoken before the next ones are begun: what a kill can cost is one voice's part of them."""
WORDS_PER_SECOND = 3.2
"""Of the voices, about: decides how many stories are spoken for a number of hours."""
SPEECH_LICENCES = {
    "asterisk_en": "CC BY-SA 3.0",
    "beneath_a_steel_sky": "freeware, free redistribution and modification with notices",
    "dctts_philipp": "Apache-2.0",
    "flight_of_the_amazon_queen": "freeware, free redistribution and modification with notices",
    "fsdd": "CC BY-SA 4.0",
    "ljspeech_subset": "public domain",
}
STORIES_CARD = {"corpus": "TinyStories", "licence": "CDLA-Sharing-1.0", "source": "arXiv 2305.07759"}
BOOKS_CARD = {"corpus": "Project Gutenberg, children's books", "licence": "public domain", "source": "gutenberg.org"}

_MARKS = {"â€œ": '"', "â€™": "'", "â€˜": "'", "â€": '"', "“": '"', "”": '"', "’": "'", "‘": "'"}
_SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?]\"))\s+(?=[\"A-Z0-9])")


@dataclass(frozen=True)
class Passage:
    """A part of a story for one recording. `name` is unique and says which part of which story it is."""

    name: str
    text: str
    speaker: str


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    text = tasks.add_parser("text", help="divide the stories, write the texts")
    text.add_argument("source", type=Path)
    text.add_argument("out", type=Path)
    speech = tasks.add_parser("speak", help="speak stories for training and validation")
    speech.add_argument("out", type=Path)
    speech.add_argument("--voice", action="append", required=True, help="ENGINE:NAME, see lst.audio.voices; repeatable")
    speech.add_argument("--unmet-voice", action="append", default=[], help="a voice for held-out stories only")
    speech.add_argument("--hours", type=float, default=24.0, help="of all voices together, about")
    recorded = tasks.add_parser("recordings", help="put recorded corpora beside it, without held-out stories")
    recorded.add_argument("out", type=Path)
    recorded.add_argument("folders", type=Path, nargs="+", help="each with transcripts.tsv (file, speaker, text)")
    options = parser.parse_args()
    if options.task == "text":
        write_texts(options.source, options.out)
    elif options.task == "speak":
        speak(options.out, options.voice, options.unmet_voice, options.hours)
    else:
        add_recordings(options.out, options.folders)


def write_texts(source: Path, out: Path) -> None:
    """Divide the stories by what they are for, and write them and the books as documents, a line each."""
    parts: dict[str, list[str]] = {"train": [], "valid": [], "benchmark": []}
    for story in sorted(set(map(plain, lines(source / "tinystories.txt.gz"))), key=key_of):
        parts[part_of(story)].append(story)
    books = list(book_documents(lines(source / "pg_children.txt.gz")))
    copies = [story for copy in range(STORY_COPIES) for story in shuffled(parts["train"], copy)]
    write_lines(out / "text" / "stories.txt.gz", copies)
    write_lines(out / "text" / "books.txt.gz", books)
    write_lines(out / "text" / "held-out.txt.gz", parts["valid"])
    write_lines(out / "benchmarks" / "stories.txt", parts["benchmark"])
    card = {"name": "paper", "provenance": [STORIES_CARD, BOOKS_CARD]}
    (out / "text" / "corpus.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    for name, texts in (("stories", parts["train"]), ("books", books), ("held-out", parts["valid"])):
        print(f"{name}: {len(texts):,} documents, {sum(len(text.split()) for text in texts):,} words")
    print(f"for benchmarks: {len(parts['benchmark']):,} stories")


def speak(out: Path, voices: Sequence[str], unmet: Sequence[str], hours: float) -> None:
    """Speak stories in turn by the voices, until there are about so many hours; all validation stories once."""
    from lst.audio.voices import open_voice

    train = sorted(set(lines(out / "text" / "stories.txt.gz")), key=key_of)
    held_out = list(lines(out / "text" / "held-out.txt.gz"))
    opened = {spec: open_voice(spec) for spec in [*voices, *unmet]}
    labels = {spec: voice.label for spec, voice in opened.items()}
    enough = hours * 3600 * WORDS_PER_SECOND
    parts = {
        "held-out": list(planned(held_out, [*voices, *unmet], math.inf, labels)),
        "spoken": list(planned(train, voices, enough, labels)),
    }
    for slow in (False, True):  # what is quick first, all voices in turn: a part of it is a small corpus of all voices
        some = [voice for voice in opened.values() if (voice.engine != "espeak-ng") == slow]
        for part, passages in parts.items():
            for start in range(0, len(passages), BLOCK):
                for voice in some:
                    spoken_by(voice, passages[start : start + BLOCK], out / "speech" / part)
                print(f"{part}: {min(start + BLOCK, len(passages)):,} of {len(passages):,} passages", flush=True)
    for part, passages in parts.items():
        count, seconds = write_table(out / "speech" / part, passages)
        print(f"{part}: {count:,} of {len(passages):,} passages, {seconds / 3600:.2f} h", flush=True)
    write_card(out)


def planned(
    stories: Sequence[str], voices: Sequence[str], most_words: float, labels: dict[str, str]
) -> Iterator[Passage]:
    """Passages of the stories in their order, story by story in turn by the voices, up to `most_words`."""
    words = 0
    for number, story in enumerate(stories):
        if words >= most_words:
            return
        words += len(story.split())
        voice = voices[number % len(voices)]
        for place, text in enumerate(passages_of(story)):
            yield Passage(f"{key_of(story)[:12]}-{place}", text, labels[voice])


def spoken_by(voice: "Voice", passages: Sequence[Passage], folder: Path) -> None:
    """Record what this voice reads of `passages` and is not there yet."""
    import soundfile

    from lst.constants import SAMPLE_RATE

    (folder / voice.label).mkdir(parents=True, exist_ok=True)
    own = [passage for passage in passages if passage.speaker == voice.label]
    left = [passage for passage in own if not recording(folder, passage).is_file()]
    if left:
        for passage, samples in zip(left, voice.speak([passage.text for passage in left]), strict=True):
            path = recording(folder, passage)
            partial = path.with_suffix(".partial")
            soundfile.write(partial, samples, SAMPLE_RATE, format="FLAC")
            partial.replace(path)


def recording(folder: Path, passage: Passage) -> Path:
    """Where a passage's sound is."""
    return folder / passage.speaker / f"{passage.name}.flac"


def write_table(folder: Path, passages: Sequence[Passage]) -> tuple[int, float]:
    """`transcripts.tsv` of the recordings that are there; returns their number and seconds."""
    import soundfile

    rows = []
    for passage in passages:
        path = recording(folder, passage)
        if not path.is_file():  # a voice that has not been run to its end
            continue
        seconds = soundfile.info(path).duration
        rows.append((path.relative_to(folder).as_posix(), passage.speaker, passage.text, seconds))
    write_transcripts(folder, rows)
    return len(rows), sum(row[3] for row in rows)


def add_recordings(out: Path, folders: Sequence[Path]) -> None:
    """A table of each corpus with what is not from a held-out story; links below `audio` lead to the recordings."""
    forbidden = held_out_sentences(out)
    for source in folders:
        folder = out / "speech" / source.name
        folder.mkdir(parents=True, exist_ok=True)
        link_recordings(source, folder / "audio")
        with (source / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        kept = [row for row in rows if not any(bare(part) in forbidden for part in sentences(row["text"]))]
        write_transcripts(
            folder, [(f"audio/{row['file']}", row["speaker"], row["text"], float(row["seconds"])) for row in kept]
        )
        hours = sum(float(row["seconds"]) for row in kept) / 3600
        print(f"{source.name}: {len(kept):,} of {len(rows):,} utterances, {hours:.2f} h")
    write_card(out)


def link_recordings(source: Path, audio: Path) -> None:
    """`audio` with a link to all that lies in `source` but its table, whose rows would be read beside ours."""
    if audio.is_symlink():
        audio.unlink()
    audio.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        link = audio / path.name
        if path.name != "transcripts.tsv" and not link.is_symlink():
            link.symlink_to(path.resolve(), target_is_directory=path.is_dir())


def held_out_sentences(out: Path) -> set[str]:
    """Sentences of at least four words that stand in stories nothing is trained on, without case and punctuation."""
    stories = [*lines(out / "text" / "held-out.txt.gz"), *lines(out / "benchmarks" / "stories.txt")]
    return {bare(part) for story in stories for part in sentences(story) if len(part.split()) >= 4}


def write_card(out: Path) -> None:
    """`corpus.json` of the speech: where each folder comes from."""
    parts = []
    for folder in sorted(path for path in (out / "speech").iterdir() if path.is_dir()):
        if folder.name in ("spoken", "held-out"):
            part = {**STORIES_CARD, "corpus": "TinyStories, spoken", "licence": "CDLA-Sharing-1.0 (text)"}
        else:
            part = {"corpus": folder.name, "licence": SPEECH_LICENCES.get(folder.name, "not stated")}
        parts.append(part | {"path": folder.name})
    card = {"name": "paper", "language": "en", "provenance": parts}
    (out / "speech" / "corpus.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def write_transcripts(folder: Path, rows: Iterable[tuple[str, str, str, float]]) -> None:
    """Rows of file, speaker, text and seconds, whole or not at all."""
    partial = folder / ".transcripts.partial"
    with partial.open("w", encoding="utf-8") as file:
        file.write("file\tspeaker\ttext\tseconds\n")
        file.writelines(f"{name}\t{speaker}\t{text}\t{seconds:.3f}\n" for name, speaker, text, seconds in rows)
    partial.replace(folder / "transcripts.tsv")


def plain(story: str) -> str:
    """A story with straight quotation marks and single spaces, and without what is not ASCII."""
    for mark, instead in _MARKS.items():
        story = story.replace(mark, instead)
    return " ".join(story.encode("ascii", "ignore").decode().split())


def sentences(text: str) -> list[str]:
    """The sentences of a story; a closing quotation mark stays with its sentence."""
    return [part for part in _SENTENCE_END.split(text) if part]


def passages_of(story: str, most_words: int = PASSAGE_WORDS) -> list[str]:
    """A story in passages of whole sentences and at most `most_words` words, about equally long.

    A longer sentence is a passage of its own.
    """
    left = sentences(story)
    total = sum(len(sentence.split()) for sentence in left)
    goal = total / max(1, math.ceil(total / most_words))
    found: list[list[str]] = []
    for sentence in left:
        have = sum(len(part.split()) for part in found[-1]) if found else 0
        more = len(sentence.split())
        if not found or have + more > most_words or have + more / 2 > goal:
            found.append([])
        found[-1].append(sentence)
    return [" ".join(part) for part in found]


def book_documents(paragraphs: Iterable[str]) -> Iterator[str]:
    """Paragraphs of a chapter, joined up to `BOOK_CHARS` characters; titles (`# …`) and repeated ones are left out."""
    seen: set[str] = set()
    document = ""
    for paragraph in paragraphs:
        ends = not paragraph or paragraph.startswith("# ")
        if not ends and len(paragraph) > 40 and paragraph in seen:
            continue
        seen.add(paragraph)
        if document and (ends or len(document) + len(paragraph) > BOOK_CHARS):
            yield document
            document = ""
        if not ends:
            document = f"{document} {paragraph}".strip()
    if document:
        yield document


def part_of(story: str) -> str:
    """What a story is for: `benchmark`, `valid` or `train`."""
    share = int(key_of(story)[:12], 16) / 16**12
    return "benchmark" if share < BENCHMARK_SHARE else "valid" if share < BENCHMARK_SHARE + VALID_SHARE else "train"


def key_of(text: str) -> str:
    """The hash that decides order and part: of the text without case and punctuation."""
    return hashlib.sha256(bare(text).encode()).hexdigest()


def bare(text: str) -> str:
    """Lower-case words with nothing between them but spaces."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("'", "")))


def shuffled(texts: Sequence[str], number: int) -> list[str]:
    """The texts in an order of their own for every `number`."""
    return sorted(texts, key=lambda text: hashlib.sha256(f"{number}/{text}".encode()).digest())


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, packed or not, without spaces around them."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        yield from (line.strip() for line in file)


def write_lines(path: Path, texts: Iterable[str]) -> None:
    """A document a line; the same texts give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{text}\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


if __name__ == "__main__":
    main()
