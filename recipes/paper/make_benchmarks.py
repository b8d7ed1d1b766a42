"""The benchmarks of `recipes/paper`, as text, out of stories that nothing is trained on. Files in, files out.

    python recipes/paper/make_benchmarks.py OUT            # OUT: what `make_corpus.py text OUT` wrote
    lst make-benchmark OUT/benchmarks/NAME/items.jsonl --voice … --rotate --out OUT/benchmarks/NAME-spoken

    topic-storycloze    four sentences and their end; the wrong end comes from any other story
    storycloze          the same, but the wrong end comes from the most similar other story: about the same, but not it
    spoken-word         a word of the stories and a non-word one cluster of letters away (as sWUGGY)
    grammar             a sentence and itself with the wrong form of a verb (as sBLIMP)

In both story clozes every end is once right and once wrong, so a score that ignores the beginning gets 50%. A story
gives at most two items, its first and its last five sentences; they form a group. Non-words are as likely as their
words for a trigram model of letters, stand in no dictionary, and are pronounced (by espeak-ng, which must be on the
PATH) like no word of the stories.
"""

import argparse
import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from make_corpus import STORIES_CARD, bare, key_of, lines, sentences

CONTEXT = 4
"""Sentences before the end."""
WORD_LETTERS = range(4, 11)
WORD_COUNT = 8
"""Words of the spoken-word benchmark stand at least so often in the training stories."""
LONGEST_SENTENCE = 20
"""Words of a sentence of the grammar benchmark."""
MOST_PAIRS = 1500

_CLUSTER = re.compile(r"[aeiouy]+|[^aeiouy]+")
_AGREEMENT = {"was": "were", "were": "was", "is": "are", "are": "is", "has": "have", "have": "has"}
_SUBJECT = {"he", "she", "it", "they", "we", "i"}


@dataclass(frozen=True)
class Passage:
    """Sentences in a row: `story` says of which, `place` whether its first (0) or last (1) ones."""

    story: str
    place: int
    context: str
    ending: str

    @property
    def id(self) -> str:
        return f"{self.story}-{self.place}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    folder = parser.parse_args().out
    held_out = list(lines(folder / "benchmarks" / "stories.txt"))
    train = list(set(lines(folder / "text" / "stories.txt.gz")))
    passages = list(passages_of(held_out))
    write(folder, "topic-storycloze", "topic-storycloze", cloze(passages, any_other(passages)))
    write(folder, "storycloze", "storycloze", cloze(passages, most_similar(passages)))
    write(folder, "spoken-word", "swuggy", word_pairs(train))
    write(folder, "grammar", "sblimp", agreement_pairs(held_out))


def write(folder: Path, name: str, kind: str, items: Iterable[dict[str, object]]) -> None:
    """One benchmark in lst's own layout, with its card."""
    directory = folder / "benchmarks" / name
    directory.mkdir(parents=True, exist_ok=True)
    rows = list(items)
    (directory / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    card = STORIES_CARD | {"corpus": f"TinyStories, {name}", "kind": kind}
    (directory / "benchmark.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {len(rows):,} items")


def passages_of(stories: Iterable[str]) -> Iterator[Passage]:
    """The first five sentences of each story, and its last five where they are others."""
    for story in stories:
        parts = sentences(story)
        length = CONTEXT + 1
        for place, some in enumerate((parts[:length], parts[-length:])[: len(parts) // length]):
            yield Passage(key_of(story)[:12], place, " ".join(some[:-1]), some[-1])


def cloze(passages: Sequence[Passage], wrong: Sequence[int]) -> Iterator[dict[str, object]]:
    """Items whose wrong end is that of passage `wrong[i]`."""
    for passage, other in zip(passages, wrong, strict=True):
        yield {
            "id": passage.id,
            "group": passage.story,
            "context": passage.context,
            "right": passage.ending,
            "wrong": passages[other].ending,
        }


def any_other(passages: Sequence[Passage]) -> list[int]:
    """For each passage one of the same place of another story; each is chosen once. Drawn by the ids."""
    chosen = [0] * len(passages)
    for place in (0, 1):
        here = [index for index, passage in enumerate(passages) if passage.place == place]
        ring = sorted(here, key=lambda index: key_of(f"topic {passages[index].id}"))
        for index, other in zip(ring, [*ring[1:], *ring[:1]], strict=True):
            chosen[index] = other
    return chosen


def most_similar(passages: Sequence[Passage]) -> list[int]:
    """For each passage a similar one of another story, so that each is chosen once and the whole is most similar.

    Similarity: cosine of tf-idf of the words, context against context and end. Ends that say the same are no choice.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.feature_extraction.text import TfidfVectorizer

    chosen = [0] * len(passages)
    for place in (0, 1):
        here = [i for i, passage in enumerate(passages) if passage.place == place]
        if not here:
            continue
        vectoriser = TfidfVectorizer(stop_words="english", sublinear_tf=True)
        whole = vectoriser.fit_transform(f"{passages[i].context} {passages[i].ending}" for i in here)
        likeness = (whole @ whole.T).toarray()
        ends = [bare(passages[i].ending) for i in here]
        for row, end in enumerate(ends):
            likeness[row, [column for column, other in enumerate(ends) if other == end]] = -10.0
        for row, column in zip(*linear_sum_assignment(-likeness), strict=True):
            chosen[here[row]] = here[column]
    return chosen


def word_pairs(stories: Iterable[str]) -> Iterator[dict[str, object]]:
    """Words and non-words, the most frequent words first, at most `MOST_PAIRS`."""
    counts = Counter(word for story in stories for word in re.findall(r"[a-z]+", story.lower()))
    known = set(counts) | dictionary()
    common = [word for word, count in counts.most_common() if count >= WORD_COUNT and len(word) in WORD_LETTERS]
    letters = Trigrams(common)
    clusters = Counter(_CLUSTER.findall(" ".join(common).replace(" ", "|")))
    made = [(word, nonword(word, clusters, letters, known)) for word in common]
    found = [(word, other) for word, other in made if other]
    sounds = dict(zip([other for _, other in found], pronounced([other for _, other in found]), strict=True))
    heard = set(pronounced(sorted(counts)))
    pairs = [(word, other) for word, other in found if sounds[other] not in heard]
    for word, other in pairs[:MOST_PAIRS]:
        yield {"id": word, "choices": [word, other], "label": 0}


class Trigrams:
    """How likely letters follow one another in a list of words (add one tenth)."""

    def __init__(self, words: Iterable[str]) -> None:
        self.three: Counter[str] = Counter()
        self.two: Counter[str] = Counter()
        for word in words:
            for part in self._parts(word):
                self.three[part] += 1
                self.two[part[:2]] += 1

    def score(self, word: str) -> float:
        """Mean log probability of a letter."""
        parts = self._parts(word)
        return sum(math.log((self.three[part] + 0.1) / (self.two[part[:2]] + 2.7)) for part in parts) / len(parts)

    @staticmethod
    def _parts(word: str) -> list[str]:
        padded = f"^^{word}$"
        return [padded[i : i + 3] for i in range(len(padded) - 2)]


def nonword(word: str, clusters: Counter[str], letters: Trigrams, known: set[str]) -> str:
    """The non-word that differs in one cluster of vowels or of consonants and is most nearly as likely; or nothing."""
    parts = _CLUSTER.findall(word)
    best, least = "", 0.3
    wanted = letters.score(word)
    for place, part in enumerate(parts):
        vowel = part[0] in "aeiouy"
        for other, count in clusters.items():
            if count < 5 or "|" in other or other == part or (other[0] in "aeiouy") != vowel:
                continue
            candidate = "".join([*parts[:place], other, *parts[place + 1 :]])
            away = abs(letters.score(candidate) - wanted)
            if candidate not in known and (away, candidate) < (least, best or "~"):
                best, least = candidate, away
    return best


def dictionary() -> set[str]:
    """The words of the aligner's pronunciation dictionary."""
    import pocketsphinx

    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    return {line.split()[0].split("(")[0] for line in lines(path) if line}


def pronounced(words: Sequence[str]) -> list[str]:
    """The pronunciation of each word, in IPA, by espeak-ng."""
    text = "".join(f"{word}.\n" for word in words)
    done = subprocess.run(
        ["espeak-ng", "-q", "--ipa", "-v", "en-us", "--stdin"], input=text, capture_output=True, text=True, check=True
    )
    found = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if len(found) != len(words):
        raise SystemExit(f"espeak-ng gave {len(found)} pronunciations of {len(words)} words.")
    return found


def agreement_pairs(stories: Iterable[str]) -> Iterator[dict[str, object]]:
    """Sentences with a pronoun and a verb that goes with it, and the same with the verb's other form."""
    pairs: dict[str, dict[str, object]] = {}
    for story in stories:
        for sentence in sentences(story):
            words = sentence.split()
            wrong = disagreeing(words)
            if wrong and len(words) <= LONGEST_SENTENCE:
                pair = {"id": key_of(sentence)[:12], "choices": [sentence, wrong], "label": 0}
                pairs.setdefault(bare(sentence), pair | {"group": key_of(story)[:12]})
    yield from list(pairs.values())[:MOST_PAIRS]


def disagreeing(words: Sequence[str]) -> str:
    """The sentence with its first verb after a pronoun in the form that does not go with it; or nothing."""
    for place, (before, verb) in enumerate(pairwise(words), start=1):
        if before.lower().lstrip('"') in _SUBJECT and verb in _AGREEMENT:
            return " ".join([*words[:place], _AGREEMENT[verb], *words[place + 1 :]])
    return ""


if __name__ == "__main__":
    main()
