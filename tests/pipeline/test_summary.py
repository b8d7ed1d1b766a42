"""The facts of a run: one line each, and a line for each stage where several tell the same."""

from pathlib import Path
from typing import Any

from lst.manifest import load_manifest
from lst.pipeline.summary import run_summary, summary_rows
from tests.report.synthetic import make_model, make_run, record


def test_a_run_with_one_model(tmp_path: Path) -> None:
    out = make_run(tmp_path)
    facts = run_summary(out, None)
    rows = dict(summary_rows(facts))
    assert (facts["parameters"], rows["parameters"]) == (1000, "1,000")
    assert rows["pretraining loss"].startswith("6.00 to 4.00, held out 4.50")
    assert rows["ASR fine-tuning loss"] == rows["pretraining loss"]
    assert not any("." in key for key in facts)


def test_every_model_of_several_has_its_lines(tmp_path: Path) -> None:
    out = make_run(tmp_path)
    names = ("ingest", "aligned", "text", "pairs", "pretrain")
    made = {name: load_manifest(out / name) for name in names}
    made["base.1"] = make_model(out / "base.1", "pretrain", {"pairs": made["pairs"], "text": made["text"]})
    record(out, made)
    facts = run_summary(out, None)
    rows = dict(summary_rows(facts))
    assert facts["pretrain.parameters"] == facts["base.1.parameters"] == 1000
    assert "parameters" not in facts
    assert rows["pretraining loss, pretrain"] == rows["pretraining loss, base.1"]
    assert rows["words aligned"]  # what only one stage tells stays as it is
    assert list(facts["models"]) == ["pretrain", "base.1"]


def test_of_many_models_only_their_number_is_told() -> None:
    """A recipe with a hundred runs would fill the screen otherwise; nine are too many."""
    facts: dict[str, Any] = {f"run-{place}.parameters": 1000 for place in range(9)}
    facts |= {"models": {f"run-{place}": f"out/run-{place}" for place in range(9)}, "report": "out/report.html"}
    assert dict(summary_rows(facts)) == {
        "parameters": "of 9 stages: see the report",
        "models": "9, in out",
        "report": "out/report.html",
    }
    del facts["run-8.parameters"], facts["models"]["run-8"]
    assert len(summary_rows(facts)) == 8 + 2
    assert dict(summary_rows(facts))["models"].endswith("out/run-6, out/run-7")
