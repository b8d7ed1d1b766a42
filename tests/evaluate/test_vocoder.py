"""`lst eval vocoder` on the repository's recordings and embedded vocoder."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lst.audio.stage import IngestConfig, ingest
from lst.cli.main import build_app
from lst.errors import LstError
from lst.evaluate import judge
from lst.evaluate.judge import judge_installed
from lst.evaluate.speech_rows import chosen_rows
from lst.evaluate.vocoder import VocoderEvalConfig, evaluate_vocoder, vocoder_spec
from lst.manifest import Manifest, load_manifest, open_input
from lst.units.stage import TokenizeAudioConfig, tokenize_audio
from tests.evaluate.test_judge import READINGS, SAMPLE, needs_judge
from tests.vocoder.corpora import units_manifest


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    home = tmp_path_factory.mktemp("readings")
    lines = ["file\tspeaker\ttext"]
    for name, text in READINGS.items():
        shutil.copy(SAMPLE / name, home / Path(name).name)
        lines.append(f"{Path(name).name}\tlinda\t{text}")
    (home / "transcripts.tsv").write_text("\n".join(lines) + "\n")
    audio = ingest(home, home / "audio", IngestConfig(corpus="tsv"))
    return tokenize_audio(audio, home / "units", TokenizeAudioConfig(tokenizer="mfcc-501"))


@needs_judge
def test_it_measures_what_is_said_and_what_it_costs(units: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "result"
    arguments = ["eval", "vocoder", str(units.path), "--judge", "whisper-tiny.en", "--out", str(out), "--json"]
    done = CliRunner().invoke(build_app(), arguments)
    assert done.exit_code == 0, done.exception
    summary = json.loads(done.stdout)
    recordings, spoken = summary["sets"]["recordings"], summary["sets"]["vocoder"]
    assert summary["vocoder"] == "ridge-mfcc-501"
    assert summary["utterances"] == 2
    assert recordings["cer"] < 0.15
    assert recordings["cer"] <= spoken["cer"] < 1.5
    assert 1 < spoken["dnsmos"] < 5
    assert min(summary["real_time_factor"], summary["real_time_factor_streaming"]) > 0
    assert summary["stream_difference"] < 1e-3
    assert "| recordings |" in (out / "summary.md").read_text()
    heard = [json.loads(line) for line in (out / "heard.jsonl").read_text().splitlines()]
    assert [line["what"] for line in heard] == ["recordings", "vocoder"]
    assert sorted(heard[0]["ids"]) == sorted(heard[1]["ids"])
    assert load_manifest(out, "lst.eval").fingerprints["vocoder"]


def test_the_same_question_has_the_same_id(units: Manifest) -> None:
    audio = open_input(units, "audio")
    spec = vocoder_spec(units, audio, VocoderEvalConfig())
    assert spec.id == vocoder_spec(units, audio, VocoderEvalConfig(vocoder="ridge-mfcc-501")).id
    assert spec.id != vocoder_spec(units, audio, VocoderEvalConfig(vocoder="griffin-lim")).id


def test_rows_are_chosen_by_seed_and_id(units: Manifest, tmp_path: Path) -> None:
    chosen = [row["id"] for row in chosen_rows(units, 100, seed=0, longest_s=25)]
    assert len(chosen) == 2
    orders = {tuple(row["id"] for row in chosen_rows(units, 100, seed=seed, longest_s=25)) for seed in range(8)}
    assert len(orders) == 2
    assert [row["id"] for row in chosen_rows(units, 1, seed=0, longest_s=25)] == chosen[:1]
    silent = units_manifest(tmp_path / "silent", {"a": [1, 2]})
    with pytest.raises(LstError, match="no utterance with a text"):
        chosen_rows(silent, 100, seed=0, longest_s=25)


def test_without_the_judge_it_says_so(units: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "find_spec", lambda name: None)
    with pytest.raises(LstError, match="The judge is not installed"):
        evaluate_vocoder(units, open_input(units, "audio"), tmp_path / "out", VocoderEvalConfig())
    assert not (tmp_path / "out").exists()
    assert not judge_installed()
