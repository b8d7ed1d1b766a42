"""Speech of many espeak-ng voices: a corpus folder with transcripts, words and phonemes. Not a part of `lst`.

espeak-ng is under the GPL and not installed with lst: this program runs in an environment of its own,

    python -m venv speak && speak/bin/pip install espeakng-loader
    speak/bin/python recipes/assets/speak_espeak.py --texts stories.txt.gz --out speech --minutes 100

and leaves in `speech` the recordings, `transcripts.tsv` and `phonemes.jsonl`, the start and end of every phoneme in
seconds (espeak's mnemonics). Sentence k, in the order of its lines, gets the accent, variant, pitch and speed that the
number k draws, so a run that was stopped goes on, and the same texts give the same speech.
"""

import argparse
import ctypes
import gzip
import importlib
import json
import random
import wave
from pathlib import Path
from typing import Any

ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc", "en-029")
WEIGHTS = (8, 2, 2, 1, 1, 1, 2, 1)
VARIANTS = (
    "f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 adam anika Alicia Andrea Andy Annie antonio aunty belinda benjamin "
    "boris caleb david Denis Diogo ed edward Gene Gene2 grandma grandpa gustave Hugo ian Jacky john kaukovalta "
    "klatt klatt2 klatt3 klatt4 Lee linda marcelo Marco Mario max Michael michel miguel Mike Mr_serious norbert "
    "pablo paul pedro quincy Reed rob robert sandro shelby steph steph2 steph3 travis victor zac"
)
SYNCHRONOUS, PHONEME_EVENTS = 2, 1
END, PHONEME = 0, 7
RATE, PITCH, RANGE = 1, 3, 4


class Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("string", ctypes.c_char * 8),
    ]


class Espeak:
    """The library, and what it has said."""

    def __init__(self) -> None:
        loader = importlib.import_module("espeakng_loader")
        self._library = ctypes.CDLL(loader.get_library_path())
        self.rate = int(
            self._library.espeak_Initialize(SYNCHRONOUS, 0, loader.get_data_path().encode(), PHONEME_EVENTS)
        )
        self._callback = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event)
        )(self._heard)
        self._library.espeak_SetSynthCallback(self._callback)
        self._samples = bytearray()
        self._phonemes: list[tuple[str, float]] = []

    def speak(self, text: str, voice: str, rate: int, pitch: int, spread: int) -> tuple[bytes, list[dict[str, Any]]]:
        """16-bit samples, and the phonemes with their times."""
        self._samples, self._phonemes = bytearray(), []
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise SystemExit(f"espeak-ng has no voice {voice}")
        for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, spread)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 1, 0, 1, None, None)
        end = len(self._samples) / 2 / self.rate
        starts = [start for _, start in self._phonemes[1:]] + [end]
        spans = [
            {"text": name, "start_s": round(start, 4), "end_s": round(after, 4)}
            for (name, start), after in zip(self._phonemes, starts, strict=True)
        ]
        return bytes(self._samples), spans

    def _heard(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self._samples += ctypes.string_at(samples, 2 * count)
        index = 0
        while events[index].type != END:
            if events[index].type == PHONEME:
                name = events[index].string.decode("utf-8", "replace")
                self._phonemes.append((name, events[index].audio_position / 1000))
            index += 1
        return 0


def main() -> None:
    """Speak until there are enough minutes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True, help="one sentence a line (.gz too)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=100.0, help="in all, with what is already there")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table, times = options.out / "transcripts.tsv", options.out / "phonemes.jsonl"
    if not table.exists():
        table.write_text("file\tspeaker\ttext\tseconds\n", encoding="utf-8")
    there = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    seconds = sum(float(row[3]) for row in there)
    espeak = Espeak()
    with (
        gzip.open(options.texts, "rt", encoding="utf-8") if options.texts.suffix == ".gz" else options.texts.open() as f
    ):
        texts = [line.strip() for line in f if line.strip()]
    for number in range(len(there), len(texts)):
        if seconds >= 60 * options.minutes:
            break
        draw = random.Random(number)
        accent = draw.choices(ACCENTS, WEIGHTS)[0]
        variant = draw.choice(VARIANTS.split())
        settings = draw.randint(130, 220), draw.randint(20, 85), draw.randint(30, 75)
        samples, spans = espeak.speak(texts[number], f"{accent}+{variant}", *settings)
        name = f"{number:05d}.wav"
        with wave.open(str(options.out / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(espeak.rate)
            file.writeframes(samples)
        length = len(samples) / 2 / espeak.rate
        seconds += length
        with times.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"file": name, "phonemes": spans}, ensure_ascii=False) + "\n")
        with table.open("a", encoding="utf-8") as file:
            file.write(f"{name}\tespeak-{accent}-{variant}\t{texts[number]}\t{length:.3f}\n")
    print(f"{options.out}: {seconds / 60:.1f} min at {espeak.rate} Hz")


if __name__ == "__main__":
    main()
