"""The paper's claims (arXiv 2510.06195), one line each, with a verdict from the runs that are there."""

from collections import Counter
from dataclasses import dataclass

from judges import (
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    UNDECIDED,
    Finding,
    Judge,
    higher_score,
    lower_loss,
    no_worse_score,
    verdict,
)
from runs import Found
from special import (
    accounting,
    context,
    failures,
    generated_steps,
    recognition,
    saving,
    scaling,
    small_spread,
    synthesis,
    words_apart,
)

from lst.evaluate.statistics import holm

TOPIC = "topic-storycloze"
EQUAL_FLOPS = "Table 3, equal FLOPs"
EQUAL_UNITS = "Table 3, equal global units"
PAPER = {
    "base": {"TopicStoryCloze": (87.5, 95.7), "HellaSwag": (39.0, 47.0)},
    "static": {"TopicStoryCloze": (87.7, 96.2), "HellaSwag": (44.3, 51.1)},
    "aligned": {"TopicStoryCloze": (86.6, 95.7), "HellaSwag": (42.7, 51.7)},
    "mixed": {"TopicStoryCloze": (88.0, 95.9), "HellaSwag": (44.3, 51.9)},
    "curriculum": {"TopicStoryCloze": (87.9, 96.1), "HellaSwag": (45.5, 52.2)},
    "base with the same data": {"HellaSwag": (40.2, 49.6)},
}
"""The paper's accuracies, S→S and T→T. Its claims rest on HellaSwag; on the topic story cloze its arms lie close."""


@dataclass(frozen=True)
class Claim:
    """`table`: claims of one table are corrected for their number together; `paper`: its numbers, % unless said."""

    table: str
    text: str
    paper: str
    judge: Judge


@dataclass(frozen=True)
class Judged:
    """A claim with what became of it; `p_holm`: the p-value that decided, corrected where it is one of several."""

    claim: Claim
    finding: Finding
    p_holm: float | None
    word: str


def judge_all(found: Found) -> list[Judged]:
    """Every claim, corrected table by table."""
    findings = [(claim, claim.judge(found)) for claim in CLAIMS]
    corrected: dict[int, float] = {}
    for table in dict.fromkeys(claim.table for claim in CLAIMS):
        several = [place for place, (claim, finding) in enumerate(findings) if finding.holm and claim.table == table]
        values = [findings[place][1].p or 0.0 for place in several]
        corrected |= dict(zip(several, holm(values), strict=True))
    judged = []
    for place, (claim, finding) in enumerate(findings):
        p = corrected.get(place, finding.p)
        judged.append(Judged(claim, finding, p, verdict(finding, p)))
    return judged


def claims_table(judged: list[Judged]) -> str:
    """A line per claim, and how many have which verdict."""
    counts = Counter(one.word for one in judged)
    words = (REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_RUN)
    lines = [", ".join(f"{counts[word]} {word}" for word in words) + ".", ""]
    lines += ["| where | claim | paper | verdict | numbers |", "| --- | --- | --- | --- | --- |"]
    for one in judged:
        numbers = one.finding.numbers
        if one.finding.holm and one.p_holm is not None:
            numbers += f"; Holm: p = {one.p_holm:.2g}"
        lines.append(f"| {one.claim.table} | {one.claim.text} | {one.claim.paper} | **{one.word}** | {numbers} |")
    return "\n".join(lines) + "\n"


def _losses(better: str, worse: str, table: str, tier: str = "", *, only: bool = False) -> list[Claim]:
    """Both losses of two arms."""
    return [
        Claim(table, f"{better} ends below {worse}, {loss} loss", "", lower_loss(loss, better, worse, tier, only=only))
        for loss in ("speech", "text")
    ]


def _scores(better: str, worse: str, table: str, tier: str = "", paper: str = "") -> list[Claim]:
    """Topic story cloze of two arms, S→S and T→T."""
    numbers = PAPER if not paper else PAPER | {worse: PAPER[paper]}
    return [
        Claim(
            table,
            f"{better} beats {worse}, topic story cloze {mode.upper().replace('-', '→')}",
            "; ".join(
                f"{name} {numbers[better][name][side]} against {numbers[worse][name][side]}" for name in numbers[worse]
            ),
            higher_score(TOPIC, mode, better, worse, tier),
        )
        for side, mode in enumerate(("s-s", "t-t"))
    ]


def _no_worse(arm: str, than: str, table: str, paper: str, tier: str = "quarter", name: str = "") -> Claim:
    text = f"{name or f'{arm} is no worse than {than}'}, topic story cloze S→S"
    return Claim(table, text, paper, no_worse_score(TOPIC, "s-s", arm, than, tier))


CLAIMS = [
    *_losses("static", "base", EQUAL_FLOPS),
    *_losses("curriculum", "base", EQUAL_FLOPS),
    *_losses("static", "base-matched", EQUAL_FLOPS),
    *_scores("static", "base", EQUAL_FLOPS),
    *_scores("curriculum", "base", EQUAL_FLOPS),
    *_scores("curriculum", "static", EQUAL_FLOPS),
    *(
        Claim(
            EQUAL_FLOPS,
            f"{arm} beats base, story cloze {mode.upper().replace('-', '→')}",
            paper,
            higher_score("storycloze", mode, arm, "base"),
        )
        for arm, mode, paper in (
            ("static", "s-s", "60.5 against 59.1"),
            ("static", "t-t", "70.3 against 67.8"),
            ("curriculum", "s-s", "61.2 against 59.1"),
            ("curriculum", "t-t", "71.6 against 67.8"),
        )
    ),
    Claim(
        EQUAL_FLOPS,
        "three seeds of an arm lie within a point (standard deviation), topic story cloze S→S",
        "HellaSwag: base 0.22, static 0.67, curriculum 0.13",
        small_spread(TOPIC, "s-s", ("base", "static", "curriculum")),
    ),
    *(
        claim
        for arm in ("static", "aligned", "mixed", "curriculum")
        for claim in _losses(arm, "base", EQUAL_UNITS, "quarter", only=True)
    ),
    *(
        claim
        for arm in ("static", "aligned", "mixed", "curriculum")
        for claim in _scores(arm, "base", EQUAL_UNITS, "quarter")
    ),
    _no_worse("base", "bpe", EQUAL_UNITS, "HellaSwag 39.0 against 38.0", name="a BPE of units gains nothing over base"),
    Claim("Table 4", "static saves a fifth of the compute with the same data", "19.3 saved", saving("static", 0.193)),
    Claim("Table 4", "the curriculum does", "19.7 saved", saving("curriculum", 0.197)),
    *_losses("static", "base", "Table 4", "data"),
    *_losses("curriculum", "base", "Table 4", "data"),
    *_scores("static", "base", "Table 4", "data", "base with the same data"),
    *_scores("curriculum", "base", "Table 4", "data", "base with the same data"),
    *(
        Claim("Table 5", f"LST after {ours} steps recognises better than base after {theirs}", paper, judge)
        for ours, theirs, paper, judge in (
            ("1,000", "1,000", "WER 6.8 against 140", recognition(1, 1)),
            ("2,000", "2,000", "WER 6.0 against 44.7", recognition(2, 2)),
            ("1,000", "4,000", "WER 6.8 against 20.7", recognition(1, 4)),
        )
    ),
    Claim("Table 5", "base fails by not stopping and by inventing (after 1,000 steps)", "", failures),
    Claim("Table 5", "LST reads a quarter of the context", "0.25", context),
    Claim("Table 5", "LST speaks as intelligibly (CER within 3 points)", "14.1 and 14.1", synthesis),
    Claim("Table 5", "with a quarter of the global steps", "0.25", generated_steps),
    *_losses("static", "static-6", "Table 6", "quarter"),
    *_losses("static", "static-9", "Table 6", "quarter"),
    _no_worse("static", "static-6", "Table 6", "", name="patches of 4 are no worse than of 6"),
    _no_worse("static", "static-9", "Table 6", "", name="patches of 4 are no worse than of 9"),
    _no_worse("aligned", "aligned-merged", "Table 10", "", name="silence apart is no worse than merged"),
    _no_worse("aligned", "aligned-bpe", "Table 10", "", name="patches of words are no worse than of BPE pieces"),
    Claim("Figure 4", "static lies below base at equal FLOPs, speech loss", "", scaling("speech", "height")),
    Claim("Figure 4", "static lies below base at equal FLOPs, text loss", "", scaling("text", "height")),
    Claim(
        "Figure 4",
        "the gain grows with size, speech loss",
        "S→S +0.8 at 420M, +3.7 at 1.8B",
        scaling("speech", "slope"),
    ),
    *(
        Claim(
            "Figure 6",
            f"static beats base at {mixture}, topic story cloze S→S",
            "",
            higher_score(TOPIC, "s-s", f"static{suffix}", f"base{suffix}", "quarter"),
        )
        for mixture, suffix in (("1 to 1", "-1-1"), ("1 to 2", ""), ("1 to 3", "-1-3"))
    ),
    *(
        Claim(
            "Figure 6",
            f"static ends below base at {mixture}, speech loss",
            "",
            lower_loss("speech", f"static{suffix}", f"base{suffix}", "quarter"),
        )
        for mixture, suffix in (("1 to 1", "-1-1"), ("1 to 3", "-1-3"))
    ),
    Claim(
        "Table 12",
        "the curriculum is no worse than base, words by ear",
        "sWUGGY 72.8 and 72.5",
        no_worse_score("spoken-word", "s-s", "curriculum", "base"),
    ),
    Claim(
        "Table 12",
        "the curriculum is no worse than base, grammar by ear",
        "sBLIMP 59.0 and 58.9",
        no_worse_score("grammar", "s-s", "curriculum", "base"),
    ),
    _no_worse("aligned-shifted-1", "aligned", "A.11", "about 1 lost at most", name="boundaries moved by up to 40 ms"),
    Claim("Figure 5", "patches of a word are alike", "cosine 0.87 within, 0.43 between", words_apart),
    Claim("Table 13", "0.81 global units per token; of interleaved tokens 0.77 are units", "0.81, 0.77", accounting),
]
