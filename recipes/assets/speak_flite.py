"""Speech of three voices of flite, which copy real speakers: a corpus folder with transcripts and phonemes.

    python recipes/assets/speak_flite.py --texts stories.txt.gz --out speech --minutes 45

flite is a program of its own (Debian `flite` and `libflite1`). Leaves the recordings, `transcripts.tsv` and
`phonemes.jsonl` (ARPAbet, start and end in seconds).
Sentence k gets the voice, speed and pitch that the number k draws.
"""

import argparse
import gzip
import json
import random
import subprocess
import wave
from pathlib import Path

VOICES = {"rms": 95, "slt": 170, "awb": 130}
"""With their mean pitch in Hz."""


def main() -> None:
    """Speak until there are enough minutes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True, help="one sentence a line (.gz too)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--skip", type=int, default=0, help="sentences to leave out at the beginning")
    parser.add_argument("--minutes", type=float, default=45.0, help="in all, with what is already there")
    parser.add_argument("--flite", default="flite", help="the program")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table, times = options.out / "transcripts.tsv", options.out / "phonemes.jsonl"
    if not table.exists():
        table.write_text("file\tspeaker\ttext\tseconds\n", encoding="utf-8")
    there = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    seconds = sum(float(row[3]) for row in there)
    with (
        gzip.open(options.texts, "rt", encoding="utf-8") if options.texts.suffix == ".gz" else options.texts.open() as f
    ):
        texts = [line.strip() for line in f if line.strip()][options.skip :]
    for number in range(len(there), len(texts)):
        if seconds >= 60 * options.minutes:
            break
        draw = random.Random(number)
        voice = draw.choice(sorted(VOICES))
        stretch, pitch = draw.uniform(0.85, 1.2), VOICES[voice] * draw.uniform(0.8, 1.25)
        path = options.out / f"{number:05d}.wav"
        said = subprocess.run(
            [
                options.flite,
                "-voice",
                voice,
                "--setf",
                f"duration_stretch={stretch:.3f}",
                "--setf",
                f"int_f0_target_mean={pitch:.1f}",
                "-psdur",
                "-t",
                texts[number],
                "-o",
                str(path),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        ends = [(name, float(end)) for name, end in (item.rsplit(":", 1) for item in said)]
        starts = [0.0, *(end for _, end in ends)]
        spans = [{"text": name, "start_s": start, "end_s": end} for start, (name, end) in zip(starts, ends)]
        with wave.open(str(path)) as file:
            length = file.getnframes() / file.getframerate()
        seconds += length
        with times.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"file": path.name, "phonemes": spans}) + "\n")
        with table.open("a", encoding="utf-8") as file:
            file.write(f"{path.name}\tflite-{voice}\t{texts[number]}\t{length:.3f}\n")
    print(f"{options.out}: {seconds / 60:.1f} min")


if __name__ == "__main__":
    main()
