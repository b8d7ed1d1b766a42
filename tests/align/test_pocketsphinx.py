"""The embedded aligner on real speech: right and wrong transcripts, words it does not know, bad input."""

import numpy as np
import pytest

from lst.align.base import Alignment
from lst.align.loading import MIN_SCORES
from tests.align.speech import TEXTS, aligner, recording

GOOD = MIN_SCORES["pocketsphinx"]


def align(name: str, text: str) -> Alignment:
    samples = recording(name)
    return aligner().align(samples, text, len(samples) // 640)


def check(alignment: Alignment, text: str, frames: int) -> None:
    assert " ".join(word.text for word in alignment.words) == " ".join(text.split())
    edges = [edge for word in alignment.words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert all(word.start < word.end for word in alignment.words)
    assert edges[0] >= 0
    assert edges[-1] <= frames
    assert all(0 <= word.score <= 1 for word in alignment.words)


@pytest.mark.parametrize("name", TEXTS)
def test_right_transcripts_pass_and_wrong_ones_do_not(name: str) -> None:
    frames = len(recording(name)) // 640
    right = align(name, TEXTS[name])
    assert right.rejected is None
    assert right.score > GOOD + 0.2
    check(right, TEXTS[name], frames)
    for other in TEXTS:
        wrong = align(name, TEXTS[other])
        assert other == name or wrong.rejected or wrong.score < GOOD


def test_boundaries_are_those_of_pocketsphinx() -> None:
    import pocketsphinx

    from lst.align.sphinx_model import dictionary_path, model_directory

    name = "LJ001-0029"
    decoder = pocketsphinx.Decoder(hmm=str(model_directory()), dict=str(dictionary_path()), lm=None, loglevel="FATAL")
    decoder.set_align_text("but though on the whole except in italy gothic letter was most often used")
    decoder.start_utt()
    decoder.process_raw(np.round(recording(name) * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    theirs = [(s.start_frame, s.end_frame + 1) for s in decoder.seg() if s.word[0] not in "<["]
    ours = [(word.start, word.end) for word in align(name, TEXTS[name]).words]
    assert len(ours) == len(theirs)
    difference = np.abs(np.array(ours) * 4 - np.array(theirs))
    # Their search is approximate; ours rounds to frames of 4 of theirs.
    assert np.median(difference) <= 3
    assert difference.max() <= 12


def test_the_result_does_not_depend_on_what_came_before() -> None:
    first = align("LJ001-0013", TEXTS["LJ001-0013"])
    align("LJ001-0008", "nothing to do with it")
    assert align("LJ001-0013", TEXTS["LJ001-0013"]) == first


def test_words_outside_the_dictionary_are_aligned_and_reported() -> None:
    alignment = align("LJ001-0013", "than in the same operashuns with uglie ones.")
    assert alignment.rejected is None
    assert alignment.unknown == ["operashuns"] or alignment.unknown == ["operashuns", "uglie"]
    assert alignment.score > GOOD + 0.1
    assert len(alignment.words) == 8


def test_a_word_nobody_can_read_keeps_its_place() -> None:
    known = align("LJ001-0013", TEXTS["LJ001-0013"]).words
    mixed = align("LJ001-0013", "than in the same операции with ugly ones.")
    assert mixed.rejected is None
    assert mixed.words[4].text == "операции"
    assert "операции" in mixed.unknown
    assert mixed.words[4].score == 0
    assert mixed.score > GOOD + 0.1
    assert abs(mixed.words[4].start - known[4].start) <= 2
    assert abs(mixed.words[4].end - known[4].end) <= 2


def test_text_that_cannot_be_aligned_is_rejected_with_a_reason() -> None:
    reasons = {
        "": "no-text",
        " … — !": "no-text",
        "все счастливые семьи похожи": "text-other-script",
        "日本語": "text-other-script",
        "word " * 300: "text-too-long",
        "a" * 100_000: "text-too-long",
        "12345678901234567890 " * 50: "text-too-long",
    }
    for text, reason in reasons.items():
        alignment = align("LJ001-0008", text)
        assert alignment.rejected == reason, text[:20]
        assert alignment.detail
        assert alignment.words == []


@pytest.mark.parametrize("kind", ["silent", "noise", "clipped", "constant", "nan", "empty", "one-sample"])
def test_bad_audio_never_passes(kind: str) -> None:
    generator = np.random.default_rng(0)
    samples = {
        "silent": np.zeros(32_000, np.float32),
        "noise": generator.normal(0, 0.1, 32_000).astype(np.float32),
        "clipped": np.sign(generator.normal(0, 1, 32_000)).astype(np.float32),
        "constant": np.full(32_000, 0.5, np.float32),
        "nan": np.full(32_000, np.nan, np.float32),
        "empty": np.zeros(0, np.float32),
        "one-sample": np.zeros(1, np.float32),
    }[kind]
    alignment = aligner().align(samples, "has never been surpassed", len(samples) // 640)
    assert alignment.rejected or alignment.score < GOOD


def test_short_words_on_few_frames() -> None:
    samples = recording("LJ001-0008")[: 640 * 12]
    alignment = aligner().align(samples, "has never", 12)
    assert alignment.rejected is None
    check(alignment, "has never", 12)


def test_windows_of_a_long_recording_agree_with_the_parts() -> None:
    pause = np.zeros(8_000, np.float32)
    parts, text, starts = [], [], []
    for _ in range(5):
        for name, words in TEXTS.items():
            starts.append((sum(map(len, parts)), name))
            parts += [recording(name), pause]
            text.append(words)
    samples = np.concatenate(parts)
    assert len(samples) > 70 * 16_000
    whole = aligner().align(samples, " ".join(text), len(samples) // 640)
    assert whole.rejected is None
    assert whole.score > GOOD + 0.2
    check(whole, " ".join(text), len(samples) // 640)
    expected = [
        (offset // 640 + word.start, offset // 640 + word.end)
        for offset, name in starts
        for word in align(name, TEXTS[name]).words
    ]
    difference = np.abs(np.array([(word.start, word.end) for word in whole.words]) - np.array(expected))
    assert np.mean(difference <= 1) > 0.97
    assert difference.max() <= 12


def test_a_long_wrong_transcript_is_rejected() -> None:
    samples = np.concatenate([recording(name) for name in TEXTS] * 5)
    alignment = aligner().align(samples, "the quick brown fox jumps over the lazy dog " * 20, len(samples) // 640)
    assert alignment.rejected or alignment.score < GOOD
