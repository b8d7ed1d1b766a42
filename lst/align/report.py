"""What alignment found: coverage, scores, unknown words, rejected rows. Shard by shard, then as one `report.json`."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lst.manifest import Manifest, write_json

REPORT_FILE = "report.json"

_BINS = 20
_MOST_WORDS = 100
_MOST_ROWS = 50


@dataclass
class ShardReport:
    """Counts over the rows of a shard.

    histogram: rows by score in 20 equal bins of 0 .. 1, those below the limit included.
    """

    rows: int = 0
    words: int = 0
    words_in_text: int = 0
    word_frames: int = 0
    score_sum: float = 0.0
    histogram: list[int] = field(default_factory=lambda: [0] * _BINS)
    unknown: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, list[list[str]]] = field(default_factory=dict)
    rejected_rows: Counter[str] = field(default_factory=Counter)
    lowest: list[tuple[float, str, str]] = field(default_factory=list)

    def accept(self, row: Mapping[str, Any], score: float, unknown: list[str]) -> None:
        """Count an aligned row, its `words` filled in. Scores count by words."""
        words = row["words"]
        self.rows += 1
        self.words += len(words)
        self.words_in_text += len(words)
        self.word_frames += sum(word["end"] - word["start"] for word in words)
        self.score_sum += score * len(words)
        self.unknown.update(unknown)
        self.lowest = sorted([*self.lowest, (round(score, 4), row["id"], row["text"][:200])])[:_MOST_ROWS]

    def seen(self, score: float) -> None:
        """Count the score of a row, whether or not it is good enough."""
        self.histogram[min(int(score * _BINS), _BINS - 1)] += 1

    def reject(self, row: Mapping[str, Any], reason: str, detail: str) -> None:
        """Count a rejected row; its words were not aligned."""
        self.words_in_text += len((row["text"] or "").split())
        self.rejected_rows[reason] += 1
        listed = self.rejected.setdefault(reason, [])
        if len(listed) < _MOST_ROWS:
            listed.append([row["id"], detail[:300]])

    def merge(self, other: "ShardReport") -> None:
        """Add the rows of another shard, which come after this one's."""
        self.rows += other.rows
        self.words += other.words
        self.words_in_text += other.words_in_text
        self.word_frames += other.word_frames
        self.score_sum += other.score_sum
        self.histogram = [one + two for one, two in zip(self.histogram, other.histogram)]
        self.unknown.update(other.unknown)
        self.rejected_rows.update(other.rejected_rows)
        for reason, listed in other.rejected.items():
            self.rejected[reason] = [*self.rejected.get(reason, []), *listed][:_MOST_ROWS]
        self.lowest = sorted([*self.lowest, *map(_as_lowest, other.lowest)])[:_MOST_ROWS]

    def totals(self) -> dict[str, float]:
        """What the manifest sums up."""
        return {
            "words": self.words,
            "words_in_text": self.words_in_text,
            "words_not_in_dictionary": sum(self.unknown.values()),
            "word_frames": self.word_frames,
            "score_sum": round(self.score_sum, 6),
        }

    def save(self, path: Path) -> None:
        """Write the shard's counts."""
        path.parent.mkdir(exist_ok=True)
        write_json(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "ShardReport":
        """Read what `save` wrote."""
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in ("unknown", "rejected_rows"):
            body[name] = Counter(body[name])
        return cls(**body)


def merge_reports(directory: Path, shards: int, min_score: float) -> bytes:
    """`report.json` of a whole manifest, from what its workers left in the unfinished output `directory`."""
    total = ShardReport()
    for shard in range(shards):
        total.merge(ShardReport.load(shard_report_path(directory, shard)))
    return (json.dumps(_body(total, min_score), ensure_ascii=False, indent=1) + "\n").encode()


def _body(total: ShardReport, min_score: float) -> dict[str, Any]:
    return {
        "rows": {"aligned": total.rows, "rejected": sum(total.rejected_rows.values())},
        "coverage": round(total.words / total.words_in_text, 6) if total.words_in_text else 0.0,
        "words": {"aligned": total.words, "in_text": total.words_in_text},
        "mean_score": round(total.score_sum / total.words, 6) if total.words else 0.0,
        "min_score": min_score,
        "mean_word_frames": round(total.word_frames / total.words, 4) if total.words else 0.0,
        "score_histogram": total.histogram,
        "words_not_in_dictionary": {
            "count": sum(total.unknown.values()),
            "distinct": len(total.unknown),
            "most_frequent": dict(sorted(total.unknown.items(), key=lambda item: (-item[1], item[0]))[:_MOST_WORDS]),
        },
        "rejected": {
            reason: {
                "rows": count,
                "first": [{"id": name, "detail": detail} for name, detail in total.rejected[reason]],
            }
            for reason, count in sorted(total.rejected_rows.items(), key=lambda item: (-item[1], item[0]))
        },
        "lowest_accepted": [{"score": score, "id": name, "text": text} for score, name, text in total.lowest],
    }


def shard_report_path(directory: Path, shard: int) -> Path:
    """Where a worker leaves the counts of a shard, in the unfinished output."""
    return directory / "reports" / f"{shard:05d}.json"


def coverage(manifest: Manifest) -> tuple[float, float]:
    """(share of the words of all transcripts that were aligned, mean score of those words)."""
    totals = manifest.totals
    words = totals.get("words", 0)
    return words / max(totals.get("words_in_text", 0), 1), totals.get("score_sum", 0.0) / max(words, 1)


def _as_lowest(entry: Any) -> tuple[float, str, str]:
    score, name, text = entry
    return float(score), str(name), str(text)
