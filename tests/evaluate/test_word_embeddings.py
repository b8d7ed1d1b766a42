import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lst.errors import LstError
from lst.evaluate.word_embeddings import WordsConfig, evaluate_words, measure_words, similarity
from lst.generate.session import open_session
from lst.manifest import Manifest, ShardResult, StageSpec, build_shards
from tests.evaluate.tiny import TOKENIZER, bench_rows, make_bench, make_model

CONFIG = WordsConfig(words=3, occurrences=6, least=3)


def aligned(out: Path, *, order: int = 1, tokenizer: str = TOKENIZER) -> Manifest:
    """Words that are always the same units, between other words that are not."""
    rng = np.random.default_rng(0)
    sounds = {"cat": [7, 7, 8, 9], "house": [100, 101, 102, 103, 104], "Over,": [300, 301, 302]}
    rows = []
    for k in range(8):
        units: list[int] = []
        words = []
        for text, sound in sounds.items():
            filler = rng.integers(400, 500, int(rng.integers(2, 6))).tolist()
            words.append({"text": "x", "start": len(units), "end": len(units) + len(filler), "score": 1.0})
            units += filler
            words.append({"text": text, "start": len(units), "end": len(units) + len(sound), "score": 1.0})
            units += sound
        rows.append({"id": f"r{k}", "duration_s": 1.0, "units": units, "speaker": "", "text": "t", "words": words})
    spec = StageSpec("lst.aligned/1", "align", 1, {"order": order}, fingerprints={"tokenizer": tokenizer})
    return build_shards(out, spec, [0], lambda _: ShardResult(rows[::order]))


@pytest.mark.parametrize("patching", ["aligned", "static"])
def test_words_that_sound_alike_lie_together(model: Manifest, tmp_path: Path, patching: str) -> None:
    config = CONFIG.model_copy(update={"patching": patching})
    result = evaluate_words(model, aligned(tmp_path / "data"), tmp_path / "eval", config)
    summary = json.loads(result.file("summary.json").read_text())
    assert summary["words"] == {"cat": 6, "house": 6, "over": 6}
    assert summary["within"] > summary["between"]
    # The weights are random and the words' neighbours differ, so the words are near each other, not apart.
    assert summary["centred"]["within"] > 0 > summary["centred"]["between"]
    assert summary["floor"]["within"] == pytest.approx(1)
    assert summary["floor"]["between"] == pytest.approx(0)
    assert result.file("words.png").read_bytes().startswith(b"\x89PNG")
    assert len(pq.read_table(result.file("words.parquet"))) == 18
    assert "| bare units | 1.000 | 0.000 |" in result.file("summary.md").read_text()


def test_the_embedding_is_that_of_the_patch_which_is_the_word(model: Manifest, tmp_path: Path) -> None:
    """With aligned patches and no context (a window of one word) it is what the encoder makes of the word alone."""
    import torch

    from lst.data.batch import pack_examples
    from lst.evaluate.word_embeddings import _example, _places

    session = open_session(model.path)
    config = CONFIG.model_copy(update={"patching": "aligned"})
    _, points = measure_words(session, aligned(tmp_path / "data"), config)
    place = _places(aligned(tmp_path / "again"), config)[0]
    example = _example(session, place, "aligned")
    with torch.inference_mode():
        states = session.model.patch_embeddings(pack_examples([[example]], session.vocabulary))[0]
    ends = np.cumsum(example.patch_lengths)
    (index,) = np.flatnonzero(ends == place.ends[place.index] + 1)
    assert np.allclose(points.embeddings[0], states[index].numpy(), atol=1e-5)


def test_nothing_depends_on_the_order_of_rows(model: Manifest, tmp_path: Path) -> None:
    session = open_session(model.path)
    one, _ = measure_words(session, aligned(tmp_path / "a"), CONFIG)
    other, _ = measure_words(session, aligned(tmp_path / "b", order=-1), CONFIG)
    assert one == other


def test_similarity_of_known_vectors() -> None:
    vectors = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    found = similarity(vectors, ["a", "a", "b", "b"])
    assert (found["within"], found["between"], found["silhouette"]) == pytest.approx((1, 0, 1))
    assert (found["centred"]["within"], found["centred"]["between"]) == pytest.approx((1, -1))


def test_what_cannot_be_measured(model: Manifest, base: Manifest, tmp_path: Path) -> None:
    data = aligned(tmp_path / "data")
    with pytest.raises(LstError, match="has no patches"):
        evaluate_words(base, data, tmp_path / "a", CONFIG)
    with pytest.raises(LstError, match="two are needed"):
        evaluate_words(model, data, tmp_path / "b", CONFIG.model_copy(update={"least": 9}))
    with pytest.raises(LstError, match="was trained on"):
        evaluate_words(model, aligned(tmp_path / "foreign", tokenizer="e" * 64), tmp_path / "c", CONFIG)
    with pytest.raises(LstError, match="it has no words"):
        evaluate_words(model, make_bench(tmp_path / "bench", bench_rows(1)), tmp_path / "d", CONFIG)


def test_auto_patching_follows_how_the_model_was_trained(tmp_path: Path) -> None:
    data = aligned(tmp_path / "data")
    for mode, expected in (("curriculum", "aligned"), ("static", "static")):
        session = open_session(make_model(tmp_path / mode, mode).path)
        assert measure_words(session, data, CONFIG)[0]["patching"] == expected
