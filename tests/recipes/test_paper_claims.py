"""Verdicts of the paper in miniature, on runs whose verdict is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recipes.paper_runs import Runs, items, module

judges, special, claims, evidence = (module(name) for name in ("judges", "special", "claims", "evidence"))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def word(finding: Any) -> str:
    """The verdict, if the claim were the only one of its table."""
    return str(judges.verdict(finding, finding.p))


BASE = (100.0, 108.0, 104.0)
LOSS = judges.lower_loss("speech", "static", "base")


def test_a_difference_that_every_seed_shows_is_sure_although_seeds_lie_far_apart(runs: Runs) -> None:
    runs.models("base", BASE)
    runs.models("static", (98.0, 106.1, 101.9))
    finding = LOSS(runs.found())
    assert word(finding) == judges.REPRODUCED
    assert "static 102.000, base 104.000; difference -2.000 ± 0.100 [-2.248, -1.752]" in finding.numbers
    assert "by seed -2.000, -1.900, -2.100, p = 0.00083" in finding.numbers
    assert word(judges.lower_loss("speech", "base", "static")(runs.found())) == judges.NOT_REPRODUCED


def test_no_difference_and_one_seed_against_two_are_not_decidable(runs: Runs) -> None:
    runs.models("base", BASE)
    runs.models("static", (100.1, 107.9, 104.0))
    runs.models("curriculum", (95.0, 103.0, 104.1))
    found = runs.found()
    assert word(LOSS(found)) == judges.UNDECIDED
    assert word(judges.lower_loss("speech", "curriculum", "base")(found)) == judges.UNDECIDED


def test_seeds_are_paired_and_fewer_than_three_decide_nothing(runs: Runs) -> None:
    runs.models("base", BASE[:2])
    runs.models("static", (90.0, 98.0, 94.0))
    finding = LOSS(runs.found())
    assert word(finding) == judges.UNDECIDED
    assert (
        "static 94.000, base 104.000; difference -10.000 ± 0.000, by seed -10.000, -10.000; 2 seeds" in finding.numbers
    )


def test_where_the_full_budget_was_not_run_a_tenth_of_it_speaks_and_says_so(runs: Runs) -> None:
    runs.models("first-base", BASE)
    runs.models("first-static", [value - 2 for value in BASE])
    found = runs.found()
    assert word(LOSS(found)) == judges.REPRODUCED
    assert "(at a tenth of the budget); difference -2.000" in LOSS(found).numbers
    only = judges.lower_loss("speech", "static", "base", "quarter", only=True)
    assert word(only(found)) == judges.NOT_RUN


SCORE = judges.higher_score("topic-storycloze", "s-s", "static", "base")


def scored(runs: Runs, static: tuple[float, ...], base: tuple[float, ...], count: int = 1000) -> Any:
    """Three seeds of both, with these shares of right items."""
    runs.models("base", BASE)
    runs.models("static", BASE)
    for seed in range(3):
        runs.scores(f"static-{seed}", items(count, static[seed], seed=seed))
        runs.scores(f"base-{seed}", items(count, base[seed], seed=10 + seed), pmi=items(count, 0.7, seed=seed))
    return runs.found()


def test_scores_that_differ_in_every_seed_are_sure(runs: Runs) -> None:
    found = scored(runs, (0.66, 0.65, 0.67), (0.60, 0.61, 0.60))
    finding = SCORE(found)
    assert word(finding) == judges.REPRODUCED
    assert "static 66.0%, base 60.3%; difference +5.7 ± 1.5" in finding.numbers
    assert "by PMI" not in finding.numbers  # one of the arms has none
    assert word(judges.higher_score("topic-storycloze", "s-s", "base", "static")(found)) == judges.NOT_REPRODUCED


def test_scores_alike_and_scores_on_which_seeds_disagree_are_not_decidable(runs: Runs, tmp_path: Path) -> None:
    assert word(SCORE(scored(runs, (0.60, 0.60, 0.61), (0.60, 0.61, 0.60)))) == judges.UNDECIDED
    finding = SCORE(scored(Runs(tmp_path / "other"), (0.75, 0.75, 0.59), (0.60, 0.60, 0.60)))
    assert word(finding) == judges.UNDECIDED
    assert "the seeds disagree" in finding.numbers


def test_no_worse_needs_an_interval_above_the_margin_and_models_above_chance(runs: Runs, tmp_path: Path) -> None:
    no_worse = judges.no_worse_score("topic-storycloze", "s-s", "static", "base")
    assert word(no_worse(scored(runs, (0.65, 0.66, 0.65), (0.65, 0.65, 0.66), 4000))) == judges.REPRODUCED
    worse = scored(Runs(tmp_path / "worse"), (0.60, 0.60, 0.60), (0.66, 0.67, 0.66))
    assert word(no_worse(worse)) == judges.NOT_REPRODUCED
    guessing = no_worse(scored(Runs(tmp_path / "guess"), (0.50, 0.51, 0.50), (0.50, 0.50, 0.51), 4000))
    assert word(guessing) == judges.UNDECIDED
    assert "not above chance" in guessing.numbers


def test_the_bootstrap_draws_seeds_as_well_as_items() -> None:
    rng = np.random.default_rng(3)
    groups = [str(place) for place in range(400)]
    alike = rng.normal(0.05, 0.4, (1, 400)).repeat(3, axis=0)
    apart = alike + np.array([[-0.1], [0.0], [0.1]])
    assert evidence.crossed_means(alike, groups).std() == pytest.approx(0.4 / 20, rel=0.1)
    expected = (0.4**2 / 400 + 0.02 / 3 / 3) ** 0.5  # the seeds' variance is that of the sample
    assert evidence.crossed_means(apart, groups).std() == pytest.approx(expected, rel=0.1)


def test_p_values_of_one_table_are_corrected_together(runs: Runs) -> None:
    found = scored(runs, (0.66, 0.65, 0.67), (0.60, 0.61, 0.60))
    judged = {one.claim.text: one for one in claims.judge_all(found) if one.claim.table == "Table 3, equal FLOPs"}
    one = judged["static beats base, topic story cloze S→S"]
    assert one.finding.p is not None
    assert one.p_holm == one.finding.p  # the only score of its table that was run
    runs.models("curriculum", BASE)
    for seed in range(3):
        runs.scores(f"curriculum-{seed}", items(1000, 0.605, seed=seed))
    again = {one.claim.text: one for one in claims.judge_all(runs.found()) if one.claim.table == "Table 3, equal FLOPs"}
    corrected = again["static beats base, topic story cloze S→S"]
    assert corrected.p_holm == pytest.approx(3 * one.finding.p)
    assert again["curriculum beats base, topic story cloze S→S"].word == judges.UNDECIDED


def test_compute_saved_with_the_same_data(runs: Runs) -> None:
    runs.models("data-base", BASE, units=1000, flops=1e10)
    runs.models("data-static", BASE, units=810, flops=9e9)
    finding = special.saving("static", 0.193)(runs.found())
    assert word(finding) == judges.REPRODUCED
    assert finding.numbers == "saved: global units 19.0%, FLOPs, all counted 10.0%, time of training 0.0%"


def test_lines_through_four_sizes(runs: Runs) -> None:
    for number, name in enumerate(("0.2m", "0.4m", "0.8m", "1.6m")):
        flops = 1e12 * 3**number
        wobble = 1.0 + 0.001 * (-1) ** number
        runs.model(f"size-base-{name}-0", 0, 200 * wobble * (flops / 1e12) ** -0.05, flops=flops)
        runs.model(f"size-static-{name}-0", 0, 190 / wobble * (flops / 1e12) ** -0.07, flops=0.8 * flops)
    found = runs.found()
    below = special.scaling("speech", "height")(found)
    assert word(below) == judges.REPRODUCED
    assert word(special.scaling("speech", "slope")(found)) == judges.REPRODUCED
    lines = special.size_lines(found, "speech")
    assert lines["base"].slope == pytest.approx(-0.05, abs=0.001)
    assert lines["static"].slope == pytest.approx(-0.07, abs=0.001)
    assert 0 < lines["base"].error < 0.002


def recognised(runs: Runs, arm: str, times: int, wrong: int, context: float) -> None:
    """Forty utterances of four words, each with so many words wrong."""
    said = " ".join(["mouse"] * wrong + ["cat"] * (4 - wrong))
    rows = [{"id": str(place), "reference": "cat cat cat cat", "text": said} for place in range(40)]
    rate = {"value": wrong / 4, "low": wrong / 4 - 0.01, "high": wrong / 4 + 0.01}
    summary = {
        **dict.fromkeys(("wer", "cer", "non_stopping", "hallucination"), rate),
        "utterances": 40,
        "context_per_second": context,
        "totals": {"wer": wrong / 4},
    }
    runs.finetuned(f"{arm}-0-asr-{times}x", 1000 * times)
    runs.stage(f"{arm}-0-asr-{times}x-wer", "eval-asr", summary, {"heard.jsonl": rows})


def test_recognition_is_compared_utterance_by_utterance(runs: Runs) -> None:
    for times, base, lst in ((1, 4, 2), (4, 2, 2)):
        recognised(runs, "base", times, base, 25.0)
        recognised(runs, "curriculum", times, lst, 6.7)
    found = runs.found()
    better = special.recognition(1, 1)(found)
    assert word(better) == judges.REPRODUCED
    assert "difference -50.0 [-50.0, -50.0]" in better.numbers
    assert word(special.recognition(1, 4)(found)) == judges.UNDECIDED
    assert word(special.recognition(2, 2)(found)) == judges.NOT_RUN
    assert word(special.context(found)) == judges.REPRODUCED
    assert word(special.failures(found)) == judges.REPRODUCED
    table = module("tables").recognition_table(found)
    assert "| base (base-0) | 1,000 | 40 | 100.0 [99.0, 101.0] |" in table
    assert "| LST (curriculum-0) | 4,000 | 40 | 50.0 [49.0, 51.0] |" in table


def test_speech_that_nobody_understands_is_not_called_as_good(runs: Runs) -> None:
    def speak(arm: str, cer: float) -> None:
        judged = {"cer": cer, "cer_low": cer - 0.01, "cer_high": cer + 0.01}
        summary = {"sets": {"model": judged}, "steps_per_unit": 1.0 if arm == "base" else 0.26, "units": 90.0}
        runs.stage(f"{arm}-0-tts-cer", "eval-tts", summary, {})

    speak("base", 0.80)
    speak("curriculum", 0.80)
    assert word(special.synthesis(runs.found())) == judges.UNDECIDED
    assert word(special.generated_steps(runs.found())) == judges.REPRODUCED


def test_seeds_that_all_guess_are_not_called_alike(runs: Runs, tmp_path: Path) -> None:
    alike = special.small_spread("topic-storycloze", "s-s", ("static", "base"))
    assert word(alike(scored(runs, (0.60, 0.61, 0.60), (0.60, 0.61, 0.60)))) == judges.REPRODUCED
    assert word(alike(scored(Runs(tmp_path / "apart"), (0.60, 0.64, 0.60), (0.6, 0.6, 0.6)))) == judges.NOT_REPRODUCED
    finding = alike(scored(Runs(tmp_path / "guess"), (0.50, 0.50, 0.50), (0.50, 0.51, 0.50)))
    assert word(finding) == judges.UNDECIDED
    assert "no arm is above chance" in finding.numbers


def test_three_of_four_sizes_have_lines_but_no_verdict(runs: Runs) -> None:
    for number, name in enumerate(("0.2m", "0.4m", "0.8m")):
        runs.model(f"size-base-{name}-0", 0, 100.0 - number, flops=1e12 * 3**number)
        runs.model(f"size-static-{name}-0", 0, 90.0 - number**2, flops=1e12 * 3**number)
    found = runs.found()
    finding = special.scaling("speech", "height")(found)
    assert (word(finding), finding.numbers) == (judges.NOT_RUN, "3 of 4 sizes of base, 3 of 4 sizes of static")
    assert len(special.size_lines(found, "speech")["static"].x) == 3
