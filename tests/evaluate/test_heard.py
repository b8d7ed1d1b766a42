"""Speech by way of text: what a recogniser writes down is what is scored, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from lst.errors import LstError
from lst.evaluate import heard as heard_module
from lst.evaluate.heard import as_heard
from lst.evaluate.items import score_items
from lst.evaluate.stage import ChoicesConfig, choices, choices_spec
from lst.generate.decoding import generate
from lst.generate.recognition import TRANSCRIBE, recognition_prompt
from lst.generate.session import Session, open_session
from lst.manifest import Manifest, load_manifest
from tests.evaluate.tiny import bench_rows, make_bench, make_model


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_session(make_model(tmp_path_factory.mktemp("asr") / "model", task="asr").path)


def transcript(recogniser: Session, units: list[int]) -> str:
    made = generate(recogniser, [recognition_prompt(recogniser, np.array(units), "x")], "text", TRANSCRIBE)
    return recogniser.text.decode(made[0].ids("text").tolist()).strip()


def test_texts_are_the_transcripts_of_the_units(recogniser: Session, tmp_path: Path) -> None:
    rows = bench_rows(4)
    found = as_heard(recogniser, rows, tmp_path / "heard.jsonl")
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    for row, before in zip(found, rows, strict=True):
        assert row["context_text"] == transcript(recogniser, before["context_units"]) != before["context_text"]
        assert row["choices_text"] == [transcript(recogniser, units) for units in before["choices_units"]]
        assert row["context_units"] == row["choices_units"] == []
        assert row["label"] == before["label"]


def test_items_without_speech_are_left_out(recogniser: Session, tmp_path: Path) -> None:
    rows = bench_rows(4)
    rows[1]["context_units"] = []
    rows[2]["choices_units"] = []
    rows[3]["choices_units"] = [rows[3]["choices_units"][0], []]
    assert [row["id"] for row in as_heard(recogniser, rows, tmp_path / "heard.jsonl")] == ["item-0"]


def test_an_item_of_which_nothing_is_heard_is_left_out(recogniser: Session, tmp_path: Path) -> None:
    rows = bench_rows(2)
    silent = tmp_path / "heard.jsonl"
    nothing = heard_module._key(rows[0]["choices_units"][1])
    silent.write_text(f'{{"id": "{nothing}", "text": ""}}\n', encoding="utf-8")
    assert [row["id"] for row in as_heard(recogniser, rows, silent)] == ["item-1"]


def test_what_is_too_long_is_left_out(recogniser: Session, tmp_path: Path) -> None:
    rows = bench_rows(2)
    rows[0]["context_units"] = [1, 2] * recogniser.context * recogniser.patch_size
    assert [row["id"] for row in as_heard(recogniser, rows, tmp_path / "heard.jsonl")] == ["item-1"]


def test_without_a_prompt_the_endings_are_heard(recogniser: Session, tmp_path: Path) -> None:
    (row,) = bench_rows(1)
    (found,) = as_heard(recogniser, [row | {"context_text": "", "context_units": []}], tmp_path / "heard.jsonl")
    assert found["context_text"] == ""
    assert found["choices_text"] == [transcript(recogniser, units) for units in row["choices_units"]]


def test_a_killed_run_goes_on(recogniser: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = bench_rows(6)
    whole = as_heard(recogniser, rows, tmp_path / "whole.jsonl")
    monkeypatch.setattr(heard_module, "BATCH", 4)
    made: list[int] = []

    def dies(*arguments: object, **settings: object) -> object:
        if made:
            raise KeyboardInterrupt
        made.append(1)
        return generate(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(heard_module, "generate", dies)
    part = tmp_path / "part.jsonl"
    with pytest.raises(KeyboardInterrupt):
        as_heard(recogniser, rows, part)
    kept = part.read_text(encoding="utf-8")
    assert kept.count("\n") == 4
    part.write_text(kept + '{"id": "cut sho', encoding="utf-8")
    heard_again: list[int] = []

    def counts(session: Session, prompts: list[object], *rest: object, **settings: object) -> object:
        heard_again.append(len(prompts))
        return generate(session, prompts, *rest, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(heard_module, "generate", counts)
    assert as_heard(recogniser, rows, part) == whole
    assert sum(heard_again) == 6 * 3 - 4


def test_the_mode_heard(model: Manifest, bench: Manifest, recogniser: Session, tmp_path: Path) -> None:
    config = ChoicesConfig(resamples=100, recogniser=recogniser.directory)
    made = choices(model, bench, tmp_path / "eval", config)
    plain = choices(model, bench, tmp_path / "plain", ChoicesConfig(resamples=100))
    modes = _summary(made)["modes"]
    assert list(modes) == ["s-s", "t-t", "s-t", "t-s", "heard"]
    assert {name: body for name, body in modes.items() if name != "heard"} == _summary(plain)["modes"]
    assert modes["heard"]["headline"] == "mean_char"
    assert _summary(made)["recogniser"] == recogniser.loaded.manifest.id  # type: ignore[union-attr]

    rows = as_heard(recogniser, bench_rows(12), tmp_path / "heard.jsonl")
    scored = score_items(open_session(model.path), rows, ("t-t",))
    right = [float(item.variants()["pmi"].argmax() == item.label) for item in scored]
    assert modes["heard"]["variants"]["pmi"]["accuracy"] == pytest.approx(np.mean(right))


def test_only_the_recogniser_that_was_used_counts(
    model: Manifest, bench: Manifest, recogniser: Session, tmp_path: Path
) -> None:
    without = choices_spec(model, bench, ChoicesConfig())
    assert not {"recogniser", "recogniser_id"} & set(without.config)
    with_it = choices_spec(model, bench, ChoicesConfig(recogniser=recogniser.directory))
    other = make_model(tmp_path / "other", task="asr", seed=4)
    assert len({without.id, with_it.id, choices_spec(model, bench, ChoicesConfig(recogniser=other.path)).id}) == 3


def test_what_is_no_recogniser_is_refused(model: Manifest, bench: Manifest, tmp_path: Path) -> None:
    speaker = make_model(tmp_path / "tts", task="tts")
    with pytest.raises(LstError, match="not fine-tuned to recognise"):
        choices(model, bench, tmp_path / "a", ChoicesConfig(recogniser=speaker.path))
    foreign = make_model(tmp_path / "foreign", task="asr", tokenizer="e" * 64)
    with pytest.raises(LstError, match="eeeeeeeeeeee"):
        choices(model, bench, tmp_path / "b", ChoicesConfig(recogniser=foreign.path))


def test_a_benchmark_without_speech_has_no_such_mode(model: Manifest, recogniser: Session, tmp_path: Path) -> None:
    rows = [row | {"context_units": [], "choices_units": []} for row in bench_rows(4)]
    written = make_bench(tmp_path / "written", rows)
    made = choices(model, written, tmp_path / "eval", ChoicesConfig(resamples=100, recogniser=recogniser.directory))
    assert list(_summary(made)["modes"]) == ["t-t"]
    assert "heard" in _summary(made)["missing_modes"]  # type: ignore[operator]


def _summary(made: Manifest) -> dict[str, object]:
    import json

    return json.loads(load_manifest(made.path).file("summary.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]
