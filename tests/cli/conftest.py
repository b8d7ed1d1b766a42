"""A small recipe and its data, from the repository's own; its stages are made when a test asks for them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.processes import lst

ROOT = Path(__file__).resolve().parents[2]

RECIPE = """
name: small
stages:
  ingest: {source: sample, corpus: tsv}
  tokenize-audio: {tokenizer: mfcc-501}
  align: {min_score: 0.0}
  tokenize-text: {source: stories.txt, train_tokenizer: 360, documents_per_shard: 20}
  interleave: {valid_fraction: 0.3}
  pretrain: &training
    model: {preset: nano}
    batch: {sequence_units: 64, rows: 2}
    budget: {kind: steps, amount: 4}
    checkpoint: {every_steps: 1}
    log_every: 1
    validate_every: 2
    valid_rows: 2
  finetune-asr: {stage: finetune, task: asr, FINETUNE}
  finetune-tts: {stage: finetune, task: tts, FINETUNE}
  storycloze-data: {stage: import-benchmark, source: cloze, tokenizer: mfcc-501}
  eval-storycloze: {inputs: {bench: storycloze-data}}
  eval-losses: {}
  samples: {recordings: 1, speech: {max_tokens: 12}, max_text_tokens: 4}
""".replace("&training", "").replace(
    "FINETUNE",
    "batch: {sequence_units: 128, rows: 2}, budget: {kind: steps, amount: 2}, checkpoint: {every_steps: 1}, "
    "validate_every: null, valid_rows: 2, log_every: 1",
)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with eight prompts, fifty stories and four items of story cloze beside it."""
    root = tmp_path_factory.mktemp("small")
    sample = ROOT / "data_manifests" / "sample"
    header, *rows = (sample / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if row.startswith("asterisk/")][:8]
    for row in rows:
        name = row.split("\t")[0]
        (root / "sample" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample / name, root / "sample" / name)
    (root / "sample" / "transcripts.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    items = (ROOT / "data_manifests" / "storycloze-tiny" / "items.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    bench = [json.loads(item) for item in items]
    stories = [f"{item['context']} {item['right']} Once there were {k} cats." for item in bench for k in range(13)]
    (root / "stories.txt").write_text("\n".join(stories) + "\n", encoding="utf-8")
    shutil.copytree(ROOT / "data_manifests" / "storycloze-tiny", root / "cloze")
    (root / "cloze" / "items.jsonl").write_text("\n".join(items) + "\n", encoding="utf-8")
    (root / "small.yaml").write_text(RECIPE, encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def stage(small: Path) -> Callable[[str], Path]:
    """Makes a stage of the recipe, and what it needs, and says where it is."""

    def made(name: str) -> Path:
        out = small / "run" / name
        if not out.exists():
            said = small / "said"
            command = ["run", small / "small.yaml", "--out", small / "run", "--only", name, "--workers", "1"]
            code, _ = lst(command, small / "run", said=said)
            assert code == 0, said.read_text()
        return out

    return made
