import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lst.data.batch import pack_examples
from lst.data.interleaving import DocumentMaker
from lst.data.loader import iter_utterances
from lst.errors import LstError
from lst.evaluate.benchmark import BenchmarkConfig, import_benchmark, import_benchmark_spec
from lst.evaluate.losses import DIRECTIONS
from lst.evaluate.stage import ChoicesConfig, LossesConfig, choices, choices_spec, losses, losses_spec
from lst.generate.session import open_session
from lst.manifest import Manifest, iter_rows
from lst.manifest.inspect import verify_manifest
from tests.data.synthetic import make_pairs
from tests.evaluate.tiny import TOKENIZER, bench_rows, make_bench, make_model, write_tone


def write_items(root: Path, count: int = 3, **changes: str) -> Path:
    """A JSONL benchmark with text and sound."""
    lines = []
    for k in range(count):
        row = {"id": f"i{k}", "context": "the cat ran", "right": "over the dog", "wrong": "under a tree"}
        for place, part in enumerate(("context", "right", "wrong")):
            write_tone(root / "audio" / f"{k}-{part}.wav", 0.3 + 0.1 * place + 0.1 * k)
            row[f"{part}_audio"] = f"audio/{k}-{part}.wav"
        lines.append(json.dumps(row | (changes if k == 0 else {})))
    (root / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.mark.usefixtures("counting_tokenizer")
def test_import_makes_items_with_units(tmp_path: Path) -> None:
    source = write_items(tmp_path / "source")
    (source / "benchmark.json").write_text('{"corpus": "mine", "licence": "CC0-1.0", "source": "here"}')
    bench = import_benchmark(source, tmp_path / "bench", BenchmarkConfig())
    rows = list(iter_rows(bench))
    assert [row["id"] for row in rows] == ["i0", "i1", "i2"]
    assert [len(row["context_units"]) for row in rows] == [7, 10, 12]
    assert [len(choice) for choice in rows[0]["choices_units"]] == [10, 12]
    assert rows[0]["group"] == "i0"
    assert bench.fingerprints == {"tokenizer": TOKENIZER}
    assert bench.provenance == [{"corpus": "mine", "licence": "CC0-1.0", "source": "here"}]
    assert bench.totals["spoken"] == bench.totals["written"] == 3
    assert not verify_manifest(bench.path)
    assert bench.id == import_benchmark_spec(source, BenchmarkConfig()).id
    write_tone(source / "audio" / "0-context.wav", 0.5)
    assert bench.id != import_benchmark_spec(source, BenchmarkConfig()).id


def test_a_card_says_which_benchmark_it_is(tmp_path: Path) -> None:
    """Our own layout fits every benchmark; without a card it is what it is asked to be."""
    source = write_items(tmp_path / "source")

    def kind(asked: str) -> str:
        return import_benchmark_spec(source, BenchmarkConfig(kind=asked, tokenizer=None)).config["kind"]

    assert (kind("auto"), kind("hellaswag")) == ("storycloze", "hellaswag")
    card = source / "benchmark.json"
    card.write_text('{"kind": "blimp"}')
    assert kind("auto") == kind("blimp") == "blimp"
    with pytest.raises(LstError, match=r"benchmark\.json says that this is blimp, not hellaswag.*lst eval blimp"):
        kind("hellaswag")
    card.write_text('{"kind": "bilmp"}')
    for asked in ("auto", "blimp"):
        with pytest.raises(LstError, match=r"benchmark\.json: there is no benchmark 'bilmp'.*kind: storycloze"):
            kind(asked)


@pytest.mark.usefixtures("counting_tokenizer")
def test_the_id_ignores_where_the_benchmark_lies(tmp_path: Path) -> None:
    one, other = write_items(tmp_path / "a" / "same"), write_items(tmp_path / "b" / "same")
    assert import_benchmark_spec(one, BenchmarkConfig()).id == import_benchmark_spec(other, BenchmarkConfig()).id


@pytest.mark.usefixtures("counting_tokenizer")
def test_bad_audio_rejects_the_item_and_counts_it(tmp_path: Path) -> None:
    source = write_items(tmp_path / "source", 6, right_audio="audio/gone.wav")
    (source / "audio" / "1-wrong.wav").write_bytes(b"not a sound file")
    (source / "audio" / "2-context.wav").write_bytes(b"")
    write_tone(source / "audio" / "3-right.wav", 0.001)
    bench = import_benchmark(source, tmp_path / "bench", BenchmarkConfig())
    assert [row["id"] for row in iter_rows(bench)] == ["i4", "i5"]
    assert sum(bench.rejected.values()) == 4
    assert bench.rejected["missing-file"] == 1
    assert bench.rejected["empty-audio"] == 1
    with pytest.raises(LstError, match=r"more than 10\.0%"):
        import_benchmark(source, tmp_path / "strict", BenchmarkConfig(), max_rejected=0.1)


@pytest.mark.usefixtures("counting_tokenizer")
def test_other_sampling_rates_and_workers_give_units_too(tmp_path: Path) -> None:
    source = write_items(tmp_path / "source")
    write_tone(source / "audio" / "0-context.wav", 0.4, rate=44_100)
    bench = import_benchmark(source, tmp_path / "bench", BenchmarkConfig())
    assert len(next(iter_rows(bench))["context_units"]) == 10


def test_text_only_needs_no_tokenizer(tmp_path: Path) -> None:
    source = write_items(tmp_path / "source")
    bench = import_benchmark(source, tmp_path / "bench", BenchmarkConfig(tokenizer=None))
    row = next(iter_rows(bench))
    assert row["context_units"] == row["choices_units"] == []
    assert "tokenizer" not in bench.fingerprints


def test_storycloze_stage(tmp_path: Path, model: Manifest, bench: Manifest) -> None:
    result = choices(model, bench, tmp_path / "eval", ChoicesConfig(resamples=200))
    assert result.id == choices_spec(model, bench, ChoicesConfig(resamples=200)).id
    assert not verify_manifest(result.path)
    summary = json.loads(result.file("summary.json").read_text())
    assert list(summary["modes"]) == ["s-s", "t-t", "s-t", "t-s"]
    assert summary["modes"]["s-s"]["headline"] == "mean_unit"
    assert summary["modes"]["s-t"]["headline"] == "mean_char"
    table = pq.read_table(result.file("items.parquet")).to_pylist()
    assert len(table) == 48
    for mode, body in summary["modes"].items():
        rows = [row for row in table if row["mode"] == mode]
        assert body["n"] == 12
        assert body["chance"] == 0.5
        assert body["low"] <= body["accuracy"] <= body["high"]
        for name, variant in body["variants"].items():
            assert variant["accuracy"] == pytest.approx(np.mean([row[f"earned_{name}"] for row in rows]))
        first = rows[0]
        assert len(first["conditional"]) == len(first["tokens"]) == 2
    assert "| s-s | 12 | mean_unit |" in result.file("summary.md").read_text()
    assert result.totals["accuracy s-s"] == pytest.approx(summary["modes"]["s-s"]["accuracy"], abs=1e-4)


def test_storycloze_is_the_same_twice(tmp_path: Path, model: Manifest, bench: Manifest) -> None:
    config = ChoicesConfig(mode="s-t", resamples=200)
    one = choices(model, bench, tmp_path / "one", config)
    other = choices(model, bench, tmp_path / "other", config)
    for name in ("summary.json", "items.parquet", "summary.md"):
        assert one.file(name).read_bytes() == other.file(name).read_bytes()


def test_a_mode_the_benchmark_lacks(tmp_path: Path, model: Manifest) -> None:
    rows = bench_rows(4)
    for row in rows:
        row |= {"context_units": [], "choices_units": []}
    text = make_bench(tmp_path / "text", rows)
    with pytest.raises(LstError, match=r"No item of .* mode s-s"):
        choices(model, text, tmp_path / "eval", ChoicesConfig(mode="s-s"))
    summary = json.loads(choices(model, text, tmp_path / "all", ChoicesConfig()).file("summary.json").read_text())
    assert list(summary["modes"]) == ["t-t"]
    assert summary["missing_modes"] == ["s-s", "s-t", "t-s"]
    assert "only 2 independent items" in summary["modes"]["t-t"]["note"]


def check_directions(body: dict[str, float], model: Manifest, pairs: Manifest) -> None:
    """`body` against the losses of each utterance alone, sorted by direction in a plain loop over its tokens."""
    session = open_session(model.path)
    size, bpe = session.vocabulary, session.unit_bpe
    patching = session.loaded.config.patching
    maker = DocumentMaker(size, patching, limit=128, encode_units=bpe.encode if bpe else None)
    sums = {direction: [0.0, 0] for direction in DIRECTIONS}
    for row in iter_utterances(pairs, split="valid"):
        example = maker.utterance("interleaved", row).build()
        losses = session.model.target_losses(pack_examples([[example]], size))[0].tolist()
        tokens = example.tokens.tolist()
        held: set[str] = set()
        for before, target, loss in zip(tokens, tokens[1:], losses, strict=False):
            held |= {name for name, of in (("speech", size.is_unit), ("text", size.is_text)) if of(before)}
            kind = "speech" if size.is_unit(target) else "text"
            if size.is_control(target):
                continue
            entry = sums[f"{next(iter(held - {kind}), kind)} → {kind}"]
            entry[0] += loss / np.log(2)
            entry[1] += bpe.frames()[target - size.unit_offset] if bpe and kind == "speech" else 1
    for direction, key in DIRECTIONS.items():
        bits, count = sums[direction]
        assert body[key] == pytest.approx(bits / count * (25 if key.endswith("second") else 1), rel=1e-4), direction


@pytest.mark.parametrize("mode", ["static", "none", "bpe"])
def test_losses(tmp_path: Path, mode: str) -> None:
    pairs, text = make_pairs(tmp_path, 60, valid_fraction=0.2)
    model = make_model(tmp_path / "model", mode)
    config = LossesConfig(budget=128)
    result = losses(model, pairs, text, tmp_path / "eval", config)
    assert result.id == losses_spec(model, pairs, text, config).id
    summary = json.loads(result.file("summary.json").read_text())
    assert list(summary["sets"]) == ["speech", "transcript", "interleaved", "text"]
    valid = [row for row in iter_rows(pairs) if row["split"] == "valid"]
    speech = summary["sets"]["speech"]
    assert speech["documents"] == len(valid)
    if mode == "static":  # without patches some documents are longer than a row
        assert speech["seconds"] == pytest.approx(sum(len(row["units"]) for row in valid) / 25)
    assert 20 * np.log2(501) < speech["speech_bits_per_second"] < 200 * np.log2(501)
    assert "text_bits_per_token" not in speech
    assert summary["sets"]["transcript"]["text_tokens"] == sum(len(row["tokens"]) for row in valid)
    check_directions(summary["sets"]["interleaved"], model, pairs)
    assert not set(DIRECTIONS.values()) & (set(speech) | set(summary["sets"]["text"]))
    assert result.totals["bits per text token"] == pytest.approx(
        summary["sets"]["text"]["text_bits_per_token"], abs=1e-3
    )


def test_losses_do_not_depend_on_packing(tmp_path: Path) -> None:
    pairs, text = make_pairs(tmp_path, 60, valid_fraction=0.2)
    model = make_model(tmp_path / "model")
    results = []
    for budget in (128, 1024):
        config = LossesConfig(budget=budget)
        manifest = losses(model, pairs, text, tmp_path / f"eval{budget}", config)
        results.append(json.loads(manifest.file("summary.json").read_text())["sets"])
    for name in ("speech", "transcript"):
        for key, value in results[0][name].items():
            assert value == pytest.approx(results[1][name][key], rel=1e-5)


def test_losses_refuse_other_data(tmp_path: Path) -> None:
    pairs, text = make_pairs(tmp_path, 20, valid_fraction=0.2)
    with pytest.raises(LstError, match="was trained on"):
        losses(make_model(tmp_path / "a", tokenizer="e" * 64), pairs, text, tmp_path / "x", LossesConfig())


def test_losses_without_held_out_speech(tmp_path: Path) -> None:
    pairs, text = make_pairs(tmp_path, 20, valid_fraction=0.0)
    result = losses(make_model(tmp_path / "model"), pairs, text, tmp_path / "eval", LossesConfig(max_rows=1))
    summary = json.loads(result.file("summary.json").read_text())
    assert list(summary["sets"]) == ["text"]
    assert summary["missing"] == ["speech", "transcript", "interleaved"]
