"""Fit the embedded vocoder `vocoder-nano-allison` again: a human voice for units of the default tokenizer.

    python recipes/assets/vocoder_nano_allison.py            # the asset, of all of Asterisk's prompts in the sample
    python recipes/assets/vocoder_nano_allison.py OUT        # one fitted without a quarter of the texts, to measure it:
    lst eval vocoder OUT/held-out --vocoder OUT/vocoder --rows 200

Needed whenever the tokenizer `hubert-nano-25hz-501` or the sample changes. Half a minute of one core.
"""

import csv
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ridge_mfcc_501 import ROOT, SAMPLE, ship

from lst.audio.stage import IngestConfig, ingest
from lst.manifest import Manifest
from lst.units.stage import TokenizeAudioConfig, tokenize_audio
from lst.vocoder.exemplar_train import FitExemplarConfig, fit_exemplar_vocoder

NAME = "vocoder-nano-allison"
SPEAKER = "allison_smith"
HELD_OUT = 0.25
"""Share of the texts, by a hash of their words: prompts that say the same are on one side."""


def main(out: Path | None) -> None:
    """Make the asset, or what it takes to measure one."""
    if out is not None:
        units, audio = tokenized(out, "train", lambda text: not held_out(text))
        tokenized(out, "held-out", held_out)
        fit(units, audio, out / "vocoder")
        return
    with tempfile.TemporaryDirectory() as scratch:
        units, audio = tokenized(Path(scratch), "all", lambda text: True)
        made = fit(units, audio, Path(scratch) / "vocoder")
        card = json.loads(made.file("card.json").read_text(encoding="utf-8"))
        description = f"{card['description']} The voice is Allison Smith's, of twenty minutes of telephone prompts."
        source = "recipes/assets/vocoder_nano_allison.py on data_manifests/sample/asterisk"
        ship(made, ROOT / "lst" / "assets" / "embedded" / NAME, source, description=description)


def held_out(text: str) -> bool:
    """Whether a prompt is kept for measuring."""
    words = " ".join(re.findall(r"[a-z']+|\d+", text.lower()))
    return int(hashlib.sha256(words.encode()).hexdigest(), 16) % 1000 < 1000 * HELD_OUT


def tokenized(out: Path, part: str, wanted: Callable[[str], bool]) -> tuple[Manifest, Manifest]:
    """Units (`out / part`) and recordings of the speaker's prompts whose text is wanted."""
    corpus = out / "speech" / part
    with (SAMPLE / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file, delimiter="\t")
        rows = [row for row in table if row["speaker"] == SPEAKER and wanted(row["text"])]
    for row in rows:
        target = corpus / row["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SAMPLE / row["file"], target)
    lines = ["file\tspeaker\ttext", *(f"{row['file']}\t{row['speaker']}\t{row['text']}" for row in rows)]
    (corpus / "transcripts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copyfile(SAMPLE / "corpus.json", corpus / "corpus.json")
    audio = ingest(corpus, out / "audio" / part, IngestConfig(corpus="tsv"))
    return tokenize_audio(audio, out / part, TokenizeAudioConfig()), audio


def fit(units: Manifest, audio: Manifest, out: Path) -> Manifest:
    """The vocoder."""
    config = FitExemplarConfig(name=NAME, licence="CC BY-SA 3.0")
    return fit_exemplar_vocoder(units, audio, out, config)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
