"""`lst eval all`: everything over one load of the model, what is missing said, and resumed after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import lst.assets
from lst.errors import LstError
from lst.evaluate import choices, stage, suite
from lst.evaluate.suite import SuiteConfig, eval_all, eval_all_spec, gather, shipped_benchmarks
from lst.manifest import Manifest
from lst.manifest.inspect import verify_manifest
from tests.evaluate.test_readers import write_rows
from tests.evaluate.test_stage import write_items
from tests.evaluate.tiny import TOKENIZER, bench_rows, make_bench, make_model

CONFIG = SuiteConfig(resamples=200)


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """A directory of four benchmarks, one of them broken, and a file that is none."""
    root = tmp_path / "benchmarks"
    write_items(root / "stories")
    write_rows(
        root / "hellaswag.jsonl",
        [
            {"ind": k, "activity_label": "cat", "ctx_a": "the cat ran", "ctx_b": "over", "label": k}
            | {"endings": ["a dog", "the house", "it", "slowly"]}
            for k in range(4)
        ],
    )
    write_rows(root / "blimp" / "x.jsonl", [{"sentence_good": "the cat ran", "sentence_bad": "the ran cat"}])
    write_rows(root / "broken.jsonl", [{"id": "1", "context": "the cat", "right": "", "wrong": ""}])
    (root / "notes.txt").write_text("not a benchmark")
    return root


@pytest.fixture
def tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {TOKENIZER: Path("counting")}
    monkeypatch.setattr(lst.assets, "find_by_fingerprint", lambda wanted, kind: found.get(wanted))


@pytest.mark.usefixtures("counting_tokenizer", "tokenizers")
def test_all_benchmarks_and_what_is_missing(model: Manifest, benchmarks: Path, tmp_path: Path) -> None:
    gathered = gather(model, [str(benchmarks), f"piqa={tmp_path / 'gone'}"])
    assert set(gathered.benches) == {"storycloze", "hellaswag", "blimp"}
    result = eval_all(model, gathered, tmp_path / "all", CONFIG)
    assert not verify_manifest(result.path)
    summary = json.loads(result.file("summary.json").read_text())
    assert {name: list(body["modes"]) for name, body in summary["benchmarks"].items()} == {
        "storycloze": ["s-s", "t-t", "s-t", "t-s"],
        "hellaswag": ["t-t"],
        "blimp": ["t-t"],
    }
    assert summary["benchmarks"]["hellaswag"]["modes"]["t-t"]["chance"] == 0.25
    assert summary["benchmarks"]["blimp"]["modes"]["t-t"]["headline"] == "sum"
    assert set(summary["missing"]) == {"broken.jsonl", "notes.txt", "piqa", "losses"}
    assert "There is no benchmark at" in summary["missing"]["piqa"]
    assert "empty-ending" in summary["missing"]["broken.jsonl"]
    assert all("\n" not in why for why in summary["missing"].values())
    table = result.file("summary.md").read_text()
    assert "| hellaswag | t-t | 4 | 25.0 | mean_char |" in table
    assert "- piqa: There is no benchmark" in table
    assert result.file("blimp/items.parquet").is_file()


@pytest.mark.usefixtures("counting_tokenizer", "tokenizers")
def test_what_a_recogniser_makes_of_those_that_have_speech(model: Manifest, benchmarks: Path, tmp_path: Path) -> None:
    recogniser = make_model(tmp_path / "asr", task="asr")
    gathered = gather(model, [str(benchmarks)])
    config = CONFIG.model_copy(update={"recogniser": recogniser.path})
    assert eval_all_spec(model, gathered, config).id != eval_all_spec(model, gathered, CONFIG).id
    result = eval_all(model, gathered, tmp_path / "all", config)
    assert not verify_manifest(result.path)
    found = json.loads(result.file("summary.json").read_text())["benchmarks"]
    assert {name for name, body in found.items() if "heard" in body["modes"]} == {"storycloze"}
    missing = {name: body["missing_modes"] for name, body in found.items()}
    assert missing == {"storycloze": [], "hellaswag": ["s-s", "s-t", "t-s", "heard"], "blimp": ["s-s", "heard"]}
    alone = stage.choices(
        model,
        gathered.benches["storycloze"],
        tmp_path / "alone",
        stage.ChoicesConfig(resamples=200, recogniser=recogniser.path),
    )
    assert found["storycloze"] == json.loads(alone.file("summary.json").read_text())
    assert result.file("storycloze/heard.jsonl").read_bytes() == alone.file("heard.jsonl").read_bytes()


@pytest.mark.usefixtures("counting_tokenizer", "tokenizers")
def test_a_recogniser_that_is_none_is_refused_before_anything_is_measured(
    model: Manifest, benchmarks: Path, tmp_path: Path
) -> None:
    gathered = gather(model, [str(benchmarks)])
    config = CONFIG.model_copy(update={"recogniser": model.path})
    with pytest.raises(LstError, match=r"was not fine-tuned to recognise\. Give an asr model"):
        eval_all(model, gathered, tmp_path / "all", config)
    assert not (tmp_path / "all").exists()
    assert not list(tmp_path.rglob("items.parquet"))


@pytest.mark.usefixtures("counting_tokenizer", "tokenizers")
def test_one_load_and_the_same_scores_as_alone(
    model: Manifest, benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lst.evaluate.stage import ChoicesConfig
    from lst.evaluate.stage import choices as alone

    loads: list[Path] = []
    load = suite.open_session
    monkeypatch.setattr(suite, "open_session", lambda path, **more: loads.append(path) or load(path, **more))
    gathered = gather(model, [str(benchmarks)])
    together = eval_all(model, gathered, tmp_path / "all", CONFIG)
    assert len(loads) == 1
    bench = gathered.benches["storycloze"]
    monkeypatch.setenv("LST_CACHE", str(tmp_path / "other-cache"))
    apart = alone(model, bench, tmp_path / "alone", ChoicesConfig(resamples=200))
    assert together.file("storycloze/items.parquet").read_bytes() == apart.file("items.parquet").read_bytes()


@pytest.mark.usefixtures("counting_tokenizer", "tokenizers")
def test_killed_it_continues_to_the_same_bytes(
    model: Manifest, benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered = gather(model, [str(benchmarks)])
    undisturbed = eval_all(model, gathered, tmp_path / "undisturbed", CONFIG)
    monkeypatch.setenv("LST_CACHE", str(tmp_path / "fresh-cache"))
    evaluate = suite.evaluate_choices
    done: list[str] = []

    def dies_at_the_second(session: Any, bench: Manifest, **more: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(bench.id)
        return evaluate(session, bench, **more)

    monkeypatch.setattr(suite, "evaluate_choices", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        eval_all(model, gathered, tmp_path / "all", CONFIG)
    again: list[str] = []
    monkeypatch.setattr(
        suite,
        "evaluate_choices",
        lambda session, bench, **more: again.append(bench.id) or evaluate(session, bench, **more),
    )
    resumed = eval_all(model, gathered, tmp_path / "all", CONFIG)
    assert set(again) == {bench.id for bench in gathered.benches.values()} - set(done)
    assert resumed.id == undisturbed.id
    for name in undisturbed.artifacts:
        assert resumed.file(name).read_bytes() == undisturbed.file(name).read_bytes(), name


def test_units_of_another_tokenizer_leave_the_others_running(model: Manifest, tmp_path: Path) -> None:
    foreign = make_bench(tmp_path / "foreign", bench_rows(4), tokenizer="e" * 64)
    text = write_rows(tmp_path / "blimp.jsonl", [{"sentence_good": "the cat ran", "sentence_bad": "cat the ran"}])
    gathered = gather(model, [str(foreign.path), str(text)])
    result = eval_all(model, gathered, tmp_path / "all", CONFIG)
    summary = json.loads(result.file("summary.json").read_text())
    assert list(summary["benchmarks"]) == ["blimp"]
    assert "was trained on" in summary["missing"]["storycloze"]
    with pytest.raises(LstError, match=r"Nothing could be measured: .* was trained on"):
        eval_all(model, gather(model, [str(foreign.path)]), tmp_path / "none", CONFIG)


@pytest.mark.usefixtures("counting_tokenizer")
def test_a_model_whose_tokenizer_is_not_here_is_measured_on_text(benchmarks: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", tokenizer="e" * 64)
    gathered = gather(model, [str(benchmarks / "stories")])
    assert "is not on this machine" in gathered.missing["stories, speech"]
    summary = json.loads(eval_all(model, gathered, tmp_path / "all", CONFIG).file("summary.json").read_text())
    assert list(summary["benchmarks"]["storycloze"]["modes"]) == ["t-t"]


@pytest.mark.usefixtures("counting_tokenizer", "tokenizers")
def test_losses_come_with_it(tmp_path: Path) -> None:
    from tests.data.synthetic import make_pairs

    model = make_model(tmp_path / "model")
    pairs, text = make_pairs(tmp_path, 30, valid_fraction=0.2)
    (tmp_path / "b").mkdir()
    write_rows(tmp_path / "b" / "x.jsonl", [{"sentence_good": "the cat ran", "sentence_bad": "cat the ran"}])
    gathered = gather(model, [str(tmp_path / "b")], pairs=pairs.path, text=text.path)
    result = eval_all(model, gathered, tmp_path / "all", CONFIG)
    assert result.totals["bits per second of speech"] > 0
    assert not json.loads(result.file("summary.json").read_text())["missing"]


def test_shipped_benchmarks_are_found() -> None:
    assert "storycloze-tiny" in [path.name for path in shipped_benchmarks()]


def run(*arguments: str | Path) -> Result:
    import typer

    from lst.cli import evaluate

    app = typer.Typer()
    evaluate.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("counting_tokenizer", "tokenizers")
def test_all_compare_and_seeds_by_command(model: Manifest, base: Manifest, benchmarks: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=5)
    for name, made in (("a", model), ("b", base), ("c", other)):
        shown = run("eval", "all", "--model", made.path, "--data", benchmarks, "--out", tmp_path / name)
        assert shown.exit_code == 0, shown.exception
        assert "| storycloze | s-s | 3 | 50.0 | mean_unit |" in shown.stdout
        assert "lst: broken.jsonl is left out" in shown.stderr
    table = run("eval", "compare", tmp_path / "a", tmp_path / "b")
    assert table.exit_code == 0, table.exception
    (line,) = (line for line in table.stdout.splitlines() if line.startswith("| storycloze s-s "))
    assert line.split("|")[2].strip() == "3"
    body = json.loads(run("eval", "compare", tmp_path / "a", tmp_path / "b", "--a", tmp_path / "c", "--json").stdout)
    assert {row["benchmark"] for row in body["rows"]} == {"storycloze", "hellaswag", "blimp"}
    over = run("eval", "seeds", tmp_path / "a", tmp_path / "c")
    assert "±" in over.stdout


@pytest.mark.parametrize("command", ["all", "compare", "seeds", "hellaswag", "swuggy", "blimp", "piqa"])
def test_help_has_an_example(command: str) -> None:
    result = run("eval", command, "--help")
    assert result.exit_code == 0
    assert f"lst eval {command} " in result.stdout


def test_a_mode_that_a_benchmark_never_has(model: Manifest, tmp_path: Path) -> None:
    text = write_rows(tmp_path / "blimp.jsonl", [{"sentence_good": "the cat ran", "sentence_bad": "cat the ran"}])
    result = run("eval", "blimp", "--model", model.path, "--data", text, "--mode", "t-s")
    assert "BLiMP has no mode t-s" in str(result.exception)
    result = run("eval", "piqa", "--model", model.path, "--data", text, "--mode", "t-t")
    assert "says that this is blimp, not piqa" in str(result.exception)
    assert choices.bench_kind(make_bench(tmp_path / "old", bench_rows(1))).name == "storycloze"


@pytest.mark.usefixtures("counting_tokenizer", "tokenizers")
def test_a_model_of_text_alone(bench: Manifest, benchmarks: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", speech=0.0)
    gathered = gather(model, [str(benchmarks / "stories"), str(bench.path)])
    assert "was trained on text only" in gathered.missing["stories, speech"]
    summary = json.loads(eval_all(model, gathered, tmp_path / "all", CONFIG).file("summary.json").read_text())
    assert {tuple(body["modes"]) for body in summary["benchmarks"].values()} == {("t-t",)}
    assert summary["benchmarks"]["storycloze-bench"]["missing_modes"] == ["s-s", "s-t", "t-s"]
    result = run("eval", "storycloze", "--model", model.path, "--data", bench.path, "--mode", "s-s")
    assert "was trained on text only: it has no mode s-s" in str(result.exception)
