"""Exported models compute in transformers what they compute here."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lst.data.batch import pack_examples
from lst.errors import LstError
from lst.generate.export import export_model
from lst.model import TransformerConfig, write_weights
from tests.model.support import VOCABULARY, document, static_example, tiny_model

LOCAL = TransformerConfig(layers=1, dim=16, heads=2, window=5)


def exported(tmp_path: Path, mode: str, **changes: Any) -> tuple[Any, Any]:
    """A random model, and the same model as transformers loads it."""
    from transformers import AutoModelForCausalLM

    model = tiny_model(mode, **changes)
    write_weights(tmp_path / "model", model, model.config)
    (tmp_path / "model" / "tokenizer.model").write_bytes(b"pieces")
    out = export_model(tmp_path / "model", tmp_path / "out")
    assert (out / "tokenizer.model").read_bytes() == b"pieces"
    return model, AutoModelForCausalLM.from_pretrained(out, trust_remote_code=mode != "none").eval()


@pytest.fixture(autouse=True)
def _modules_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("none", {"tied_heads": True}),
    ("static", {}),
    ("curriculum", {"text_local": False, "queries_per_patch": 2}),
    ("static", {"tied_heads": True, "encoder": LOCAL, "decoder": LOCAL}),
]


@pytest.mark.parametrize(("mode", "changes"), VARIANTS, ids=["base", "base-tied", "static", "units", "tied"])
def test_logits_are_equal(tmp_path: Path, mode: str, changes: dict[str, Any]) -> None:
    model, loaded = exported(tmp_path, mode, **changes)
    tokens = document(np.random.default_rng(0), 10, -3, 7)
    with torch.no_grad():
        expected = model(pack_examples([[static_example(tokens, 1 if mode == "none" else 4)]], VOCABULARY))[0]
        found = loaded(torch.from_numpy(tokens).long()[None])
    torch.testing.assert_close(found.logits[0], expected, atol=2e-5, rtol=1e-4)


def test_padding_on_either_side_loss_and_generation(tmp_path: Path) -> None:
    model, loaded = exported(tmp_path, "static")
    rng = np.random.default_rng(1)
    long, short = document(rng, 9, -2), document(rng, 4)
    ids = torch.full((3, len(long)), VOCABULARY.pad)
    ids[0], ids[1, : len(short)], ids[2, -len(short) :] = map(torch.from_numpy, (long, short, short))
    mask = (ids != VOCABULARY.pad).long()
    labels = ids.masked_fill(mask == 0, -100)
    labels[2] = -100  # a left-padded row has a label before its first token
    with torch.no_grad():
        out = loaded(ids, attention_mask=mask, labels=labels)
        alone = loaded(ids[1:2, : len(short)])
        loss = model.loss(pack_examples([[static_example(long, 4)], [static_example(short, 4)]], VOCABULARY)).mean
    torch.testing.assert_close(out.logits[1, : len(short)], alone.logits[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.logits[2, -len(short) :], alone.logits[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.loss, loss)
    with torch.no_grad():
        generated = loaded.generate(ids[:1, :5], max_new_tokens=6, do_sample=False)[0]
        tokens = long[:5]
        for _ in range(len(generated) - 5):
            logits = model(pack_examples([[static_example(tokens, 4)]], VOCABULARY))[0, -1]
            tokens = np.append(tokens, logits.argmax().numpy()).astype(np.int32)
    assert generated.tolist() == tokens.tolist()


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_runs_each_token_once_and_equals_the_whole_forward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beams: int
) -> None:
    """Left-padded prompts of two lengths; beams change places, after which the rows are read again."""
    _, loaded = exported(tmp_path, "static")
    rng = np.random.default_rng(2)
    ids = torch.full((2, 12), VOCABULARY.pad)
    ids[0], ids[1, -7:] = (torch.from_numpy(document(rng, n)[:m]) for n, m in ((14, 12), (9, 7)))
    settings = {"attention_mask": (ids != VOCABULARY.pad).long(), "max_new_tokens": 9, "num_beams": beams}
    settings |= {"do_sample": False, "eos_token_id": None}
    reads: list[int] = []
    growing = importlib.import_module(type(loaded).__module__)._Growing
    read = growing._read
    with torch.no_grad():
        monkeypatch.setattr(growing, "_read", lambda self, rows: reads.append(len(rows)) or read(self, rows))
        cached = loaded.generate(ids, **settings)
        monkeypatch.setattr(growing, "logits", lambda self, rows: read(type(self)(self.cached.model), rows))
        again = loaded.generate(ids, **settings)
    assert cached.tolist() == again.tolist()
    assert reads == [2] if beams == 1 else set(reads) == {6}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    exported(tmp_path, "none")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    with pytest.raises(LstError, match="is not empty"):
        export_model(tmp_path / "model", tmp_path / "out")
