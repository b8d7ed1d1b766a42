"""Train the embedded aligner `ctc-nano-en` again: real speech, and a synthetic voice that says when it spoke each word.

    python recipes/assets/ctc_nano_en.py SPEECH JOE OUT [KEY=VALUE ...]

SPEECH holds the corpora of `hubert_nano_25hz_501.py` (same split by speaker and text; the digits of fsdd are left
out), JOE a corpus of `speak_piper.py` (spoken/joe there). The network starts as that of the embedded tokenizer.
Boundaries are calibrated on JOE. OUT gets the corpus, the audio manifest and the aligner. Stopped, it goes on when
started again. KEY=VALUE changes a setting of the YAML file beside this one.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

from hubert_nano_25hz_501 import CORPORA, split

from lst.align.train import TrainAlignerConfig, train_aligner
from lst.audio.stage import IngestConfig, ingest
from lst.pipeline.recipe import read_yaml
from lst.train.options import settings_of

RECIPE = Path(__file__).with_name("ctc-nano-en.yaml")
TOKENIZER = "hubert-nano-25hz-501"


def main(speech: Path, joe: Path, out: Path, *changes: str) -> None:
    """Split, join, ingest, train."""
    if not (out / "corpus" / "train" / "words.jsonl").is_file():
        split(dict.fromkeys(CORPORA, speech), out / "corpus")
        join(joe, out / "corpus" / "train")
    audio = ingest(out / "corpus" / "train", out / "audio", IngestConfig(corpus="tsv"))
    config = settings_of(TrainAlignerConfig, read_yaml(RECIPE), list(changes), str(RECIPE))
    words = out / "corpus" / "train" / "words.jsonl"
    made = train_aligner(audio, out / "ctc-nano-en", config, tokenizer=TOKENIZER, words=words, progress=_progress)
    print(made.path, made.totals)


def join(joe: Path, corpus: Path) -> None:
    """Add the recordings of `joe` to `corpus`, take the spoken digits out, and write the true words beside them."""
    (corpus / "joe").mkdir(exist_ok=True)
    with (corpus / "transcripts.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [row for row in rows if not row["file"].startswith("fsdd/")]
    with (joe / "transcripts.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            shutil.copyfile(joe / row["file"], corpus / "joe" / row["file"])
            rows.append({**row, "file": f"joe/{row['file']}"})
    lines = ["\t".join(row[name] for name in ("file", "speaker", "text", "seconds")) for row in rows]
    text = "file\tspeaker\ttext\tseconds\n" + "\n".join(lines) + "\n"
    (corpus / "transcripts.tsv").write_text(text, encoding="utf-8")
    description = json.loads((corpus / "corpus.json").read_text(encoding="utf-8"))
    spoken = json.loads((joe / "corpus.json").read_text(encoding="utf-8"))
    real = [entry for entry in description["provenance"] if entry["path"] != "fsdd"]
    description["provenance"] = real + [{**entry, "path": "joe"} for entry in spoken["provenance"]]
    (corpus / "corpus.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    with (joe / "words.jsonl").open(encoding="utf-8") as file:
        words = [json.loads(line) for line in file]
    named = [json.dumps({**entry, "file": f"joe/{entry['file']}"}) for entry in words]
    (corpus / "words.jsonl").write_text("\n".join(named) + "\n", encoding="utf-8")


def _progress(done: int, total: int, unit: str) -> None:
    if done == total or done % 50 == 0:
        print(f"{done}/{total} {unit}", flush=True)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]), *sys.argv[4:])
