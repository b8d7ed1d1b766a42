"""CTC alignment on emissions whose boundaries are known: search, stars, windows, long recordings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lst.align.ctc as ctc
from lst.align.checkpoints import KNOWN_LABELS, CTCCheckpoint
from lst.align.ctc import CTCAligner, align_targets, viterbi_ctc

LABELS = KNOWN_LABELS[29]


class Scripted(CTCAligner):
    """An aligner that hears what it is told: one 20 ms frame for every label of a script, 90% certain."""

    def __init__(self, script: list[int], certainty: float = 0.9) -> None:
        checkpoint = CTCCheckpoint(None, LABELS, 0, 1, False, 320, 400)  # type: ignore[arg-type]
        super().__init__(checkpoint, name="scripted", fingerprint="none")
        rest = (1 - certainty) / (len(LABELS) - 1)
        probabilities = np.full((len(script), len(LABELS)), rest, np.float32)
        probabilities[np.arange(len(script)), script] = certainty
        self.script = np.log(probabilities)
        self.samples = np.zeros(320 * (len(script) - 1) + 400, np.float32)

    def emissions(self, samples: np.ndarray) -> np.ndarray:
        return self.script


def script(text: str, frames: int = 3, blanks: int = 2, pause: int = 5) -> tuple[list[int], list[tuple[int, int]]]:
    """Labels frame by frame for lower-case text, and the (start, end) frames of every word."""
    heard: list[int] = [0] * pause
    words = []
    for word in text.split():
        start = len(heard)
        for character in word:
            heard += [LABELS.index(character.upper())] * frames + [0] * blanks
        words.append((start, len(heard) - blanks))
        heard += [1] * 2 + [0] * pause
    return heard, words


def test_known_boundaries() -> None:
    text = "But all good books!"
    heard, words = script("but all good books")
    aligner = Scripted(heard)
    alignment = aligner.align(aligner.samples, text, len(heard) // 2 + 1)
    assert alignment.rejected is None
    assert [word.text for word in alignment.words] == text.split()
    # Two frames of the model are one of the grid.
    assert [(word.start, word.end) for word in alignment.words] == [((a + 1) // 2, (b + 1) // 2) for a, b in words]
    assert alignment.score == pytest.approx(1, abs=1e-3)
    assert [word.score for word in alignment.words] == pytest.approx([0.9] * 4, abs=1e-3)
    assert [phone.name for phone in alignment.phones] == list("BUTALLGOODBOOKS")
    wrong = aligner.align(aligner.samples, "something else was said", len(heard) // 2 + 1)
    assert wrong.rejected or wrong.score < 0.03
    # Two of the four words are not in the transcript: frames that say more than it has cost too.
    half = aligner.align(aligner.samples, "But books!", len(heard) // 2 + 1)
    assert half.score < 0.03


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=8),
    st.integers(1, 40),
    st.integers(0, 10_000),
)
def test_both_searches_agree(labels: list[int], frames: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(0, 2, (frames, 5)).astype(np.float32)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    targets = np.array(labels, np.int64)
    ours, theirs = viterbi_ctc(scores, targets, 0), align_targets(scores, targets, 0)
    if theirs is None:
        assert ours is None
        return
    assert ours is not None
    assert [(span.start, span.end) for span in ours] == [(span.start, span.end) for span in theirs]
    assert np.allclose([span.score for span in ours], [span.score for span in theirs], atol=1e-4)
    edges = [edge for span in ours for edge in (span.start, span.end)]
    assert edges == sorted(edges)


def test_open_end_stops_where_the_speech_does() -> None:
    heard, _ = script("but all")
    aligner = Scripted(heard)
    targets = aligner.targets([aligner.spell(word) for word in ("but", "all", "good", "books")])
    spans = viterbi_ctc(aligner.with_star(aligner.script), targets.labels, 0, open_end=True)
    assert spans is not None
    said = [word for word, span in zip(targets.words.tolist(), spans) if span.end > span.start and word >= 0]
    assert said == [0, 0, 0, 1, 1, 1]


def test_long_recordings_are_searched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "but all good books are old and some are new " * 12
    heard, _ = script(text)
    aligner = Scripted(heard)
    whole = aligner.align(aligner.samples, text, len(heard))
    monkeypatch.setattr(ctc, "WHOLE_S", 1)
    monkeypatch.setattr(ctc, "PIECE_S", 6)
    monkeypatch.setattr(ctc, "MARGIN_S", 1)
    monkeypatch.setattr(ctc, "PIECE_WORDS", 40)
    assert aligner.align(aligner.samples, text, len(heard)) == whole
    silence = Scripted([0] * 2000 + heard + [0] * 3000)
    shifted = silence.align(silence.samples, text, len(silence.script))
    assert shifted.rejected is None
    assert [word.start - 1000 for word in shifted.words] == [word.start for word in whole.words]


def test_words_outside_the_alphabet_are_stars() -> None:
    heard, words = script("but all good books")
    aligner = Scripted(heard)
    frames = len(heard) // 2 + 1
    alignment = aligner.align(aligner.samples, "but 全部 good books", frames)
    assert alignment.rejected is None
    assert alignment.unknown == ["全部"]
    assert alignment.words[1].text == "全部"
    assert alignment.words[1].score == 0
    assert alignment.score == pytest.approx(1, abs=1e-3)
    assert alignment.words[2].start == (words[2][0] + 1) // 2
    assert aligner.spell("bütl") == aligner.spell("butl")
    assert aligner.align(aligner.samples, "все хорошие книги", frames).rejected == "text-other-script"


def test_unusable_text_and_audio() -> None:
    heard, _ = script("but all")
    aligner = Scripted(heard)
    frames = len(heard) // 2
    assert aligner.align(aligner.samples, " — ", frames).rejected == "no-text"
    assert aligner.align(aligner.samples, "all " * 200, frames).rejected == "text-too-long"
    assert aligner.align(aligner.samples[:100], "all", frames).rejected == "text-too-long"
    assert aligner.align(aligner.samples, "a b c d e", 3).rejected == "text-too-long"
    # Enough frames for the letters, but not for the blanks between equal ones.
    tight = Scripted([0, 2, 2, 0])
    assert tight.align(tight.samples, "eeee", 4).rejected == "alignment-failed"
