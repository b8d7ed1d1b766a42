"""The stage tokenize-text: rows, splits, licences, tokenizers, determinism, interruption."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from lst.errors import LstError
from lst.manifest import iter_rows, load_manifest
from lst.text.stage import TokenizeTextConfig, in_valid_split, tokenize_text, tokenize_text_spec
from lst.text.tokenizer import TOKENIZER_FILE, TextTokenizer

STORIES = Path(__file__).parents[2] / "data_manifests" / "stories"
SMALL = TokenizeTextConfig(train_tokenizer=380, documents_per_shard=7, valid_fraction=0.2)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "texts"
    (source / "free").mkdir(parents=True)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "dog", "ran", "to", "old", "house", "by", "lake"]
    lines = [" ".join(words[(i * k) % len(words)] for k in range(1, 12)).capitalize() + "." for i in range(40)]
    (source / "one.txt").write_text("\n".join(lines), encoding="utf-8")
    entries = [{"text": f"Story {i}: {line}", "licence": "CC0"} for i, line in enumerate(lines)]
    (source / "free" / "two.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\nbad\n", encoding="utf-8")
    card = {
        "name": "mixed",
        "provenance": [
            {"corpus": "All", "licence": "CC BY", "source": "somewhere"},
            {"corpus": "Free", "licence": "CC0", "source": "elsewhere", "path": "free"},
        ],
    }
    (source / "corpus.json").write_text(json.dumps(card))
    return source


def test_rows_splits_and_licences(source: Path, tmp_path: Path) -> None:
    made = tokenize_text(source, tmp_path / "out", SMALL)
    rows = list(iter_rows(made))
    assert len(rows) == made.rows == 80
    assert made.rejected == {"invalid-json": 1}
    assert len({row["id"] for row in rows}) == 80
    assert rows[0]["id"] == "mixed/free/two.jsonl#1"
    assert (rows[0]["licence"], rows[0]["source"]) == ("CC0", "elsewhere")
    assert (rows[-1]["licence"], rows[-1]["source"]) == ("CC BY", "somewhere")
    tokenizer = TextTokenizer.from_file(made.file(TOKENIZER_FILE))
    assert made.fingerprints == {"text_tokenizer": tokenizer.fingerprint}
    assert tokenizer.vocab_size == 380
    for row in rows:
        assert tokenizer.decode(row["tokens"]) == row["text"]
        assert (row["split"] == "valid") == in_valid_split(row["text"], 0.2)
    assert made.totals["tokens"] == sum(len(row["tokens"]) for row in rows)
    assert 0 < made.totals["valid_documents"] < 40
    config = SMALL.model_copy(update={"held_out": ["free"], "valid_fraction": 0.0})
    held_out = tokenize_text(source, tmp_path / "held-out", config)
    assert all((row["split"] == "valid") == row["id"].startswith("mixed/free/") for row in iter_rows(held_out))
    assert held_out.totals["valid_documents"] > 0
    assert {entry["corpus"] for entry in made.provenance} == {"All", "Free"}


def test_result_depends_on_neither_workers_nor_place(source: Path, tmp_path: Path) -> None:
    first = tokenize_text(source, tmp_path / "a", SMALL)
    second = tokenize_text(source.rename(tmp_path / "moved"), tmp_path / "b", SMALL, workers=2)
    assert first.id == second.id == tokenize_text_spec(tmp_path / "moved", SMALL).id
    assert [shard.sha256 for shard in first.shards] == [shard.sha256 for shard in second.shards]
    again = tokenize_text(tmp_path / "moved", tmp_path / "b", SMALL)
    assert again.created == second.created


def test_a_tokenizer_of_the_users(source: Path, tmp_path: Path) -> None:
    trained = tokenize_text(source, tmp_path / "a", SMALL)
    model = tmp_path / "llama.model"
    model.write_bytes(trained.file(TOKENIZER_FILE).read_bytes())
    config = TokenizeTextConfig(tokenizer=str(model))
    made = tokenize_text(source, tmp_path / "b", config)
    assert made.fingerprints == trained.fingerprints
    assert str(tmp_path) not in json.dumps(made.config)
    other = tmp_path / "elsewhere.model"
    other.write_bytes(model.read_bytes())
    assert tokenize_text_spec(source, TokenizeTextConfig(tokenizer=str(other))).id == made.id
    model.write_bytes(b"not a model")
    with pytest.raises(LstError, match="not a SentencePiece model"):
        tokenize_text_spec(source, config)


def test_a_killed_run_goes_on_with_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lst.text.stage as stage

    undisturbed = tokenize_text(source, tmp_path / "a", SMALL)
    original = stage.ShardTokenizer.__call__

    def dying(self: stage.ShardTokenizer, piece: int) -> object:
        if piece == 3:
            raise KeyboardInterrupt
        return original(self, piece)

    monkeypatch.setattr(stage.ShardTokenizer, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        tokenize_text(source, tmp_path / "b", SMALL)
    monkeypatch.undo()
    monkeypatch.setattr(stage, "read_documents", None)  # neither read again
    monkeypatch.setattr("lst.text.train.train_tokenizer", None)  # nor trained again
    resumed = tokenize_text(source, tmp_path / "b", SMALL)
    assert [shard.sha256 for shard in resumed.shards] == [shard.sha256 for shard in undisturbed.shards]
    kept = {path.name for path in (tmp_path / "b").iterdir()}
    assert kept == {"manifest.json", "shards", TOKENIZER_FILE, "rejected.arrow"}


def test_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(LstError, match="holds no text"):
        tokenize_text(tmp_path / "empty.txt", tmp_path / "out", SMALL)
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    with pytest.raises(LstError, match=r"bad\.txt holds no text that can be used: 1 invalid-utf8"):
        tokenize_text(tmp_path / "bad.txt", tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValidationError, match="not both"):
        TokenizeTextConfig(tokenizer="x", train_tokenizer=400)
    for body in ("{", "[]", '{"provenance": []}', '{"provenance": [{"corpus": 1}]}', '{"provenance": [{}]}'):
        (tmp_path / "corpus.json").write_text(body)
        with pytest.raises(LstError, match=r"corpus\.json"):
            tokenize_text_spec(tmp_path / "bad.txt", SMALL)


def test_shipped_stories_keep_clear_of_the_story_cloze(tmp_path: Path) -> None:
    made = load_manifest(tokenize_text(STORIES, tmp_path / "out", TokenizeTextConfig(train_tokenizer=1000)).path)
    assert made.rows == 1805
    assert made.provenance[0]["licence"] == "CDLA-Sharing-1.0"
    stories = "\n".join(row["text"] for row in iter_rows(made, ["text"]))
    items = (STORIES.parent / "storycloze-tiny" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    assert not [item for item in map(json.loads, items) if item["context"] in stories]
