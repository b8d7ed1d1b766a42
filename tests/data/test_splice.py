"""The splice stage: what is said, by whom and with which words; what is held out; what does not change the result."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lst.cli.main import run
from lst.data.loader import open_stream
from lst.data.mixture import MixtureConfig
from lst.data.patching import PatchingConfig
from lst.data.splice import SpliceConfig, passages, splice, splice_spec
from lst.data.stage import InterleaveConfig, interleave, split_of, word_key
from lst.data.stream import DataConfig
from lst.data.word_bank import WordBank, pause_of, sentences_of
from lst.errors import LstError
from lst.manifest import Manifest, ShardResult, StageSpec, build_shards, iter_rows, partial_path, read_table
from lst.pipeline.recipe import load_recipe
from lst.text.tokenizer import TextTokenizer
from tests.data.synthetic import WORDS, aligned_row, make_text

Row = dict[str, Any]
Corpus = tuple[Manifest, Path]

HELD_OUT = "A red house ran over."


def speech(root: Path, rows: list[Row], valid_fraction: float = 0.1) -> Manifest:
    """Pairs of `rows` of aligned speech in three shards; speaker `held` is the validation split, with some others."""
    spec = StageSpec(
        "lst.aligned/1",
        "align",
        1,
        {"rows": [row["id"] for row in rows]},
        fingerprints={"tokenizer": "t" * 64, "aligner": "a" * 64},
        provenance=[{"corpus": "synthetic", "licence": "CC0-1.0", "source": "tests"}],
    )
    aligned = build_shards(root / "aligned", spec, range(3), lambda k: ShardResult(rows[k::3]))
    config = InterleaveConfig(valid_fraction=valid_fraction, held_out=["held"])
    return interleave(aligned, make_text(root / "text", 20), root / "pairs", config)


def said(rng: np.random.Generator, name: str, speaker: str, text: str) -> Row:
    """A row of aligned speech in which `speaker` says `text`."""
    row = aligned_row(rng, name, len(text.split()))
    for word, spelt in zip(row["words"], text.split(), strict=True):
        word["text"] = spelt
    return {**row, "speaker": speaker, "text": text}


def sentence(rng: np.random.Generator, words: int) -> str:
    """Random words with a comma here and there."""
    text = " ".join(WORDS[i] + ("," if rng.random() < 0.2 else "") for i in rng.integers(0, len(WORDS), words))
    return text.rstrip(",").capitalize() + "."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """(pairs, text): speech of ann and ben, 40 rows each, a little of cleo and a held-out speaker; 600 stories."""
    root = tmp_path_factory.mktemp("splice")
    rng = np.random.default_rng(1)
    rows = [
        said(rng, f"c/{speaker}/{i:02d}.wav#0", speaker, sentence(rng, int(rng.integers(4, 20))))
        for speaker in ("ann", "ben")
        for i in range(40)
    ]
    rows.append(said(rng, "c/cleo/0.wav#0", "cleo", "Nobody else says zebra, I think."))
    rows.append(said(rng, "c/held/0.wav#0", "held", HELD_OUT))
    stories = [" ".join(sentence(rng, int(rng.integers(3, 12))) for _ in range(3)) for _ in range(597)]
    stories += [
        f"The cat ran slowly. {HELD_OUT} The dog ran under a tree.",
        "The zebra and the cat ran. An unspoken xylophone were under the tree. People ran slowly over.",
        stories[0],
    ]
    (root / "stories.txt").write_text("\n".join(stories) + "\n", encoding="utf-8")
    return speech(root, rows), root / "stories.txt"


def config_of(corpus: Corpus, **changes: Any) -> SpliceConfig:
    return SpliceConfig.model_validate({"text": corpus[1], "voice_words": 100, **changes})


@pytest.fixture(scope="module")
def spliced(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return splice(corpus[0], tmp_path_factory.mktemp("out") / "spliced", config_of(corpus))


def made_rows(manifest: Manifest) -> list[Row]:
    """The spliced rows."""
    return [row for row in iter_rows(manifest) if row["id"].startswith("spliced/")]


def readings(pairs: Manifest) -> dict[str, list[tuple[str, list[int], int]]]:
    """Spelling -> (speaker, units up to the next word, units of the word itself), of all training rows."""
    found: dict[str, list[tuple[str, list[int], int]]] = {}
    for row in iter_rows(pairs):
        if row["split"] == "train":
            stops = [word["start"] for word in row["words"][1:]] + [len(row["units"])]
            for word, stop in zip(row["words"], stops, strict=True):
                reading = (row["speaker"], row["units"][word["start"] : stop], word["end"] - word["start"])
                found.setdefault(word_key(word["text"]), []).append(reading)
    return found


@pytest.mark.parametrize("kind", ["typical", "varied"])
def test_every_word_is_a_reading_of_its_spelling(corpus: Corpus, tmp_path: Path, kind: str) -> None:
    manifest = splice(corpus[0], tmp_path / "out", config_of(corpus, readings=kind))
    known = readings(corpus[0])
    tokenizer = TextTokenizer.from_file(corpus[0].file("tokenizer.model"))
    rows = made_rows(manifest)
    assert len(rows) == manifest.totals["spliced_rows"] > 500
    for row in rows:
        words = row["words"]
        assert words[0]["start"] == 0
        assert row["duration_s"] == len(row["units"]) / 25
        assert row["text"].split() == [word["text"] for word in words]
        assert tokenizer.decode(row["tokens"]) == row["text"]
        stops = [word["start"] for word in words[1:]] + [len(row["units"])]
        for word, stop in zip(words, stops, strict=True):
            assert word["start"] < word["end"] <= stop
            own = [reading for reading in known[word_key(word["text"])] if reading[0] == row["speaker"]]
            allowed = own or known[word_key(word["text"])]  # a word that the voice lacks comes from another
            units = row["units"][word["start"] : stop]
            assert any(units == reading[1] and word["end"] - word["start"] == reading[2] for reading in allowed)


def test_the_source_comes_first_and_unchanged(corpus: Corpus, spliced: Manifest) -> None:
    pairs = corpus[0]
    for shard in range(len(pairs.shards)):
        assert read_table(spliced, shard).equals(read_table(pairs, shard))
    assert len(spliced.shards) == len(pairs.shards) + 3  # 599 different texts, 256 a shard
    assert spliced.fingerprints == pairs.fingerprints
    assert spliced.file("tokenizer.model").read_bytes() == pairs.file("tokenizer.model").read_bytes()
    assert {row["split"] for row in made_rows(spliced)} == {"train"}
    assert [entry["corpus"] for entry in spliced.provenance] == ["stories", "synthetic"]
    rows = list(iter_rows(spliced))
    totals = spliced.totals
    assert len({row["id"] for row in rows}) == len(rows) == totals["train_rows"] + totals["valid_rows"]
    assert totals["valid_rows"] == pairs.totals["valid_rows"]
    for name in ("units", "words", "tokens"):
        assert totals[name] == sum(len(row[name]) for row in rows)
    assert totals["hours"] == pytest.approx(totals["units"] / 25 / 3600)
    assert totals["spliced_hours"] == pytest.approx(totals["hours"] - pairs.totals["hours"])
    texts = set(corpus[1].read_text(encoding="utf-8").splitlines())
    assert totals["spliced_words"] + totals["words_left_out"] == sum(len(text.split()) for text in texts)


def test_what_is_held_out_is_not_said(corpus: Corpus, spliced: Manifest) -> None:
    held = {row["text"] for row in iter_rows(corpus[0]) if row["split"] == "valid"}
    assert HELD_OUT in held
    texts = [row["text"] for row in made_rows(spliced)]
    assert all(found not in held for text in texts for found in sentences_of(text))
    assert {"The cat ran slowly.", "The dog ran under a tree."} <= set(texts)
    assert all(split_of(text.split(), 0.1) == "train" for text in texts)
    assert not any("xylophone" in text for text in texts)
    assert any("zebra" in text for text in texts)  # said by cleo, in the middle of another voice
    assert {row["speaker"] for row in made_rows(spliced)} == {"ann", "ben"}


def test_passages_are_whole_sentences(corpus: Corpus) -> None:
    bank = WordBank(corpus[0], 100)
    text = 'The cat ran. "The dog ran!" A tree were under the house — and blue.'
    first, second = (part.split() for part in ('The cat ran. "The dog ran!"', "A tree were under the house and blue."))
    assert passages(text, bank, 60, 0.0) == ([[*first, *second]], 0)
    assert passages(text, bank, 7, 0.0) == ([first, second], 0)
    assert passages("The cat ran. The qqq were under a tree. Dog.", bank, 60, 0.0) == ([], 10)
    assert [pause_of(word) for word in ("a", "a,", 'a."', "a?", "a—")] == [0, 1, 2, 2, 1]


def test_workers_and_order_do_not_change_the_bytes(corpus: Corpus, spliced: Manifest, tmp_path: Path) -> None:
    two = splice(corpus[0], tmp_path / "two", config_of(corpus), workers=2)
    assert two.shards == spliced.shards
    lines = corpus[1].read_text(encoding="utf-8").splitlines()
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("\n".join(reversed(lines[100:])), encoding="utf-8")
    (folder / "b.txt").write_text("\n".join(lines[:150]), encoding="utf-8")
    other = splice(corpus[0], tmp_path / "other", config_of(corpus, text=folder))
    assert other.shards == spliced.shards
    assert other.id != spliced.id


def test_copies_are_of_different_voices(corpus: Corpus, tmp_path: Path) -> None:
    manifest = splice(corpus[0], tmp_path / "out", config_of(corpus, copies=2))
    voices: dict[str, set[str]] = {}
    for row in made_rows(manifest):
        name = row["id"].split("/")[-1]
        document, _, place = name.split("-")
        voices.setdefault(f"{document}-{place}", set()).add(row["speaker"])
    assert all(found == {"ann", "ben"} for found in voices.values())
    with pytest.raises(LstError, match="3 copies need as many voices"):
        splice(corpus[0], tmp_path / "three", config_of(corpus, copies=3))


def test_the_seed_draws_the_voices(corpus: Corpus, spliced: Manifest, tmp_path: Path) -> None:
    other = splice(corpus[0], tmp_path / "out", config_of(corpus, seed=1))
    mine, theirs = ({row["id"] for row in made_rows(manifest)} for manifest in (spliced, other))
    assert len(mine) == len(theirs)
    assert 0.3 < len(mine & theirs) / len(mine) < 0.7  # of two voices


def test_a_typical_reading_is_the_one_most_like_the_others(tmp_path: Path) -> None:
    units = {"a": [1, 2, 3, 4], "b": [1, 2, 3, 9], "c": [1, 2, 3, 4, 4], "d": [7, 8, 9, 7]}
    rows = []
    for name, found in units.items():
        words = [{"text": "word,", "start": 1, "end": 1 + len(found), "score": 0.5}]
        rows.append(
            {"id": f"c/{name}#0", "units": [0, *found, 0], "speaker": "ann", "text": "word,", "words": words}
            | {"duration_s": (len(found) + 2) / 25}
        )
    bank = WordBank(speech(tmp_path, rows, valid_fraction=0), 1)
    # Shared pairs: a and c have three of 3 and 4 with each other, and two each with b; d has none with anybody.
    word = bank.typical(bank.voices[0], bank.keys["word"], 1)
    assert bank.units[bank.starts[word] : bank.ends[word]].tolist() == units["a"]
    assert bank.units[bank.starts[word] : bank.stops[word]].tolist() == [*units["a"], 0]
    assert bank.typical(bank.voices[0], bank.keys["word"], 2) == word  # no other pause in the source


def test_typical_readings_are_the_same_everywhere(spliced: Manifest) -> None:
    heard: dict[tuple[str, str, int], set[tuple[int, ...]]] = {}
    for row in made_rows(spliced):
        stops = [word["start"] for word in row["words"][1:]] + [len(row["units"])]
        for word, stop in zip(row["words"], stops, strict=True):
            name = (row["speaker"], word_key(word["text"]), pause_of(word["text"]))
            heard.setdefault(name, set()).add(tuple(row["units"][word["start"] : stop]))
    assert len(heard) > 50
    assert all(len(found) == 1 for found in heard.values())


def test_varied_readings_keep_neighbours_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = "Once a cat ran, over the red house."
    rows = [said(rng, f"c/{i}#0", "ann", "The cat over a house, the red ran.") for i in range(20)]
    rows.append(said(rng, "c/once#0", "ann", text))
    rows.append(said(rng, "c/ben#0", "ben", text))
    pairs = speech(tmp_path, rows, valid_fraction=0)
    bank = WordBank(pairs, 100)
    for seed in range(10):
        chosen = bank.choose(text.split(), bank.voices[0], "varied", np.random.default_rng(seed))
        assert all(right == left + 1 for left, right in pairwise(chosen))
        row = next(row for row in rows if row["id"] == "c/once#0")
        first = row["words"][0]["start"]
        assert bank.units[bank.starts[chosen[0]] : bank.stops[chosen[-1]]].tolist() == row["units"][first:]
        # "cat." nobody says, so the run of words is left there.
        ends = bank.choose(["Once", "a", "cat."], bank.voices[0], "varied", np.random.default_rng(seed))
        assert ends[1] == ends[0] + 1


def test_a_killed_run_continues(corpus: Corpus, spliced: Manifest, tmp_path: Path) -> None:
    def stop_at(shards: int) -> Callable[[int, int, str], None]:
        def progress(done: int, total: int, unit: str) -> None:
            if done == shards:
                raise KeyboardInterrupt

        return progress

    config = config_of(corpus)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        splice(corpus[0], out, config, progress=stop_at(4))
    assert not out.exists()
    partial = partial_path(out, splice_spec(corpus[0], config).id)
    before = {path.name: path.stat().st_mtime_ns for path in (partial / "shards").iterdir()}
    assert len(before) == 4
    manifest = splice(corpus[0], out, config)
    assert manifest.shards == spliced.shards
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}.items()


def test_damaged_text_is_counted(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"The cat ran slowly.\n\xff\xfe\n")
    manifest = splice(corpus[0], tmp_path / "out", config_of(corpus, text=tmp_path / "t.txt"))
    assert manifest.rejected == {"invalid-utf8": 1}
    assert manifest.totals["spliced_rows"] == 1


def test_training_reads_it(spliced: Manifest) -> None:
    config = DataConfig(budget=256, mixture=MixtureConfig(speech=1, text=0))
    rows = open_stream(spliced, None, config, PatchingConfig(), task="interleaved", epochs=1)
    names = [plan for packed in rows for plan in packed]
    assert len(names) == spliced.totals["train_rows"]


def test_errors_are_one_line(corpus: Corpus, spliced: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(LstError, match=r"No speaker of .* has 5,000 words of training speech: the most are"):
        splice(corpus[0], out, config_of(corpus, voice_words=5000))
    (tmp_path / "t.txt").write_text("Qqq www.\nThe cat.\n", encoding="utf-8")
    with pytest.raises(LstError, match=r"t\.txt holds nothing that can be said"):
        splice(corpus[0], out, config_of(corpus, text=tmp_path / "t.txt"))
    with pytest.raises(LstError, match=r"lst\.pairs is needed"):
        splice(make_text(tmp_path / "text", 5), out, config_of(corpus))
    with pytest.raises(LstError, match="is spliced already"):
        splice(spliced, out, config_of(corpus))
    with pytest.raises(LstError, match="does not exist"):
        splice(corpus[0], out, config_of(corpus, text=tmp_path / "none.txt"))
    assert not list(tmp_path.glob("out*"))


def test_the_place_of_the_text_does_not_matter(corpus: Corpus, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "stories.txt"
    copy.parent.mkdir()
    copy.write_bytes(corpus[1].read_bytes())
    base = splice_spec(corpus[0], config_of(corpus))
    assert splice_spec(corpus[0], config_of(corpus, text=copy)).id == base.id
    copy.write_text("Another text.", encoding="utf-8")
    assert splice_spec(corpus[0], config_of(corpus, text=copy)).id != base.id
    assert "text" not in base.config


def test_recipe_names_the_text_from_its_own_folder(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "stages: {made-pairs: {stage: made, source: p}, splice: {inputs: {pairs: made-pairs}, text: stories.txt}}"
    )
    config = load_recipe(recipe).stages["splice"].config
    assert isinstance(config, SpliceConfig)
    assert config.text == tmp_path / "stories.txt"


def test_command(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lst.cli.main.GROUPS", ("interleave", "splice"))
    pairs, text = corpus
    command = ["splice", str(pairs.path), str(text), "--out", str(tmp_path / "out")]
    assert run([*command, "--voice-words", "100"]) == 0
    assert "spliced hours" in capsys.readouterr().out
    assert run([*command, "--readings", "loud"]) == 2
    assert "--readings" in capsys.readouterr().err
    assert run([*command, "--copies", "0"]) == 2
    assert run([*command, "--force"]) == 1
    assert "No speaker" in capsys.readouterr().err
