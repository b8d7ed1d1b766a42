"""The main job in small: the demo's recipe on a few utterances, every stage for real, through the command line."""

import gzip
import json
import shutil
from itertools import islice
from pathlib import Path

import pytest

from lst.cli.main import run
from lst.evaluate.losses import DIRECTIONS
from lst.manifest import iter_rows, load_manifest
from lst.manifest.inspect import lineage, verify_manifest
from lst.pipeline.run import read_runs

ROOT = Path(__file__).resolve().parents[2]
UTTERANCES = 24
SMALL = (
    "eval-align.rows=4",
    "tokenize-text.train_tokenizer=400",
    "interleave.valid_fraction=0.25",
    "pretrain.budget.amount=12",
    "pretrain.batch.sequence_units=128",
    "pretrain.batch.rows=4",
    "pretrain.log_every=4",
    "pretrain.validate_every=null",
    "pretrain.valid_rows=2",
    "pretrain.checkpoint.every_steps=4",
    "finetune-asr.budget.amount=4",
    "finetune-asr.log_every=2",
    "finetune-asr.validate_every=null",
    "finetune-asr.checkpoint.every_steps=2",
    "finetune-tts.budget.amount=4",
    "finetune-tts.log_every=2",
    "finetune-tts.validate_every=null",
    "finetune-tts.checkpoint.every_steps=2",
    "samples.recordings=1",
    "samples.speech.max_tokens=20",
    "samples.max_text_tokens=8",
)


@pytest.fixture(scope="module")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's recipe beside a small part of its data."""
    root = tmp_path_factory.mktemp("chain")
    data = root / "data_manifests"
    shutil.copytree(ROOT / "data_manifests" / "stories", data / "stories")
    with gzip.open(data / "stories" / "stories.txt.gz", "rt", encoding="utf-8") as stories:
        few = list(islice(stories, 300))
    with gzip.open(data / "stories" / "stories.txt.gz", "wt", encoding="utf-8") as stories:
        stories.writelines(few)
    sample = ROOT / "data_manifests" / "sample"
    lines = (sample / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
    header, rows = lines[0], [line.split("\t") for line in lines[1:]]
    seconds = header.split("\t").index("seconds")
    short = [row for row in rows if 1.0 < float(row[seconds]) < 4.0]
    read = [row for row in short if row[0].startswith("ljspeech/")][:4]
    chosen = [row for row in short if row not in read][: UTTERANCES - len(read)] + read
    for row in chosen:
        (data / "sample" / row[0]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample / row[0], data / "sample" / row[0])
    text = "\n".join([header, *("\t".join(row) for row in chosen)]) + "\n"
    (data / "sample" / "transcripts.tsv").write_text(text, encoding="utf-8")
    shutil.copy(sample / "corpus.json", data / "sample")
    bench = ROOT / "data_manifests" / "storycloze-tiny"
    shutil.copytree(bench, data / "storycloze-tiny")
    items = (bench / "items.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    (data / "storycloze-tiny" / "items.jsonl").write_text("\n".join(items) + "\n", encoding="utf-8")
    (root / "recipes").mkdir()
    shutil.copy(ROOT / "recipes" / "demo.yaml", root / "recipes")
    return root / "recipes" / "demo.yaml"


def command(recipe: Path, *more: str) -> list[str]:
    changes = [part for change in SMALL for part in ("--set", change)]
    return ["run", str(recipe), "--out", str(recipe.parent / "out"), "--workers", "1", "--json", *changes, *more]


def test_the_whole_chain(small_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = small_recipe.parent / "out"
    assert run(command(small_recipe)) == 0
    facts = json.loads(capsys.readouterr().out)
    stages = list(read_runs(out)["stages"])
    assert len(stages) == 13
    for name in stages:
        assert verify_manifest(out / name) == []
    assert not list(out.glob("*.partial-*"))

    assert facts["utterances"] == UTTERANCES
    assert facts["units"] == pytest.approx(facts["hours"] * 3600 * 25, rel=0.05)
    assert facts["words_aligned"] > UTTERANCES
    assert facts["pretrain_loss"]["train_loss"] < facts["pretrain_loss"]["first_loss"]
    assert facts["held_out"]["bits per second of speech"] > 0
    assert set(facts["storycloze"]) == {"s-s", "t-t", "s-t", "t-s"}
    assert Path(facts["report"]).stat().st_size > 10_000
    assert len(facts["heard"]) == 1

    for row in iter_rows(load_manifest(out / "samples")):
        assert (out / "samples" / row["path"]).stat().st_size > 44
    corpora = _corpora(lineage(load_manifest(out / "finetune-tts")))
    assert any("LJSpeech" in corpus for corpus in corpora)
    assert any("TinyStories" in corpus for corpus in corpora)

    # Again: nothing is made. One key: what depends on it, and it is said why.
    before = read_runs(out)
    assert run(command(small_recipe)) == 0
    assert "Nothing to do" in capsys.readouterr().err
    assert read_runs(out) == before
    assert run(command(small_recipe, "--why", "--set", "eval-storycloze.confidence=0.9")) == 0
    said = capsys.readouterr().err
    assert "eval-storycloze: to make again: confidence: 0.95 -> 0.9" in said
    assert "1 of 13 stages made: eval-storycloze" in said


def _corpora(node: object) -> set[str]:
    names = {entry.get("corpus", "") for entry in node.provenance}  # type: ignore[attr-defined]
    for source in node.inputs:  # type: ignore[attr-defined]
        names |= _corpora(source)
    return names


def test_every_evaluation_can_be_a_stage(small_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small_recipe.with_name("evaluations.yaml")
    more = (
        "  eval-benchmark: {mode: t-t, resamples: 200, inputs: {bench: storycloze-data}}\n"
        "  eval-words: {words: 2, least: 2, occurrences: 4}\n"
        "  eval-asr: {rows: 2, max_tokens: 6, resamples: 200}\n"
        "  eval-tts: {rows: 1, max_units: 8, judge: whisper-tiny.en}\n"
    )
    recipe.write_text(small_recipe.read_text(encoding="utf-8") + more, encoding="utf-8")
    assert run(command(recipe)) == 0
    facts = json.loads(capsys.readouterr().out)
    out = small_recipe.parent / "out"
    made = {name: load_manifest(out / f"eval-{name}") for name in ("benchmark", "losses", "words", "asr", "tts")}
    assert all(verify_manifest(manifest.path) == [] for manifest in made.values())
    assert facts["words"] == made["words"].totals
    agreement = json.loads((out / "eval-align" / "summary.json").read_text(encoding="utf-8"))["agreement"]
    assert facts["alignment"]["other"] == "ctc-nano-en"
    assert facts["alignment"]["ends_within_60_ms"] == agreement["ends"]["within_60_ms"] > 0
    assert facts["asr"]["wer"] > 0
    assert facts["tts"]["texts"] == 1
    directions = json.loads(made["losses"].file("summary.json").read_text(encoding="utf-8"))["sets"]["interleaved"]
    assert set(DIRECTIONS.values()) <= set(directions)
    assert "t-SNE of" in (out / "report.html").read_text(encoding="utf-8")
