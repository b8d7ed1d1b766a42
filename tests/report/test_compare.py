"""Comparing models: arms are what differs besides the seed, curves come from the validations, other data is refused."""

import csv
import io
import json
from pathlib import Path

import pytest

from lst.errors import LstError
from lst.manifest import DirectoryResult, Manifest, StageSpec, build_directory
from lst.report.compare import COSTS, compare, curves_csv, find_models, read_curves, summary
from lst.train.stage import PretrainConfig
from tests.data.synthetic import make_text


def make_model(out: Path, text: Manifest, mode: str, seed: int, *, worse: float = 0.0, lr: float = 4e-4) -> Manifest:
    """A model of the given patching with three validations; its losses fall with the step and rise with `worse`."""
    settings = {"patching": {"mode": mode}, "seed": seed, "validate_every": 20, "optimizer": {"lr": lr}}
    config = PretrainConfig.model_validate(settings)
    lines = []
    for step in range(10, 61, 10):
        total = dict.fromkeys(COSTS, 0.0) | {"global_units": 100.0 * step, "flops": 1e9 * step}
        lines.append({"step": step, "split": "train", "loss": 5.0, "total": total})
        if step % 20 == 0:
            speech = {"speech_bits_per_second": 200.0 - step + worse}
            sets = {"speech": speech, "text": {"text_bits_per_token": 9.0}}
            lines.append({"step": step, "split": "valid", "loss": 5.0, "sets": sets})

    def make(directory: Path) -> DirectoryResult:
        (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return DirectoryResult(["metrics.jsonl"], {"steps": 60})

    return build_directory(out, StageSpec("lst.model/1", "pretrain", 1, config.as_json(), {"text": text}), make)


def test_arms_seeds_and_costs(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text", 20)
    modes = [("none", 0, 2.0), ("static", 1, 1.0), ("none", 1, 4.0), ("static", 0, 0.0)]
    models = [make_model(tmp_path / f"{m}-{s}", text, m, s, worse=w) for m, s, w in modes]
    curves = read_curves(models)
    assert [(curve.arm, curve.seed) for curve in curves] == [("none", 0), ("none", 1), ("static", 0), ("static", 1)]
    none, static = summary(curves)
    assert (none["arm"], none["seeds"], none["steps"]) == ("none", 2, 60)
    assert none["speech_bits_per_second"] == pytest.approx((143.0, 2**0.5))
    assert static["speech_bits_per_second"][0] == 140.5
    assert none["flops"] == 60e9
    rows = list(csv.DictReader(io.StringIO(curves_csv(curves))))
    assert [(row["arm"], row["seed"], row["step"]) for row in rows[:3]] == [
        ("none", "0", s) for s in ("20", "40", "60")
    ]
    assert (rows[1]["global_units"], rows[1]["speech_bits_per_second"]) == ("4000", "162")
    assert rows[1]["speech_to_text_bits_per_token"] == ""


def test_an_arm_is_named_by_all_that_differs(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text", 20)
    models = [make_model(tmp_path / mode, text, mode, 0, lr=lr) for mode, lr in (("none", 0.004), ("static", 0.008))]
    assert [c.arm for c in read_curves(models)] == ["none, optimizer.lr 0.004", "static, optimizer.lr 0.008"]


def test_the_files_are_written_and_the_same_again(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text", 20)
    paths = [make_model(tmp_path / mode, text, mode, 0).path for mode in ("none", "static")]
    compare(paths, tmp_path / "a")
    compare(paths, tmp_path / "b")
    for name in ("curves.csv", "curves.png", "table.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "| static | 1 | 60 | 6,000 |" in (tmp_path / "a" / "table.md").read_text()


def test_a_lone_model_and_other_data_are_refused(tmp_path: Path) -> None:
    one = make_model(tmp_path / "one", make_text(tmp_path / "text", 20), "none", 0)
    with pytest.raises(LstError, match="a comparison needs two"):
        find_models([one.path])
    other = make_model(tmp_path / "other", make_text(tmp_path / "other-text", 21), "static", 0)
    with pytest.raises(LstError, match="trained on different data"):
        find_models([one.path, other.path])
