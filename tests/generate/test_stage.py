import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lst.assets.models import PARTS
from lst.errors import LstError
from lst.generate.samples import SamplesConfig, samples, samples_spec
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session
from lst.generate.stage import generate_continuation
from lst.manifest import Manifest, ShardResult, StageSpec, build_shards, iter_rows, sha256_file
from lst.manifest.inspect import verify_manifest
from tests.data.synthetic import make_pairs
from tests.evaluate.tiny import make_model, write_tone

BRIEF = GenerateConfig(modality="any", max_tokens=30, min_tokens=30)


@pytest.mark.usefixtures("voice", "units")
def test_a_spoken_prompt_is_continued_into_a_directory(plain: Session, tmp_path: Path) -> None:
    write_tone(tmp_path / "prompt.wav", 0.4)
    made = generate_continuation(plain.directory, str(tmp_path / "prompt.wav"), tmp_path / "out", config=BRIEF)
    assert not verify_manifest(made.path)
    body = json.loads(made.file("continuation.json").read_text())
    assert len(body["prompt"]["units"]) == 10
    sounds = {row["id"]: row for row in iter_rows(made)}
    assert sounds["continuation"]["duration_s"] == len(body["units"]) / 25
    assert sounds["whole"]["duration_s"] == (10 + len(body["units"])) / 25
    for row in sounds.values():
        assert soundfile.info(made.path / row["path"]).duration == row["duration_s"]
    if body["text"]:
        assert made.file("continuation.txt").read_text() == body["text"] + "\n"
    again = generate_continuation(plain.directory, str(tmp_path / "prompt.wav"), tmp_path / "out", config=BRIEF)
    assert again.created == made.created
    with pytest.raises(LstError, match="other inputs or settings"):
        generate_continuation(plain.directory, "the cat", tmp_path / "out", config=BRIEF)


def test_text_needs_neither_tokenizer_nor_vocoder(plain: Session, tmp_path: Path) -> None:
    config = BRIEF.model_copy(update={"modality": "text"})
    made = generate_continuation(plain.directory, "the cat", tmp_path / "out", config=config)
    assert sorted(made.artifacts) == ["continuation.json", "continuation.txt"]
    assert made.rows == 0
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with pytest.raises(LstError, match="not an output of lst"):
        generate_continuation(plain.directory, "the cat", tmp_path / "taken", config=config, force=True)
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "mine"


def make_audio(root: Path, pairs: Manifest) -> Manifest:
    """An audio manifest with a tone for every utterance of `pairs`."""
    rows = []
    for row in iter_rows(pairs):
        path = root / "sounds" / row["id"].split("#")[0]
        write_tone(path, row["duration_s"])
        rows.append(
            {
                "id": row["id"],
                "audio_path": row["id"].split("#")[0],
                "offset_s": 0.0,
                "duration_s": row["duration_s"],
                "sample_rate": 16_000,
                "channels": 1,
                "speaker": "anna",
                "text": row["text"],
                "language": "en",
                "sha256": sha256_file(path),
            }
        )
    spec = StageSpec("lst.audio/1", "ingest", 1, {"n": len(rows)})
    return build_shards(root / "audio", spec, [0], lambda _: ShardResult(rows), location={"root": str(root / "sounds")})


def make_inputs(root: Path) -> list[Manifest]:
    """Models for asr, for tts, and pre-trained; pairs, audio."""
    pairs, _ = make_pairs(root, 30, valid_fraction=0.2)
    tasks = (("a", "asr"), ("t", "tts"), ("m", ""))
    return [*(make_model(root / name, task=task, context=100) for name, task in tasks), pairs, make_audio(root, pairs)]


@pytest.mark.usefixtures("voice")
def test_samples(tmp_path: Path) -> None:
    *models, pairs, audio = make_inputs(tmp_path)
    config = SamplesConfig(
        recordings=2,
        sentences=["the cat ran"],
        prompt_s=1.0,
        speech=GenerateConfig(modality="speech", max_tokens=12, min_tokens=3),
        max_text_tokens=5,
    )
    made = samples(*models, pairs, audio, tmp_path / "out", config)
    assert made.id == samples_spec(*models, pairs, audio, config).id
    assert not verify_manifest(made.path)
    body = json.loads(made.file("samples.json").read_text())
    assert [entry["kind"] for entry in body["samples"]] == ["transcribe", "continue"] * 2 + ["synthesize"]
    assert body["asr"]["recordings"] == 2
    first, continued, spoken = body["samples"][0], body["samples"][1], body["samples"][-1]
    assert first["held_out"]
    assert continued["id"] == first["id"]
    assert continued["prompt_s"] == 1.0
    original, _ = soundfile.read(made.path / first["original"])
    units_only, _ = soundfile.read(made.path / first["units_only"])
    assert abs(len(original) - len(units_only)) <= 640
    whole, _ = soundfile.read(made.path / continued["whole"])
    assert len(whole) == 640 * (25 + len(continued["units"]))
    assert len(spoken["units"]) * 640 == len(soundfile.read(made.path / spoken["spoken"])[0])
    named = {value for entry in body["samples"] for value in entry.values() if str(value).endswith(".wav")}
    assert {row["path"] for row in iter_rows(made)} == named
    assert made.totals["samples"] == 5


@pytest.mark.usefixtures("voice")
def test_samples_of_another_model_stand_beside(tmp_path: Path) -> None:
    *models, pairs, audio = make_inputs(tmp_path)
    other = make_asset(tmp_path / "other")
    config = SamplesConfig(
        recordings=1,
        sentences=["the cat ran"],
        prompt_s=1.0,
        speech=GenerateConfig(modality="speech", max_tokens=12, min_tokens=3),
        max_text_tokens=5,
        beside=str(other),
    )
    made = samples(*models, pairs, audio, tmp_path / "out", config)
    body = json.loads(made.file("samples.json").read_text())
    assert body["beside"]["name"] == str(other)
    heard, continued, spoken = (entry["beside"] for entry in body["samples"])
    assert body["beside"]["asr"]["recordings"] == 1
    assert heard["text"] != body["samples"][0]["text"]
    assert continued["units"] != body["samples"][1]["units"]
    assert made.file(continued["whole"]) != made.file(body["samples"][1]["whole"])
    assert len(spoken["units"]) * 640 == len(soundfile.read(made.file(spoken["spoken"]))[0])
    alone = samples(*models, pairs, audio, tmp_path / "alone", config.model_copy(update={"beside": None}))
    body = json.loads(alone.file("samples.json").read_text())
    assert "beside" not in body
    assert not [entry for entry in body["samples"] if "beside" in entry]
    shutil.rmtree(other / "tts")
    with pytest.raises(LstError, match=r"tts/.* is missing"):
        samples_spec(*models, pairs, audio, config)


def make_asset(root: Path) -> Path:
    """An asset of kind model: other weights than those of a run."""
    for part in PARTS:
        make_model(root / part, task="" if part == "pretrained" else part, context=100, seed=8)
    files = {
        path.relative_to(root).as_posix(): {"sha256": sha256_file(path)} for path in root.rglob("*") if path.is_file()
    }
    card = {"name": "other", "kind": "model", "version": "1", "licence": "", "source": "", "description": ""}
    (root / "card.json").write_text(json.dumps({**card, "files": files}))
    return root


@pytest.mark.usefixtures("voice")
def test_samples_without_held_out_rows_say_so(tmp_path: Path) -> None:
    pairs, _ = make_pairs(tmp_path, 6, valid_fraction=0.0)
    audio = make_audio(tmp_path, pairs)
    models = [
        make_model(tmp_path / name, task=task, context=100) for name, task in (("a", "asr"), ("t", "tts"), ("m", ""))
    ]
    config = SamplesConfig(
        recordings=1, sentences=[], speech=GenerateConfig(modality="speech", max_tokens=3), max_text_tokens=2
    )
    made = samples(*models, pairs, audio, tmp_path / "out", config)
    body = json.loads(made.file("samples.json").read_text())
    assert not body["samples"][0]["held_out"]
    other = make_model(tmp_path / "other", tokenizer="e" * 64, task="asr")
    with pytest.raises(LstError, match="was trained on"):
        samples(other, *models[1:], pairs, audio, tmp_path / "fails", config)
    assert np.isfinite(body["asr"]["wer"])
