import gzip
import json
from pathlib import Path

import pytest

from lst.errors import LstError
from lst.evaluate.readers import SourceItem, detect, read_source
from lst.evaluate.readers.stories import CSV_COLUMNS
from tests.evaluate.tiny import write_tone

SHIPPED = Path(__file__).parents[2] / "data_manifests" / "storycloze-tiny"


def write_csv(path: Path, rows: list[list[str]], header: tuple[str, ...] = CSV_COLUMNS) -> Path:
    lines = [",".join(header)] + [",".join(f'"{cell}"' for cell in row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def story(name: str, answer: str = "2", *, right: str = "It was, he said, good.") -> list[str]:
    return [name, "Tom ran.", "He fell.", "He rose.", "He won.", "He slept.", right, answer]


def reasons(path: Path) -> dict[str, str]:
    return {item.id: item.reason for item in read_source(path).rejected}


def test_official_csv(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "cloze.csv", [story("a"), story("b", "1")])
    source = read_source(path)
    assert source.format == "storycloze-csv"
    assert source.items[0] == SourceItem(
        "a", 1, context_text="Tom ran. He fell. He rose. He won.", choices_text=("He slept.", "It was, he said, good.")
    )
    assert source.items[1].label == 0
    assert not source.rejected


def test_csv_rejects_by_row_and_goes_on(tmp_path: Path) -> None:
    rows = [
        story("good"),
        story("good"),
        story("none", "3"),
        story("empty", right=" "),
        ["silent", *[""] * 4, "x", "y", "1"],
    ]
    path = write_csv(tmp_path / "cloze.csv", rows)
    assert [item.id for item in read_source(path).items] == ["good"]
    assert reasons(path) == {
        "good": "duplicate-id",
        "none": "bad-row",
        "empty": "empty-ending",
        "silent": "empty-context",
    }


def test_csv_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "other.csv", [["1", "2"]], ("InputStoryid", "text"))
    with pytest.raises(LstError, match="lacks the column InputSentence1"):
        read_source(path)


def test_slamkit_pairs_by_id_not_by_order(tmp_path: Path) -> None:
    # In sorted order "10_b_correct" follows "0_a_correct": pairing neighbours would mix the stories.
    for name in ("0_a_correct", "1_a_incorrect", "10_b_correct", "11_b_incorrect", "2_c_x_correct", "3_c_x_incorrect"):
        write_tone(tmp_path / f"{name}.wav", 0.1)
    source = read_source(tmp_path)
    assert source.format == "slamkit"
    pairs = {item.id: item.choices_audio for item in source.items}
    assert pairs == {
        "a": ("0_a_correct.wav", "1_a_incorrect.wav"),
        "b": ("10_b_correct.wav", "11_b_incorrect.wav"),
        "c_x": ("2_c_x_correct.wav", "3_c_x_incorrect.wav"),
    }
    assert all(item.label == 0 and not item.has_context for item in source.items)


def test_slamkit_rejects_what_does_not_pair(tmp_path: Path) -> None:
    names = ("0_a_correct", "1_a_incorrect", "2_b_correct", "5_c_correct", "6_c_incorrect")
    for name in (*names, "8_d_correct", "9_d_incorrect", "10_d_correct"):
        write_tone(tmp_path / f"{name}.wav", 0.1)
    assert [item.id for item in read_source(tmp_path).items] == ["a"]
    assert reasons(tmp_path) == {"b": "missing-file", "c": "label-mismatch", "d": "duplicate-id"}


def test_cross_modal(tmp_path: Path) -> None:
    for part in ("mutual", "correct", "incorrect"):
        write_tone(tmp_path / f"story_1_{part}.wav", 0.1)
        (tmp_path / f"story_1_{part}.txt").write_text(f"The {part} part.\n", encoding="utf-8")
    write_tone(tmp_path / "speech_mutual.wav", 0.1)
    for part in ("correct", "incorrect"):
        (tmp_path / f"speech_{part}.txt").write_text(part, encoding="utf-8")
    write_tone(tmp_path / "lonely_mutual.wav", 0.1)
    source = read_source(tmp_path)
    assert source.format == "cross-modal"
    items = {item.id: item for item in source.items}
    assert items["story_1"].choices_text == ("The correct part.", "The incorrect part.")
    assert items["story_1"].choices_audio == ("story_1_correct.wav", "story_1_incorrect.wav")
    assert items["speech"].context_audio == "speech_mutual.wav"
    assert not items["speech"].choices_audio
    assert {item.id: item.reason for item in source.rejected} == {"lonely": "missing-file"}


def write_jsonl(path: Path, *rows: object) -> Path:
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", encoding="utf-8"
    )
    return path


def test_jsonl_as_text_as_audio_and_as_both(tmp_path: Path) -> None:
    write_tone(tmp_path / "clips" / "c.wav", 0.1)
    path = write_jsonl(
        tmp_path / "mine.jsonl",
        {"id": "text", "context": "Once.", "right": "Yes.", "wrong": "No."},
        {"context": "clips/c.wav", "right": "clips/c.wav", "wrong": "clips/c.wav"},
        {
            "id": "both",
            "group": "g",
            "context": "Once.",
            "right": "Yes.",
            "wrong": "No.",
            **{f"{part}_audio": "clips/c.wav" for part in ("context", "right", "wrong")},
        },
        "",
    )
    text, audio, both = read_source(path).items
    assert (text.context_text, text.choices_text, text.audio_paths) == ("Once.", ("Yes.", "No."), ())
    assert (audio.id, audio.context_text, audio.audio_paths) == ("line 2", "", ("clips/c.wav",) * 3)
    assert (both.group, both.choices_text, both.choices_audio) == ("g", ("Yes.", "No."), ("clips/c.wav",) * 2)


def test_jsonl_rejections(tmp_path: Path) -> None:
    good = {"id": "good", "context": "a", "right": "b", "wrong": "c"}
    write_tone(tmp_path / "a.wav", 0.1)
    outside = tmp_path.parent / "outside.wav"
    write_tone(outside, 0.1)
    path = write_jsonl(
        tmp_path / "items.jsonl",
        good,
        good,
        "{not json",
        "[1, 2]",
        {**good, "id": "ending", "wrong": "  "},
        {**good, "id": "context", "context": ""},
        {"id": "short", "context": "a", "right": "b"},
        {**good, "id": "gone", "wrong": "gone.wav", "right": "a.wav"},
        {**good, "id": "escape", "wrong": "../outside.wav", "right": "a.wav"},
        {**good, "id": "absolute", "wrong": str(outside), "right": "a.wav"},
        {**good, "id": "mixed", "wrong": "a.wav"},
    )
    assert [item.id for item in read_source(path).items] == ["good"]
    assert reasons(path) == {
        "good": "duplicate-id",
        "line 3": "bad-row",
        "line 4": "bad-row",
        "ending": "empty-ending",
        "context": "empty-context",
        "short": "bad-row",
        "gone": "missing-file",
        "escape": "path-escapes",
        "absolute": "path-escapes",
        "mixed": "mixed-endings",
    }


def test_a_link_out_of_the_directory_does_not_get_out(tmp_path: Path) -> None:
    outside = tmp_path / "secret.wav"
    write_tone(outside, 0.1)
    root = tmp_path / "bench"
    root.mkdir()
    (root / "link.wav").symlink_to(outside)
    good = {"id": "good", "context": "a", "right": "b", "wrong": "c"}
    path = write_jsonl(root / "items.jsonl", good, {"context": "link.wav", "right": "link.wav", "wrong": "link.wav"})
    assert reasons(path) == {"line 2": "path-escapes"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no benchmark"),
        (["readme.md"], "holds no benchmark"),
        (["a.jsonl", "b.jsonl"], "one .jsonl file"),
        (["sub/x.txt"], "holds no benchmark"),
    ],
)
def test_unknown_directories(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(LstError, match=message):
        read_source(tmp_path)


def test_missing_and_unusable_sources(tmp_path: Path) -> None:
    with pytest.raises(LstError, match="no benchmark at"):
        read_source(tmp_path / "nowhere")
    (tmp_path / "x.parquet").write_bytes(b"1")
    with pytest.raises(LstError, match="not a benchmark"):
        read_source(tmp_path / "x.parquet")
    with pytest.raises(LstError, match="no usable jsonl item"):
        read_source(write_jsonl(tmp_path / "bad.jsonl", "nonsense"))


def test_invalid_utf8_is_read_with_replacement(tmp_path: Path) -> None:
    line = json.dumps({"id": "x", "context": "caf", "right": "b", "wrong": "c"}).encode().replace(b"caf", b"caf\xe9")
    (tmp_path / "items.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\n")
    assert read_source(tmp_path).items[0].context_text == "caf\ufffd"


def test_the_shipped_benchmark() -> None:
    assert detect(SHIPPED) == "jsonl"
    source = read_source(SHIPPED)
    assert not source.rejected
    assert len(source.items) >= 160
    rights = sorted(item.choices_text[0] for item in source.items)
    wrongs = sorted(item.choices_text[1] for item in source.items)
    assert rights == wrongs  # without the context nothing can be known
    names = {name for item in source.items for name in item.audio_paths}
    assert sum((SHIPPED / name).stat().st_size for name in names) <= 4_000_000
    assert {path.relative_to(SHIPPED).as_posix() for path in (SHIPPED / "audio").iterdir()} == names


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


HELLASWAG = {
    "ind": 24,
    "activity_label": "Roof shingle removal",
    "ctx_a": "A man is sitting on a roof.",
    "ctx_b": "he",
    "endings": ["is using wrap [step] it.", "is ripping tiles [title] off.", "sits.", "starts  pulling."],
    "label": "3",
}


def test_hellaswag_query_is_that_of_lm_eval(tmp_path: Path) -> None:
    test_split = HELLASWAG | {"ind": 25, "label": ""}
    short = HELLASWAG | {"ind": 26, "endings": ["one"]}
    source = read_source(write_rows(tmp_path / "hellaswag_val.jsonl", [HELLASWAG, test_split, short]))
    (item,) = source.items
    assert source.format == "hellaswag"
    assert item.context_text == "Roof shingle removal: A man is sitting on a roof. He"
    assert item.choices_text == ("is using wrap it.", "is ripping tiles. off.", "sits.", "starts pulling.")
    assert (item.id, item.label) == ("24", 3)
    assert [(bad.id, bad.reason) for bad in source.rejected] == [("25", "no-label"), ("26", "bad-row")]


def test_piqa_takes_its_labels_from_the_file_beside_it(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"goal": "boil eggs", "sol1": "in water ", "sol2": "in air"},
        {"goal": "g", "sol1": "a", "sol2": "b"},
    ]
    path = write_rows(tmp_path / "valid.jsonl", rows)
    with pytest.raises(LstError, match="has no labels beside it"):
        read_source(path)
    (tmp_path / "valid-labels.lst").write_text("1\n")
    with pytest.raises(LstError, match="1 labels for 2 lines"):
        read_source(path)
    (tmp_path / "valid-labels.lst").write_text("1\nx\n")
    source = read_source(tmp_path)
    (item,) = source.items
    assert item.context_text == "Question: boil eggs\nAnswer:"
    assert item.choices_text == ("in water ", "in air")
    assert item.label == 1
    assert [bad.reason for bad in source.rejected] == ["no-label"]


def test_blimp_from_many_files_and_from_a_table(tmp_path: Path) -> None:
    for name in ("island", "anaphor"):
        rows: list[dict[str, object]] = [
            {"sentence_good": f"{name} good {k}.", "sentence_bad": f"{name} bad {k}.", "UID": name, "pairID": str(k)}
            for k in range(2)
        ]
        write_rows(tmp_path / "data" / f"{name}.jsonl", rows)
    source = read_source(tmp_path / "data")
    assert [(item.id, item.category) for item in source.items] == [
        ("anaphor/0", "anaphor"),
        ("anaphor/1", "anaphor"),
        ("island/0", "island"),
        ("island/1", "island"),
    ]
    assert all(not item.has_context and item.label == 0 for item in source.items)
    table = tmp_path / "blimp.tsv.gz"
    with gzip.open(table, "wt") as file:
        file.write('uid\tpair_id\tgood\tbad\nisland\t0\t"Who" came?\tWho "came"?\n')
    (item,) = read_source(table).items
    assert item.choices_text == ('"Who" came?', 'Who "came"?')


def write_gold(root: Path, header: str, rows: list[str]) -> Path:
    root.mkdir(parents=True)
    (root / "gold.csv").write_text("\n".join([header, *rows]) + "\n")
    for row in rows:
        (root / f"{row.split(',')[0]}.wav").write_bytes(b"sound")
    return root


def test_zerospeech_pairs_by_id_and_voice_whatever_the_order(tmp_path: Path) -> None:
    rows = ["aa,1,A,12,brick,1", "bb,2,A,0,blick,1", "cc,1,B,12,blurb,0", "dd,1,A,12,thrick,0", "ee,1,B,12,brick,1"]
    rows += ["ff,2,A,0,blont,0", "gg,3,A,0,lone,1", "hh,4,A,0,x,maybe"]
    root = write_gold(tmp_path / "lexical", "filename,id,voice,frequency,word,correct", rows)
    source = read_source(root)
    assert source.format == "swuggy"
    assert {item.id: item.choices_audio for item in source.items} == {
        "1/A": ("aa.wav", "dd.wav"),
        "1/B": ("ee.wav", "cc.wav"),
        "2/A": ("bb.wav", "ff.wav"),
    }
    assert [item.group for item in source.items] == ["1", "2", "1"]
    assert {item.category for item in source.items} == {"in vocabulary", "out of vocabulary"}
    assert sorted(bad.reason for bad in source.rejected) == ["bad-row", "missing-file"]


def test_zerospeech_syntactic(tmp_path: Path) -> None:
    rows = ["aa.wav,1,A,anaphor,x,she saw herself,1", "bb.wav,1,A,anaphor,x,she saw himself,0"]
    root = write_gold(tmp_path / "syntactic", "filename,id,voice,type,subtype,transcription,correct", rows)
    for name in ("aa.wav", "bb.wav"):
        (root / name).write_bytes(b"sound")
    (item,) = read_source(root / "gold.csv").items
    assert item.choices_text == ("she saw herself", "she saw himself")
    assert item.category == "anaphor"


def test_own_items_with_several_choices(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "a", "context": "c", "choices": ["x", "y", "z"], "label": 2, "category": "k"},
        {"id": "b", "choices": ["x", "y"], "label": 1},
        {"id": "c", "context": "c", "choices": ["x", "y"], "label": 2},
        {"id": "d", "context": "c", "choices": ["x"], "label": 0},
        {"id": "e", "context": "c", "choices": ["x", " "], "label": 0},
        {"id": "f", "context": " ", "choices": ["x", "y"], "label": 0},
        {"id": "g", "context": "c", "choices": ["x", "y"], "choices_audio": ["x.wav"], "label": 0},
        {"id": "a", "context": "c", "choices": ["x", "y"], "label": 0},
    ]
    source = read_source(write_rows(tmp_path / "items.jsonl", rows))
    assert [(item.id, item.label, item.has_context) for item in source.items] == [("a", 2, True), ("b", 1, False)]
    assert {bad.id: bad.reason for bad in source.rejected} == {
        "c": "bad-row",
        "d": "bad-row",
        "e": "empty-ending",
        "f": "empty-context",
        "g": "bad-row",
        "a": "duplicate-id",
    }
