"""The id space: sections that do not overlap, and conversions that refuse what is not theirs."""

import numpy as np
import pytest

from lst.data.vocabulary import Vocabulary
from lst.errors import LstError


def test_layout() -> None:
    vocabulary = Vocabulary(32_000)
    ids = np.arange(vocabulary.size)
    assert vocabulary.size == 32_000 + 8 + 501
    assert vocabulary.unit_offset == 32_008
    kinds = np.stack([vocabulary.is_text(ids), vocabulary.is_control(ids), vocabulary.is_unit(ids)])
    assert (kinds.sum(axis=0) == 1).all()
    assert kinds.sum(axis=1).tolist() == [32_000, 8, 501]
    names = [
        vocabulary.name(getattr(vocabulary, n)) for n in ("pad", "text_marker", "speech_marker", "end", "asr", "tts")
    ]
    assert names == list(Vocabulary.CONTROLS[:6])
    assert [vocabulary.name(i) for i in (5, vocabulary.unit_offset + 17, vocabulary.size)] == [
        "text 5",
        "u17",
        "outside 32509",
    ]


def test_units_round_trip_without_wrapping() -> None:
    vocabulary = Vocabulary(65_000)  # 65,000 + 501 does not fit uint16
    units = np.arange(501, dtype=np.uint16)
    ids = vocabulary.from_units(units)
    assert ids.min() == 65_008
    assert ids.max() == vocabulary.size - 1
    np.testing.assert_array_equal(vocabulary.to_units(ids), units)


def test_refuses_foreign_ids() -> None:
    vocabulary = Vocabulary(100)
    with pytest.raises(LstError, match="Unit 501 lies outside"):
        vocabulary.from_units(np.array([3, 501], dtype=np.uint16))
    with pytest.raises(LstError, match="<end>"):
        vocabulary.to_units(np.array([vocabulary.unit_offset, vocabulary.end]))
    with pytest.raises(LstError):
        Vocabulary(0)
