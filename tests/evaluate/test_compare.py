import json
from pathlib import Path

import numpy as np
import pytest

from lst.errors import LstError
from lst.evaluate.compare import compare, seeds
from lst.evaluate.report import compare_markdown, seeds_markdown
from lst.evaluate.stage import ChoicesConfig, choices
from lst.evaluate.statistics import FEW_ITEMS, holm, over_seeds, paired_test, size_note
from lst.manifest import Manifest
from tests.evaluate.tiny import bench_rows, make_bench, make_model

CONFIG = ChoicesConfig(resamples=200)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same benchmark by three models; the last one was measured on a part of it, in another order."""
    root = tmp_path_factory.mktemp("results")
    rows = bench_rows(20)
    whole = make_bench(root / "whole", rows)
    part = make_bench(root / "part", rows[::-1][:12])
    made = []
    for seed, bench in ((1, whole), (2, whole), (3, part)):
        model = make_model(root / f"model{seed}", seed=seed)
        made.append(choices(model, bench, root / f"eval{seed}", CONFIG).path)
    return made


def accuracy(path: Path, mode: str, variant: str) -> float:
    body = json.loads((path / "summary.json").read_text())["modes"][mode]["variants"][variant]
    return float(body["accuracy"])


def test_comparing_a_model_with_itself_finds_nothing(results: list[Path]) -> None:
    found = compare([results[0]], [results[0]])
    assert all(row["difference"] == 0 and row["p_value"] == 1 for row in found["rows"])


def test_differences_are_those_of_the_accuracies(results: list[Path]) -> None:
    found = compare([results[0]], [results[1]])
    assert {row["mode"] for row in found["rows"]} == {"s-s", "t-t", "s-t", "t-s"}
    for row in found["rows"]:
        a, b = (accuracy(path, row["mode"], row["variant"]) for path in results[:2])
        assert row["difference"] == pytest.approx(a - b)
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["n"] == 20
    swapped = compare([results[1]], [results[0]])
    for one, other in zip(found["rows"], swapped["rows"], strict=True):
        assert one["difference"] == -other["difference"]
        assert one["p_value"] == pytest.approx(other["p_value"], abs=0.03)
    assert "not decided: 20 items" in compare_markdown(found)


def test_the_table_fits_a_terminal_and_notes_lose_nothing(results: list[Path]) -> None:
    found = compare(results[:2], [results[2]])
    for row in found["rows"]:
        row |= {"benchmark": "topic-storycloze", "n": 67000, "low": -0.123, "high": 0.123, "p_holm": 1.2e-7}
    found["only"] = ["hellaswag s-s", "hellaswag t-t", "hellaswag s-t", "hellaswag t-s", "piqa t-t", "blimp t-t"]
    text = compare_markdown(found)
    assert max(map(len, text.splitlines())) <= 80
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    (line,) = [line for line in table if " s-s " in line]
    (row,) = [row for row in found["rows"] if row["mode"] == "s-s" and row["is_headline"]]
    cells = ["topic-storycloze s-s", "67000", *(f"{100 * row[side]:.1f}" for side in "ab")]
    cells += [f"{100 * row['difference']:+.1f}", "-12.3 – +12.3", "<0.001"]
    assert [cell.strip() for cell in line.strip("|").split("|")] == cells
    said = " ".join(text.split())
    spread = row["a_seeds"]
    assert f"- topic-storycloze s-s: A {100 * spread['mean']:.1f} ± {100 * spread['std']:.1f} over 2 seeds; " in said
    assert row["note"] in said
    assert f"Not on both sides: {', '.join(found['only'])}." in said


def test_items_are_matched_by_id_not_by_order(results: list[Path]) -> None:
    found = compare([results[0]], [results[2]])
    (row,) = [row for row in found["rows"] if row["mode"] == "s-s" and row["is_headline"]]
    assert row["n"] == 12
    assert "12 common items" in row["note"]


def test_seeds_are_averaged_per_item(results: list[Path]) -> None:
    found = compare(results[:2], [results[0]])
    for row in found["rows"]:
        each = [accuracy(path, row["mode"], row["variant"]) for path in results[:2]]
        assert row["a"] == pytest.approx(np.mean(each))
        assert row["a_seeds"]["std"] == pytest.approx(np.std(each, ddof=1))
        assert row["b_seeds"]["std"] is None
        assert "one side has a single seed" in row["note"]
    over = seeds(results[:2])
    for row in over["rows"]:
        each = [accuracy(path, row["mode"], row["variant"]) for path in results[:2]]
        assert (row["mean"], row["n"]) == (pytest.approx(np.mean(each)), 2)
    assert "±" in seeds_markdown(over)


def test_nothing_in_common(results: list[Path], tmp_path: Path) -> None:
    rows = bench_rows(3)
    for row in rows:
        row |= {"context_units": [], "choices_units": []}
    model = make_model(tmp_path / "model")
    other = choices(model, make_bench(tmp_path / "b", rows), tmp_path / "e", ChoicesConfig(mode="t-t", resamples=200))
    assert compare([results[0]], [other.path])["only"] == ["storycloze s-s", "storycloze s-t", "storycloze t-s"]
    with pytest.raises(LstError, match=r"but lst\.eval is needed"):
        compare([results[0]], [model.path])


def test_a_note_says_when_items_are_too_few(model: Manifest) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    test = paired_test(a, b)
    assert test.note.startswith("not decided: 200 items")
    # 80% power at 5%: with differences of variance 0.5, about 2.8 * sqrt(0.5 / 200) = 14 points.
    assert test.smallest == pytest.approx(0.14, abs=0.01)
    sure = paired_test(np.ones(200), rng.integers(0, 2, 200))
    assert sure.note == ""
    assert size_note(0.4, 0.6, 200) == "only 200 independent items: ±10.0 points; ±3 needs about 2,222"
    assert size_note(0.5, 0.52, 5000) == ""
    assert size_note(1.0, 1.0, FEW_ITEMS - 1) == "only 99 independent items"


def test_grouped_differences_widen_what_can_be_told() -> None:
    rng = np.random.default_rng(1)
    delta = np.repeat(rng.choice([-1.0, 0.0, 1.0], 100), 4)
    alone = paired_test(delta, np.zeros(400))
    grouped = paired_test(delta, np.zeros(400), groups=[str(k // 4) for k in range(400)])
    assert grouped.smallest == pytest.approx(2 * alone.smallest, rel=1e-6)


def test_holm_and_seeds() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    found = over_seeds([1.0, 3.0])
    assert (found.mean, found.std, found.n) == (2.0, pytest.approx(2**0.5), 2)
    assert over_seeds([1.0]).std is None


def test_counting_distinct_values_gives_the_distribution_of_drawing_items() -> None:
    """Two ways to resample: many distinct values draw items, few are counted."""
    from lst.evaluate.statistics import bootstrap_interval

    rng = np.random.default_rng(2)
    credit = rng.integers(0, 2, 300).astype(float)
    counted = bootstrap_interval(credit)
    drawn = bootstrap_interval(credit + 1e-9 * rng.random(300))
    assert counted.low == pytest.approx(drawn.low, abs=0.005)
    assert counted.high == pytest.approx(drawn.high, abs=0.005)
    delta = credit - rng.integers(0, 2, 300)
    flips = rng.integers(0, 2, size=(10_000, 300)) * 2 - 1
    by_hand = (np.abs(flips @ delta) >= abs(delta.sum())).mean()
    assert paired_test(delta, np.zeros(300)).p_value == pytest.approx(by_hand, abs=0.03)
