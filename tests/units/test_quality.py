"""Unit quality on cases whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from lst.errors import LstError
from lst.units.quality import contingency, explained_entropy, frame_labels, measure, phone_purity


def test_units_that_are_phones() -> None:
    phones = ["a", "b", "c", "c"] * 50
    quality = measure([ord(phone) for phone in phones], phones, ["one", "two"] * 100)
    assert quality.pnmi == pytest.approx(1)
    assert quality.phone_purity == quality.cluster_purity == 1
    assert quality.pnmi_floor < 0.1
    assert (quality.frames, quality.units_used) == (200, 3)
    assert 0 < quality.speaker_nmi < 1  # a and c are of one speaker each


def test_units_that_tell_nothing() -> None:
    quality = measure([1, 1, 2, 2] * 25, ["a", "b"] * 50)
    assert quality.pnmi == pytest.approx(0, abs=1e-12)
    assert quality.phone_purity == 0.5
    assert quality.speaker_nmi == 0
    assert measure([1, 2], ["a", "a"]).pnmi == 0


def test_known_counts() -> None:
    counts = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 4.0]])
    assert phone_purity(counts) == pytest.approx((3 + 2 + 4) / 10)
    entropy = -(0.4 * np.log(0.4) + 0.6 * np.log(0.6))
    joint = counts / 10
    inside = joint > 0
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    information = (joint[inside] * np.log(joint[inside] / outer[inside])).sum()
    assert explained_entropy(counts) == pytest.approx(information / entropy)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=60))
def test_agrees_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, units = zip(*pairs, strict=True)
    entropy = mutual_info_score(labels, labels)
    expected = mutual_info_score(labels, units) / entropy if entropy > 1e-12 else 0.0
    assert explained_entropy(contingency(labels, units)) == pytest.approx(expected, abs=1e-9)


def test_labels_at_the_middle_of_frames() -> None:
    spans = [(0.04, 0.10, "a"), (0.10, 0.16, "b"), (0.20, 0.30, "c")]
    assert frame_labels(spans, 8) == ["SIL", "a", "b", "b", "SIL", "c", "c", "SIL"]
    assert frame_labels([], 2, outside="-") == ["-", "-"]


def test_sequences_must_match() -> None:
    for labels, units in (([1], [1, 2]), ([], [])):
        with pytest.raises(LstError, match="of one length"):
            contingency(labels, units)
