"""Fit the embedded vocoder `ridge-mfcc-501` again: needed whenever the tokenizer `mfcc-501` or the sample changes.

    python recipes/assets/ridge_mfcc_501.py

Ingests the sample of the repository, tokenizes it, fits (about 20 s of one core), and puts card, config and weights
into `lst/assets/embedded/ridge-mfcc-501`. What was measured by listening models is kept from the old card only if the
weights come out the same; else measure again, as docs/vocoder.md says.
"""

import json
import shutil
import tempfile
from pathlib import Path

from lst.audio.stage import IngestConfig, ingest
from lst.manifest import Manifest, load_manifest, write_json
from lst.units.stage import TokenizeAudioConfig, tokenize_audio
from lst.vocoder.train import FitVocoderConfig, fit_vocoder

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data_manifests" / "sample"
TARGET = ROOT / "lst" / "assets" / "embedded" / "ridge-mfcc-501"


def main() -> None:
    """Make the asset."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        audio = ingest(SAMPLE, work / "audio", IngestConfig(corpus="tsv"))
        units = tokenize_audio(audio, work / "units", TokenizeAudioConfig(tokenizer="mfcc-501"))
        made = fit_vocoder(load_manifest(units.path), audio, work / "vocoder", FitVocoderConfig(name="ridge-mfcc-501"))
        ship(made, TARGET, "recipes/assets/ridge_mfcc_501.py on data_manifests/sample")


def ship(made: Manifest, target: Path, source: str, **more: str) -> None:
    """Put a fitted vocoder in place of the asset in `target`; its card says where it comes from, and `more`."""
    old = json.loads((target / "card.json").read_text()) if (target / "card.json").is_file() else {}
    card = json.loads(made.file("card.json").read_text()) | {"source": source} | more
    if old.get("fingerprint") == card["fingerprint"] and "measured" in old:
        card["measured"] = old["measured"]
    target.mkdir(parents=True, exist_ok=True)
    for name in card["files"]:
        shutil.copyfile(made.file(name), target / name)
    write_json(target / "card.json", card)
    print(f"{target}: {card['fingerprint'][:12]}, {card['numbers']}")
    if "measured" not in card:
        print("The weights are new: what listening models say of them is to be measured again.")


if __name__ == "__main__":
    main()
