"""Packing never exceeds the budget, loses nothing, keeps nobody waiting, and fills rows as well as can be."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lst.data.packing import Packer, best_fill
from lst.errors import LstError


def pack_all(lengths: list[int], budget: int, pool: int) -> list[list[int]]:
    packer: Packer[int] = Packer(budget, pool)
    rows, left = [], list(enumerate(lengths))[::-1]
    while left or packer.waiting:
        while left and packer.hungry:
            packer.push(*left.pop())
        oldest = packer.waiting[0]
        rows.append(packer.pop())
        assert rows[-1][0] == oldest
    return rows


@given(lengths=st.lists(st.integers(1, 40), max_size=80), budget=st.integers(40, 90), pool=st.integers(1, 30))
def test_rows_fit_and_nothing_is_lost(lengths: list[int], budget: int, pool: int) -> None:
    rows = pack_all(lengths, budget, pool)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= budget for row in rows)
    assert all(row == sorted(row) for row in rows)
    assert rows == pack_all(lengths, budget, pool)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9), budget=st.integers(30, 80))
def test_the_fill_is_the_best_one(lengths: list[int], budget: int) -> None:
    chosen = best_fill(lengths, budget)
    others = range(1, len(lengths))
    sums = [sum(lengths[i] for i in picked) for count in range(len(lengths)) for picked in combinations(others, count)]
    best = max(lengths[0] + extra for extra in sums if lengths[0] + extra <= budget)
    assert sum(lengths[index] for index in chosen) == best


def test_efficiency_of_realistic_lengths() -> None:
    """Utterances of some seconds and stories of some hundred tokens, into the budgets of the presets."""
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(4000) < 0.6, rng.integers(20, 130, 4000), rng.gamma(4, 55, 4000).astype(int) + 10)
    for budget in (512, 1024, 4096):
        fitting = np.minimum(lengths, budget).tolist()
        rows = pack_all(fitting, budget, 64)[:-3]  # the last rows of a finite set cannot be full
        assert sum(fitting[index] for row in rows for index in row) / (len(rows) * budget) >= 0.97


def test_a_document_must_fit() -> None:
    packer: Packer[str] = Packer(10, 4)
    with pytest.raises(LstError, match="11 global units"):
        packer.push("a", 11)
    with pytest.raises(LstError):
        packer.push("a", 0)
