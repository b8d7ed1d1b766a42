"""Sentences for the synthesised part of the tokenizer's speech, none of which a held-out speaker says.

    python recipes/assets/sentences.py TEXTS SPEECH OUT

TEXTS holds `ljspeech_transcripts.txt.gz`, `tinystories.txt.gz` and `pg_stories.txt.gz`, one document a line; SPEECH the
folders that `hubert_nano_25hz_501.py` takes. OUT gets `joe.txt.gz` (for speak_piper.py) and `others.txt.gz` (for
speak_espeak.py, and from line 9,000 on for speak_flite.py), which share no sentence. A hash of the sentence decides.
"""

import csv
import gzip
import hashlib
import random
import re
import sys
from pathlib import Path

from hubert_nano_25hz_501 import HELD_OUT, words

SOURCES = {"ljspeech_transcripts": 3000, "tinystories": 6000, "pg_stories": 6000}
"""At most so many sentences of each, for each of the two files."""
LONG_ENOUGH = 20
"""Letters of a held-out text, from which on a sentence that lies within it is left out too."""

_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’]*\s+")
_PLAIN = re.compile(r"[A-Z][A-Za-z ,;:.!?'-]*")


def main(texts: Path, speech: Path, out: Path) -> None:
    """Write both files."""
    held_out = _held_out(speech)
    long_ones = [text for text in held_out if len(text) > LONG_ENOUGH]
    joe: list[str] = []
    others: list[str] = []
    for name, count in SOURCES.items():
        found = _sentences(texts / f"{name}.txt.gz", name, held_out)
        chosen = [found[key] for key in sorted(found)][: 2 * count]
        chosen = [sentence for sentence in chosen if not any(words(sentence) in text for text in long_ones)]
        joe += chosen[:count]
        others += chosen[count:]
    order = random.Random(0)
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in (("joe", joe), ("others", others)):
        order.shuffle(lines)
        with gzip.open(out / f"{name}.txt.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def _held_out(speech: Path) -> set[str]:
    texts = set()
    for table in speech.glob("*/transcripts.tsv"):
        with table.open(encoding="utf-8") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            texts |= {words(row["text"]) for row in rows if row["speaker"] in HELD_OUT}
    return texts


def _sentences(path: Path, source: str, held_out: set[str]) -> dict[str, str]:
    """Plain sentences of 5 to 28 words, by their hashes."""
    found = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if source == "ljspeech_transcripts" and words(line) in held_out:
                continue
            for part in _SENTENCE.split(line.strip()):
                sentence = part.replace("’", "'")
                if 5 <= len(sentence.split()) <= 28 and _PLAIN.fullmatch(sentence) and words(sentence) not in held_out:
                    found[hashlib.sha256((source + sentence.lower()).encode()).hexdigest()] = sentence
    return found


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
