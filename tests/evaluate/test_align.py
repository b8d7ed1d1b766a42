"""`lst eval align` on the repository's recordings, and its arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lst.align.calibrate import read_words
from lst.align.loading import load_aligner
from lst.audio import open_row_audio
from lst.cli.main import build_app
from lst.errors import LstError
from lst.evaluate.align import AlignEvalConfig, align_spec, evaluate_align, rejection, wrong_texts
from lst.manifest import Manifest, iter_rows, open_input
from tests.evaluate.test_vocoder import units  # noqa: F401  (a fixture)

LATE_S = 0.03


@pytest.fixture(scope="module")
def words(units: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """What pocketsphinx finds, 30 ms earlier: so that its boundary error is 30 ms."""
    audio, aligner = open_input(units, "audio"), load_aligner("pocketsphinx")
    lines = []
    for row in iter_rows(audio):
        samples = open_row_audio(audio, row)
        found = aligner.align(samples, row["text"], len(samples) // 640)
        times = zip(found.words, found.times, strict=True)
        spans = [
            {"text": word.text, "start_s": time.start_s - LATE_S, "end_s": time.end_s - LATE_S} for word, time in times
        ]
        lines.append(json.dumps({"file": row["audio_path"], "words": spans}))
    path = tmp_path_factory.mktemp("words") / "words.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_command(units: Manifest, words: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "result"
    arguments = ["eval", "align", str(units.path), "--words", str(words), "--other", "pocketsphinx", "--json"]
    done = CliRunner().invoke(build_app(), [*arguments, "--out", str(out)])
    assert done.exit_code == 0, done.exception
    summary = json.loads(done.stdout)
    both, starts = summary["words"]["all"], summary["words"]["starts"]
    assert both["boundaries"] == 2 * starts["boundaries"] == 2 * (8 + 4)
    assert both["median_ms"] == pytest.approx(1000 * LATE_S, abs=0.01)
    assert starts["median_signed_ms"] == pytest.approx(1000 * LATE_S, abs=0.01)
    assert both["within_20_ms"] == 0
    assert both["within_60_ms"] == 1
    assert 0 < summary["words_on_grid"]["all"]["median_ms"] < 60
    assert summary["agreement"]["ends"]["median_ms"] == 0
    assert summary["rejection"]["default"]["wrong_rejected"] == 1
    assert summary["rejection"]["default"]["right_rejected"] == 0
    assert summary["audio_seconds_per_cpu_second"] > 0
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert all(row["right"] > row["wrong"] for row in rows)
    assert "| true times: starts |" in (out / "summary.md").read_text()


def test_words_that_do_not_belong(units: Manifest, words: Path, tmp_path: Path) -> None:  # noqa: F811
    audio = open_input(units, "audio")
    stranger = tmp_path / "words.jsonl"
    stranger.write_text(words.read_text().replace(".flac", ".wav"))
    with pytest.raises(LstError, match="names none of the recordings"):
        evaluate_align(units, audio, tmp_path / "a", AlignEvalConfig(), words=stranger)
    other_text = tmp_path / "other.jsonl"
    other_text.write_text(words.read_text().replace("ugly", "pretty").replace("press", "free"))
    with pytest.raises(LstError, match="names none of the recordings"):
        evaluate_align(units, audio, tmp_path / "b", AlignEvalConfig(), words=other_text)
    stranger.write_text('{"file": "a.wav", "words": [{"text": "a"}]}\n')
    with pytest.raises(LstError, match=r"line 1 is no list of words \(KeyError: 'start_s'\)"):
        read_words(stranger)
    with pytest.raises(LstError, match="does not exist"):
        evaluate_align(units, audio, tmp_path / "c", AlignEvalConfig(), words=tmp_path / "nowhere")
    config = AlignEvalConfig()
    assert align_spec(units, audio, config, words).id != align_spec(units, audio, config, None).id


def test_rejection_at_a_given_false_rejection() -> None:
    found = [{"right": 0.5 + index / 1000, "wrong": 0.4 + index / 1000} for index in range(200)]
    rates = rejection(found, limit=0.45, false_rejection=0.02, seed=0)
    assert rates["default"]["right_rejected"] == 0
    assert rates["default"]["wrong_rejected"] == 0.25
    assert rates["chosen"]["min_score"] == pytest.approx(0.504)
    assert rates["chosen"]["right_rejected"] == 0.02
    assert rates["chosen"]["wrong_rejected"] == pytest.approx(0.52, abs=0.006)
    assert rates["chosen"]["wrong_rejected_low"] < 0.52 < rates["chosen"]["wrong_rejected_high"]


def test_a_wrong_text_is_another_one_of_like_length() -> None:
    texts = ["one two", "three four five six", "two one", "six five four three"]
    assert wrong_texts(texts) == ["two one", "six five four three", "one two", "three four five six"]
    assert all(np.array(wrong_texts(texts)) != np.array(texts))
    with pytest.raises(LstError, match="All transcripts are the same"):
        wrong_texts(["a", "a"])
