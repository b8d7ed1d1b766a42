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
