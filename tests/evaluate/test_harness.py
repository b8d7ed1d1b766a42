"""The lm-evaluation-harness gets our numbers on HellaSwag and PIQA, through its own queries and its own arithmetic."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from lst.errors import LstError
from lst.evaluate.harness import LSTHarness
from lst.evaluate.scoring import Continuation, greedy_continuations, score_continuations
from lst.evaluate.stage import ChoicesConfig, choices
from lst.manifest import Manifest
from tests.data.synthetic import WORDS
from tests.evaluate.test_readers import write_rows

ITEMS = 24


@pytest.fixture(scope="module", autouse=True)
def offline() -> None:
    """The tasks' data is local; nothing may be asked of a hub."""
    os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"


def sentence(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def hellaswag_rows() -> list[dict[str, object]]:
    rng = random.Random(0)
    return [
        {
            "ind": k,
            "activity_label": sentence(rng, 1, 2),
            "ctx_a": sentence(rng, 3, 8) + " [title] a [step] thing.",
            "ctx_b": sentence(rng, 1, 3),
            "endings": [sentence(rng, 2, 7) + rng.choice(["", " [substeps] x."]) for _ in range(4)],
            "label": str(rng.randrange(4)),
        }
        for k in range(ITEMS)
    ]


def piqa_rows() -> list[dict[str, object]]:
    rng = random.Random(1)
    return [
        {"goal": sentence(rng, 2, 6), "sol1": sentence(rng, 2, 9) + " ", "sol2": sentence(rng, 2, 9), "label": k % 2}
        for k in range(ITEMS)
    ]


def harness_task(root: Path, name: str, rows: list[dict[str, object]]) -> dict[str, Any]:
    """The harness's own task `name` as it ships, but with local data."""
    import lm_eval
    from lm_eval.tasks.hellaswag.utils import process_docs

    data = write_rows(root / f"{name}-data.jsonl", rows)
    shipped = (Path(lm_eval.__file__).parent / "tasks" / name / f"{name}.yaml").read_text()
    import yaml

    body = yaml.safe_load(shipped.replace("!function utils.process_docs", "x"))
    for key in ("tag", "training_split", "dataset_name", "test_split"):
        body.pop(key, None)
    body |= {
        "task": f"{name}_local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(data)}},
    }
    if "process_docs" in body:
        body["process_docs"] = process_docs
    return body


@pytest.mark.parametrize(("name", "rows"), [("hellaswag", hellaswag_rows()), ("piqa", piqa_rows())])
def test_numbers_equal_ours(
    model: Manifest, tmp_path: Path, name: str, rows: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    from lst.evaluate.benchmark import BenchmarkConfig, import_benchmark

    source = write_rows(tmp_path / f"{name}.jsonl", rows)
    bench = import_benchmark(source, tmp_path / "bench", BenchmarkConfig(tokenizer=None))
    ours = choices(model, bench, tmp_path / "ours", ChoicesConfig(mode="t-t", resamples=200))
    variants = json.loads(ours.file("summary.json").read_text())["modes"]["t-t"]["variants"]
    theirs = simple_evaluate(
        model=LSTHarness(str(model.path)),
        tasks=[harness_task(tmp_path, name, rows)],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    found = theirs["results"][f"{name}_local"]
    assert found["acc,none"] == pytest.approx(variants["sum"]["accuracy"])
    assert found["acc_norm,none"] == pytest.approx(variants["mean_char"]["accuracy"])
    import pyarrow.parquet as pq

    items = pq.read_table(ours.file("items.parquet")).to_pylist()
    samples = sorted(theirs["samples"][f"{name}_local"], key=lambda sample: sample["doc_id"])
    for item, sample in zip(items, samples, strict=True):
        scores = [response[0] for response in sample["filtered_resps"]]
        assert scores == pytest.approx(item["conditional"], abs=1e-4)


def test_greedy_is_what_decoding_gives(model: Manifest) -> None:
    harness = LSTHarness(str(model.path))
    session = harness.session
    text = harness._generate("the cat ran", {"max_gen_toks": 4})
    prompt = tuple(harness.tok_encode("the cat ran"))
    likeliest: list[int] = []
    for _ in range(3):
        every = [Continuation((*prompt, *likeliest), "text", (k,), "text") for k in range(session.vocabulary.size)]
        likeliest.append(int(np.argmax([score.logp for score in score_continuations(session, every)])))
    right = Continuation(prompt, "text", tuple(likeliest), "text")
    wrong = Continuation(prompt, "text", (*likeliest[:2], (likeliest[2] + 1) % 300), "text")
    assert greedy_continuations(session, [right, wrong]) == [True, False]
    if all(token < session.vocabulary.text_size for token in likeliest):
        assert text.startswith(session.text.decode(likeliest))


def test_rolling_text_and_stop_strings(model: Manifest) -> None:
    from lm_eval.api.instance import Instance

    harness = LSTHarness(str(model.path))

    def ask(kind: Any, *arguments: Any) -> Instance:
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    long = " ".join(WORDS * 20)
    short, whole = harness.loglikelihood_rolling([ask("loglikelihood_rolling", text) for text in ("the cat", long)])
    alone = Continuation((), "text", tuple(harness.tok_encode("the cat")), "text")
    assert short == pytest.approx(score_continuations(harness.session, [alone])[0].logp, abs=1e-4)
    assert np.isfinite(whole)
    assert whole < short
    (text,) = harness.generate_until([ask("generate_until", "the cat", {"until": [], "max_gen_toks": 8})])
    stop = text[len(text) // 2 :][:1] or "x"
    (cut,) = harness.generate_until([ask("generate_until", "the cat", {"until": [stop], "max_gen_toks": 8})])
    assert cut == text.split(stop)[0]


def test_it_is_registered_and_refuses_unknown_arguments(model: Manifest) -> None:
    from lm_eval.api.registry import get_model

    made = get_model("lst").create_from_arg_string(f"path={model.path}", {"device": "cpu", "batch_size": 1})
    assert isinstance(made, LSTHarness)
    # What its command line passes on when no device is named.
    made = get_model("lst").create_from_arg_obj({"path": str(model.path)}, {"device": "cuda:0", "batch_size": 1})
    assert made.session.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(LstError, match="--model_args has no pretrained"):
        LSTHarness(str(model.path), pretrained="x")
