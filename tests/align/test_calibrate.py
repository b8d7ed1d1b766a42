"""Shifted boundaries, what they are measured on, and the limit for scores."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lst.align.base import MAX_SHIFT_S, Aligner, Alignment, TimedWord, Word
from lst.align.calibrate import measure_limit, measure_shifts, read_words
from lst.align.ctc import shifted
from lst.errors import LstError
from lst.manifest import Manifest, iter_rows
from tests.units.corpus import audio_manifest


class Early(Aligner):
    """Hears two words, each 30 ms before it begins and 10 ms after it ends; is sure of loud recordings."""

    name, fingerprint = "early", "00"

    def align(self, samples: npt.NDArray[np.float32], text: str, num_frames: int) -> Alignment:
        score = float(np.abs(samples).max())
        words = [Word(word, 0, 1, score) for word in text.split()]
        times = [TimedWord(0.17 + index, 0.51 + index, score) for index in range(len(words))]
        return Alignment(words, score, times=times)


@pytest.fixture
def audio(tmp_path: Path) -> Manifest:
    tone = np.sin(np.arange(32000) / 10).astype(np.float32)
    sounds = [tone * (0.1 + 0.008 * row) for row in range(100)]
    return audio_manifest(tmp_path, sounds, per_shard=50, changes={row: {"text": "one two"} for row in range(100)})


def words_file(audio: Manifest, path: Path, texts: tuple[str, str] = ("one", "two")) -> Path:
    spans = [{"text": text, "start_s": 0.2 + index, "end_s": 0.5 + index} for index, text in enumerate(texts)]
    lines = [json.dumps({"file": row["audio_path"], "words": spans}) for row in iter_rows(audio)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_shifts_take_off_what_an_aligner_is_off_by(audio: Manifest, tmp_path: Path) -> None:
    words = read_words(words_file(audio, tmp_path / "words.jsonl"))
    ids = [row["id"] for row in iter_rows(audio)][:10]
    assert measure_shifts(Early(), audio, ids, words) == pytest.approx((0.03, -0.01))
    with pytest.raises(LstError, match="names none of the recordings"):
        measure_shifts(Early(), audio, ["nobody"], words)
    late = {name: [{**word, "start_s": word["start_s"] + 1} for word in spans] for name, spans in words.items()}
    assert measure_shifts(Early(), audio, ids, late) == pytest.approx((MAX_SHIFT_S, -0.01))
    other = read_words(words_file(audio, tmp_path / "other.jsonl", ("one", "three")))
    with pytest.raises(LstError, match="names none of the recordings"):
        measure_shifts(Early(), audio, ids, other)


def test_the_limit_lets_98_in_a_hundred_pass(audio: Manifest) -> None:
    ids = [row["id"] for row in iter_rows(audio)]
    limit = measure_limit(Early(), audio, ids)
    assert limit == pytest.approx(0.1 + 0.008 * 2, abs=0.002)
    assert measure_limit(Early(), audio, []) == 0


def test_shifted_words_meet_halfway() -> None:
    words = [TimedWord(0.1, 0.5, 0.9), TimedWord(0.52, 0.8, 0.8), TimedWord(0.8, 0.83, 0.7)]
    moved = shifted(words, -0.04, 0.02)
    assert [(round(word.start_s, 3), round(word.end_s, 3)) for word in moved] == [
        (0.06, 0.5),
        (0.5, 0.79),
        (0.79, 0.85),
    ]
    assert [word.score for word in moved] == [0.9, 0.8, 0.7]
    assert shifted(words, 0.0, 0.0) == words
    assert shifted(words[:1], -0.2, 0.0)[0].start_s == 0
    short = shifted([TimedWord(0.1, 0.11, 1.0), TimedWord(0.11, 0.12, 1.0)], 0.05, -0.05)
    assert all(word.start_s <= word.end_s for word in short)
    assert short[0].end_s <= short[1].start_s
