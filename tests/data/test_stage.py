"""The interleave stage: what it makes, what it rejects, and how corrupt pairs are reported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lst.cli.main import run
from lst.data.loader import open_stream
from lst.data.mixture import MixtureConfig
from lst.data.patching import PatchingConfig
from lst.data.preview import preview
from lst.data.rows import pair_rows, text_rows
from lst.data.stage import InterleaveConfig, find_text, interleave, interleave_spec, split_of
from lst.data.stream import DataConfig
from lst.errors import LstError
from lst.manifest import Manifest, ShardResult, StageSpec, build_shards, iter_rows
from lst.text.tokenizer import TextTokenizer
from tests.data.synthetic import aligned_row, make_aligned, make_text

Data = tuple[Manifest, Manifest]


def test_pairs_keep_the_row_and_add_tokens(data: Data) -> None:
    pairs, text = data
    tokenizer = TextTokenizer.from_file(pairs.file("tokenizer.model"))
    assert pairs.schema == "lst.pairs/1"
    assert pairs.fingerprints == {"tokenizer": "t" * 64, "aligner": "a" * 64, "text_tokenizer": tokenizer.fingerprint}
    rows = list(iter_rows(pairs))
    for row in rows:
        words = [word["text"] for word in row["words"]]
        assert tokenizer.decode(row["tokens"]) == " ".join(words)
        for word, span in zip(words, row["token_spans"]):
            assert tokenizer.decode(row["tokens"][span["start"] : span["end"]]).strip() == word
    totals = pairs.totals
    assert totals["units"] == sum(len(row["units"]) for row in rows)
    assert totals["words"] == sum(len(row["words"]) for row in rows)
    assert totals["tokens"] == sum(len(row["tokens"]) for row in rows)
    assert totals["hours"] == pytest.approx(totals["units"] / 25 / 3600)
    assert totals["train_rows"] + totals["valid_rows"] == totals["rows"] == len(rows)
    assert 0 < totals["valid_rows"] < len(rows) / 3
    assert text.id == pairs.inputs["text"].id


def test_bad_rows_are_rejected_with_a_reason(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def bad(name: str, **changes: Any) -> dict[str, Any]:
        return {**aligned_row(rng, name, 4), **changes}

    def word(text: str, start: int, end: int) -> dict[str, Any]:
        return {"text": text, "start": start, "end": end, "score": 1.0}

    fine = {"units": [1] * 50, "duration_s": 2.0}
    extra = (
        bad("no-words", words=[]),
        bad("no-units", units=[], duration_s=0.0),
        bad("units-length-mismatch", duration_s=100.0),
        bad("unit-out-of-range", units=[501] * 50, duration_s=2.0),
        bad("empty-word", **fine, words=[word("", 0, 3)]),
        bad("word-out-of-range", **fine, words=[word("a", 40, 51)]),
        bad("words-overlap", **fine, words=[word("a", 0, 9), word("cat", 8, 12)]),
    )
    aligned = make_aligned(tmp_path / "aligned", 6, extra=extra)
    text = make_text(tmp_path / "text", 5)
    pairs = interleave(aligned, text, tmp_path / "pairs", InterleaveConfig())
    assert pairs.rejected == dict.fromkeys((row["id"] for row in extra), 1)
    assert pairs.rows == 6
    with pytest.raises(LstError, match="more than 10"):
        interleave(aligned, text, tmp_path / "strict", InterleaveConfig(), max_rejected=0.1)


def test_folders_and_speakers_are_held_out_as_a_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    row = aligned_row(rng, "x", 4)
    extra = (
        {**row, "id": "c/quiet/a/1.wav#0"},
        {**row, "id": "c/quiet.wav#0"},
        {**row, "id": "c/2.wav#0", "speaker": "ann"},
    )
    aligned = make_aligned(tmp_path / "aligned", 6, extra=extra)
    text = make_text(tmp_path / "text", 5)
    config = InterleaveConfig(valid_fraction=0, held_out=["quiet", "ann"])
    pairs = interleave(aligned, text, tmp_path / "pairs", config)
    assert {row["id"] for row in iter_rows(pairs) if row["split"] == "valid"} == {"c/quiet/a/1.wav#0", "c/2.wav#0"}
    assert interleave_spec(aligned, text, config).config["held_out"] == ["quiet", "ann"]
    assert "held_out" not in interleave_spec(aligned, text, InterleaveConfig()).config
    one = interleave(aligned, text, tmp_path / "one", InterleaveConfig(valid_fraction=0, only=["quiet", "ann"]))
    assert {row["id"] for row in iter_rows(one)} == {"c/quiet/a/1.wav#0", "c/2.wav#0"}
    assert len(one.shards) == len(pairs.shards)  # some of them empty
    assert "only" not in interleave_spec(aligned, text, config).config
    with pytest.raises(LstError, match=r"no row of .* is from anne\."):
        interleave(aligned, text, tmp_path / "none", InterleaveConfig(only=["ann", "anne"]))


def test_equal_texts_are_on_one_side() -> None:
    assert split_of(["The", "cat,", "ran."], 0.5) == split_of(["the", "CAT", "—", "ran"], 0.5)
    sides = [split_of([str(i)], 0.2) for i in range(1000)]
    assert sides.count("valid") == pytest.approx(200, abs=40)
    assert {split_of([str(i)], 0.0) for i in range(50)} == {"train"}


def test_spec_depends_on_data_settings_and_tokenizer(data: Data, tmp_path: Path) -> None:
    aligned, text = make_aligned(tmp_path / "aligned", 5), data[1]
    base = interleave_spec(aligned, text, InterleaveConfig())
    assert base.id == interleave_spec(aligned, text, InterleaveConfig()).id
    model = tmp_path / "mine.model"
    model.write_bytes(text.file("tokenizer.model").read_bytes())
    by_file = interleave_spec(aligned, model, InterleaveConfig())
    other = interleave_spec(aligned, text, InterleaveConfig(valid_fraction=0.3))
    assert len({base.id, by_file.id, other.id}) == 3
    assert by_file.fingerprints == base.fingerprints
    with pytest.raises(LstError, match=r"lst\.aligned is needed"):
        interleave_spec(text, text, InterleaveConfig())
    with pytest.raises(LstError, match="does not exist"):
        interleave_spec(aligned, tmp_path / "none.model", InterleaveConfig())


def test_workers_do_not_change_the_bytes(data: Data, tmp_path: Path) -> None:
    aligned = make_aligned(tmp_path / "aligned", 20)
    made = [interleave(aligned, data[1], tmp_path / f"w{n}", InterleaveConfig(), workers=n) for n in (1, 2)]
    assert made[0].shards == made[1].shards


def test_the_text_beside_is_found(data: Data, tmp_path: Path) -> None:
    aligned = make_aligned(tmp_path / "run" / "align", 5)
    with pytest.raises(LstError, match="no tokenized text"):
        find_text(aligned)
    text = make_text(tmp_path / "run" / "text", 5)
    assert find_text(aligned).id == text.id
    make_text(tmp_path / "run" / "text2", 6)
    with pytest.raises(LstError, match="2 tokenized texts"):
        find_text(aligned)


def test_preview_reads_like_speech_and_text(data: Data) -> None:
    lines = preview(data[0], 3, patching=PatchingConfig(mode="aligned", unit="bpe"))
    rows = list(iter_rows(data[0]))[:3]
    for row, (name, line) in zip(rows, lines, strict=True):
        assert name == row["id"]
        assert line.endswith("<end>")
        assert "units |" in line
        for word in row["words"]:
            assert word["text"] in line
    assert len(preview(data[0], 1000)) == data[0].rows


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lst.cli.main.GROUPS", ("interleave",))  # the other commands have tests of their own
    make_aligned(tmp_path / "align", 8)
    text = make_text(tmp_path / "text", 5)
    out = str(tmp_path / "pairs")
    assert run(["interleave", str(tmp_path / "align"), "--out", out, "--preview", "2"]) == 0
    shown = capsys.readouterr().out
    assert "lst.pairs/1" in shown
    assert shown.count("<end>") == 2
    model = str(text.file("tokenizer.model"))
    assert run(["interleave", str(tmp_path / "align"), "--out", f"{out}2", "--tokenizer", model, "--json"]) == 0
    assert '"schema": "lst.pairs/1"' in capsys.readouterr().out
    both = ["interleave", str(tmp_path / "align"), "--out", out, "--text", str(tmp_path / "text"), "--tokenizer", model]
    assert run(both) == 2
    assert run([*both[:4], "--valid-fraction", "1.5"]) == 2
    assert run(["interleave", str(tmp_path / "text"), "--out", f"{out}3"]) == 1
    assert "lst.aligned is needed" in capsys.readouterr().err


def row(**changes: Any) -> dict[str, Any]:
    """A small valid row of pairs: two words, three tokens."""
    words = [{"text": "a", "start": 1, "end": 3, "score": 1.0}, {"text": "cat", "start": 4, "end": 8, "score": 1.0}]
    base = {
        "id": "corpus/x.wav#0",
        "duration_s": 0.4,
        "units": list(range(10)),
        "speaker": "",
        "text": "a cat",
        "words": words,
        "tokens": [5, 6, 7],
        "token_spans": [{"start": 0, "end": 1}, {"start": 1, "end": 3}],
        "split": "train",
    }
    return {**base, **changes}


def words(*spans: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"text": "a", "start": start, "end": end, "score": 1.0} for start, end in spans]


def tokens(*spans: tuple[int, int]) -> list[dict[str, int]]:
    return [{"start": start, "end": end} for start, end in spans]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": [501, *range(9)]}, "a unit lies outside 0..500"),
        ({"tokens": [5, 6, 380]}, "a token lies outside 0..379"),
        ({"tokens": [5, -1, 7]}, "a token lies outside"),
        ({"words": words((1, 3), (4, 11))}, "a word lies outside the utterance's units"),
        ({"words": words((-1, 3), (4, 8))}, "a word lies outside"),
        ({"words": words((3, 3), (4, 8))}, "is empty"),
        ({"words": words((1, 5), (4, 8))}, "overlap"),
        ({"words": words((4, 8), (1, 3))}, "out of order"),
        ({"words": words((1, 3))}, "numbers of words and of token spans differ"),
        ({"token_spans": tokens((0, 1), (2, 3))}, "do not tile"),
        ({"token_spans": tokens((1, 2), (2, 3))}, "do not tile"),
        ({"token_spans": tokens((0, 1), (1, 2))}, "do not tile"),
        ({"token_spans": tokens((0, 2), (2, 1))}, "do not tile"),
    ],
)
def test_a_corrupt_row_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    rows = [row(id=f"corpus/{i}.wav#0") for i in range(5)]
    rows.insert(3, row(id="corpus/broken.wav#0", **changes))
    spec = StageSpec("lst.pairs/1", "interleave", 1, {})
    pairs = build_shards(tmp_path / "pairs", spec, [0], lambda _: ShardResult(rows))
    with pytest.raises(LstError, match=message) as caught:
        pair_rows(pairs, text_size=380).shard(0)
    assert "00000.arrow, row 3 (corpus/broken.wav#0)" in str(caught.value)


def test_a_corrupt_text_row_is_named(tmp_path: Path) -> None:
    made = [
        {"id": f"d{i}", "text": "", "tokens": [1, 2], "split": "train", "licence": "", "source": ""} for i in range(3)
    ]
    made[1]["tokens"] = [1, 400]
    text = build_shards(tmp_path / "t", StageSpec("lst.text/1", "t", 1, {}), [0], lambda _: ShardResult(made))
    with pytest.raises(LstError, match=r"row 1 \(d1\): a token lies outside 0..379"):
        text_rows(text, text_size=380).shard(0)


def test_rows_without_words_are_read_as_speech(tmp_path: Path, data: Data) -> None:
    rows = [row(words=[], tokens=[], token_spans=[]), row(id="corpus/y.wav#0")]
    spec = StageSpec("lst.pairs/1", "interleave", 1, {})
    model = data[1].file("tokenizer.model")
    pairs = build_shards(tmp_path / "p", spec, [0], lambda _: ShardResult(rows), artifacts={"tokenizer.model": model})
    config = DataConfig(budget=64, mixture=MixtureConfig(speech=1, text=0))
    for task in ("interleaved", "speech", "asr", "tts"):
        plans = [
            plan
            for packed in open_stream(pairs, None, config, PatchingConfig(), task=task, epochs=1)
            for plan in packed
        ]
        assert len(plans) == 2
        assert all(plan.build().patch_lengths.sum() == plan.tokens for plan in plans)
