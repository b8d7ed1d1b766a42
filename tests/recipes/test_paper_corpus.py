"""The corpus and the benchmarks of the paper in miniature: stories are divided, spoken, and turned into items."""

import csv
import gzip
import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import soundfile

from lst.assets import find_by_fingerprint
from lst.audio.stage import IngestConfig, ingest
from lst.manifest import iter_rows, load_manifest
from lst.manifest.inspect import verify_manifest
from lst.pipeline.recipe import load_recipe
from tests.evaluate.test_make_benchmark import PROGRAM

PAPER = Path(__file__).parents[2] / "recipes" / "paper"


@pytest.fixture(scope="module")
def corpus() -> Any:
    sys.path.insert(0, str(PAPER))
    return importlib.import_module("make_corpus")


@pytest.fixture(scope="module")
def benchmarks(corpus: Any) -> Any:
    return importlib.import_module("make_benchmarks")


def story(number: int) -> str:
    return " ".join(
        f'Once, number {number} met {k} cats. They said, "Hi there!" He was glad, {k} times.' for k in range(4)
    )


@pytest.fixture
def texts(corpus: Any, tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    stories = [story(number) for number in range(150)]
    (source / "tinystories.txt.gz").write_bytes(gzip.compress("\n".join([*stories, stories[0]]).encode()))
    (source / "pg_children.txt.gz").write_bytes(
        gzip.compress(b"# A title\nOne paragraph.\nAnother.\n\nA new chapter.\n")
    )
    corpus.write_texts(source, tmp_path / "out")
    return tmp_path / "out"


def test_stories_are_divided_and_none_is_in_two_parts(corpus: Any, texts: Path) -> None:
    train, held_out, kept = (
        list(corpus.lines(path))
        for path in (texts / "text/stories.txt.gz", texts / "text/held-out.txt.gz", texts / "benchmarks/stories.txt")
    )
    assert set(Counter(train).values()) == {corpus.STORY_COPIES}
    parts = [set(train), set(held_out), set(kept)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 150
    assert list(corpus.lines(texts / "text/books.txt.gz")) == ["One paragraph. Another.", "A new chapter."]
    assert len(kept) == pytest.approx(0.105 * 150, abs=12)


def test_passages_are_whole_sentences_and_add_up(corpus: Any) -> None:
    text = corpus.plain('He ran. â€œStop!â€ she said. Then  he stopped. "No." "Yes!" It ended')
    assert text == 'He ran. "Stop!" she said. Then he stopped. "No." "Yes!" It ended'
    parts = corpus.sentences(text)
    assert parts == ["He ran.", '"Stop!" she said.', "Then he stopped.", '"No."', '"Yes!"', "It ended"]
    long = story(1)
    passages = corpus.passages_of(long, 20)
    assert " ".join(passages) == long
    assert all(len(passage.split()) <= 20 for passage in passages)
    assert len(passages) <= 5


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    log = tmp_path / "log.txt"
    log.touch()
    file = tmp_path / "bin" / "espeak-ng"
    file.parent.mkdir()
    file.write_text(PROGRAM.format(python=sys.executable, log=str(log)))
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}{os.environ['PATH']}")
    return log


def test_stories_are_spoken_in_turn_and_a_stopped_run_goes_on(
    corpus: Any, texts: Path, program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(corpus, "WORDS_PER_SECOND", 0.05)
    voices = ["espeak-ng:en-us", "espeak-ng:en-us+f2"]
    hours = 100 / 0.05 / 3600  # a hundred words
    corpus.speak(texts, voices, ["espeak-ng:en-gb"], hours)
    rows = {
        row["id"]: row for row in iter_rows(ingest(texts / "speech", tmp_path / "audio", IngestConfig(corpus="tsv")))
    }
    spoken = [row for row in rows.values() if "/spoken/" in row["id"]]
    held_out = [row for row in rows.values() if "/held-out/" in row["id"]]
    assert len(spoken) + len(held_out) == len(rows) > 0
    assert {row["speaker"] for row in spoken} == {"espeak-ng.en-us", "espeak-ng.en-us+f2"}
    assert 100 <= sum(len(row["text"].split()) for row in spoken) < 100 + 2 * len(story(0).split())
    train = " ".join(corpus.lines(texts / "text/stories.txt.gz"))
    assert all(row["text"] in train for row in spoken)
    assert not any(row["text"] in train for row in held_out)
    said = len(program.read_text().splitlines())
    next((texts / "speech" / "spoken").rglob("*.flac")).unlink()
    corpus.speak(texts, voices, ["espeak-ng:en-gb"], hours)
    assert len(program.read_text().splitlines()) == said + 1


def test_recordings_of_held_out_sentences_are_left_out(corpus: Any, texts: Path, tmp_path: Path) -> None:
    kept = corpus.sentences(next(corpus.lines(texts / "benchmarks/stories.txt")))
    folder = tmp_path / "read"
    folder.mkdir()
    rows = [
        ("a.flac", f"Well. {kept[0].upper()}"),
        ("b.flac", "Nobody wrote this down before."),
        ("c.flac", "Hi there!"),
    ]
    (folder / "transcripts.tsv").write_text(
        "file\tspeaker\ttext\tseconds\n" + "".join(f"{name}\tann\t{text}\t1.0\n" for name, text in rows)
    )
    for name, _ in rows:
        soundfile.write(folder / name, [0.1] * 16000, 16000)
    corpus.add_recordings(texts, [folder])
    with (texts / "speech" / "read" / "transcripts.tsv").open() as file:
        assert [row["file"] for row in csv.DictReader(file, delimiter="\t")] == ["audio/b.flac", "audio/c.flac"]
    tables = sorted((texts / "speech" / "read").rglob("transcripts.tsv"))
    assert tables == [texts / "speech" / "read" / "transcripts.tsv"]  # the source's own would bring the rows back
    card = json.loads((texts / "speech" / "corpus.json").read_text())
    assert card["provenance"] == [{"corpus": "read", "licence": "not stated", "path": "read"}]


def test_every_end_is_once_right_and_once_wrong(benchmarks: Any) -> None:
    passages = list(benchmarks.passages_of(story(number) for number in range(6)))
    assert {passage.place for passage in passages} == {0, 1}
    items = list(benchmarks.cloze(passages, benchmarks.any_other(passages)))
    assert Counter(item["right"] for item in items) == Counter(item["wrong"] for item in items)
    for item, other in zip(passages, benchmarks.any_other(passages), strict=True):
        assert passages[other].story != item.story
        assert passages[other].place == item.place


def test_a_similar_story_gives_the_wrong_end_but_never_the_same_words(benchmarks: Any) -> None:
    texts = [
        ("A dog ran home to its house.", "It barked."),
        ("The dog ran to the house.", "Dogs bark."),
        ("A sweet cake in the oven.", "They ate cake."),
        ("The oven had a cake.", "They ate cake!"),
        ("Sugar and cake and an oven.", "So sweet."),
    ]
    passages = [benchmarks.Passage(str(number), 0, *text) for number, text in enumerate(texts)]
    wrong = benchmarks.most_similar(passages)
    assert sorted(wrong) == [0, 1, 2, 3, 4]
    assert (wrong[0], wrong[1]) == (1, 0) or 4 in (wrong[2], wrong[3])
    assert wrong[2] != 3
    assert wrong[3] != 2


def test_non_words_are_no_words_and_one_cluster_away(benchmarks: Any) -> None:
    words = ["mother", "brother", "father", "feather", "weather", "rather", "gather", "bother", "smother", "leather"]
    clusters = Counter({"th": 9, "m": 5, "br": 5, "f": 5, "o": 6, "a": 6, "ea": 6, "e": 9, "r": 9})
    letters = benchmarks.Trigrams(words)
    made = benchmarks.nonword("brother", clusters, letters, set(words))
    assert made
    assert made not in words
    before, after = (benchmarks._CLUSTER.findall(word) for word in ("brother", made))
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert abs(letters.score(made) - letters.score("brother")) < 0.3


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("Then they were happy again.", "Then they was happy again."),
        ('"I am," she is saying.', '"I am," she are saying.'),
        ("The cats were happy.", ""),
    ],
)
def test_agreement(benchmarks: Any, sentence: str, wrong: str) -> None:
    assert benchmarks.disagreeing(sentence.split()) == wrong


def test_the_commands_say_what_they_do() -> None:
    for name in ("make_corpus.py", "make_benchmarks.py"):
        done = subprocess.run([sys.executable, PAPER / name, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


SHIPPED = Path(__file__).parents[2] / "data_manifests" / "paper"


@pytest.mark.parametrize("name", ["aligned", "topic-storycloze", "storycloze", "spoken-word", "grammar"])
def test_what_is_shipped_is_whole_and_fits_together(name: str) -> None:
    assert verify_manifest(SHIPPED / name) == []
    manifest = load_manifest(SHIPPED / name)
    assert manifest.fingerprints["tokenizer"] == load_manifest(SHIPPED / "aligned").fingerprints["tokenizer"]
    assert find_by_fingerprint(manifest.fingerprints["tokenizer"], "tokenizer") is not None  # units of one that is here
    if name == "aligned":
        assert manifest.totals["rows"] == manifest.rows
        assert sum(row["duration_s"] for row in iter_rows(manifest)) > 30 * 3600
    else:
        assert manifest.rows >= 1000  # for intervals of three points


def test_the_recipe_takes_its_speech_from_what_is_shipped() -> None:
    stages = load_recipe(PAPER / "all.yaml").stages
    assert {
        stages[name].kind_name for name in ("align", "topic-storycloze", "storycloze", "spoken-word", "grammar")
    } == {"made"}
    assert stages["first-base-0"].config.optimizer.lr != stages["first-static-0"].config.optimizer.lr
