"""`lst eval units`: disturbances do what they say, the numbers are those of the definitions, on real speech."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lst.constants import DEFAULT_TOKENIZER, SAMPLE_RATE
from lst.errors import LstError, UsageError
from lst.evaluate.disturbances import disturbances, unchanged
from lst.evaluate.units import UnitsConfig, measure_units, units
from lst.manifest import Manifest
from lst.units import load_tokenizer
from tests.evaluate.test_cli import run
from tests.units.corpus import audio_manifest

SAMPLE = Path(__file__).resolve().parents[2] / "data_manifests" / "sample"
CLIPS = {
    "agent-alreadyon": "That agent is already logged on. Please enter your agent number followed by the pound key."
}
SHORT = UnitsConfig(minutes=0.5, disturbed_minutes=0.05)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    recordings, changes = [], {}
    for name, text in CLIPS.items():
        samples, rate = soundfile.read(SAMPLE / "asterisk" / f"{name}.opus", dtype="float32")
        assert rate == SAMPLE_RATE
        for voice in range(2):
            changes[len(recordings)] = {"text": text, "speaker": f"s{voice}"}
            recordings.append(samples)
    return audio_manifest(tmp_path_factory.mktemp("speech"), recordings, changes=changes)


def tone(hertz: float, seconds: float = 2.0) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def test_disturbances_do_what_they_say() -> None:
    random = np.random.default_rng(0)
    found = {name: item.apply(tone(1000), random) for name, item in disturbances().items()}
    added = found["noise 20 dB"] - tone(1000)
    assert 10 * np.log10((tone(1000) ** 2).mean() / (added**2).mean()) == pytest.approx(20, abs=0.2)
    assert np.allclose(found["gain +6 dB"], tone(1000) * 1.9953, rtol=1e-3)
    assert np.allclose(found["gain -6 dB"] * found["gain +6 dB"], tone(1000) ** 2, atol=1e-6)
    assert np.abs(found["8 kHz band"][1000:-1000] - tone(1000)[1000:-1000]).max() < 0.005
    high = disturbances()["8 kHz band"].apply(tone(6000), random)
    assert np.abs(high[1000:-1000]).max() < 0.002
    for name, seconds in (("speed 0.9", 2 / 0.9), ("speed 1.1", 2 / 1.1)):
        assert len(found[name]) == pytest.approx(seconds * SAMPLE_RATE, abs=2)


def test_units_are_compared_at_the_same_place_of_what_is_said() -> None:
    units_ = np.repeat(np.arange(20), 10)
    slower = np.repeat(np.arange(20), 20)
    assert unchanged(units_, slower, speed=0.5).all()
    assert unchanged(units_, slower).mean() < 0.1
    assert len(unchanged(units_, np.arange(210))) == 200


def test_the_summary_holds_what_the_command_promises(speech: Manifest) -> None:
    tokenizer = load_tokenizer("mfcc-501")
    summary = measure_units(tokenizer, speech, SHORT)
    assert summary["utterances"] == 2
    quality = summary["quality"]
    assert quality["pnmi"] > quality["pnmi_floor"] > 0
    assert quality["speakers"] == 2
    # Both speakers say the same recording: a unit tells nothing of who speaks.
    assert quality["speaker_nmi"] == pytest.approx(0.0, abs=1e-6)
    assert set(summary["robustness"]) == set(disturbances())
    assert summary["robustness"]["gain +6 dB"] > 0.5
    assert summary["invariance"] == {"batch": 1.0, "windows": 1.0, "seams": 1.0}
    assert summary["speed"]["audio_s_per_cpu_s"] > 1


def test_the_stage_and_its_table(speech: Manifest, tmp_path: Path) -> None:
    made = units(speech, tmp_path / "out", SHORT)
    summary = json.loads(made.file("summary.json").read_text())
    assert made.totals["pnmi"] == summary["quality"]["pnmi"]
    table = made.file("summary.md").read_text()
    assert f"{summary['quality']['pnmi']:.3f}" in table
    assert "units unchanged, noise 20 dB" in table
    assert units(speech, tmp_path / "out", SHORT).id == made.id  # found again, not measured again


def test_the_command_line(speech: Manifest, tmp_path: Path) -> None:
    arguments = ["eval", "units", str(speech.path), "--minutes", "0.5", "--disturbed-minutes", "0.05"]
    shown = run(*arguments, "--json")
    assert shown.exit_code == 0, shown.exception
    assert json.loads(shown.stdout)["tokenizer"] == DEFAULT_TOKENIZER
    assert "PNMI" in run(*arguments, "--out", tmp_path / "kept").stdout
    assert (tmp_path / "kept" / "summary.json").is_file()
    assert isinstance(run(*arguments[:3], "--minutes", "-1").exception, UsageError)


def test_speech_without_transcripts_is_one_sentence(tmp_path: Path) -> None:
    audio = audio_manifest(tmp_path, [tone(300)], changes={0: {"text": ""}})
    with pytest.raises(LstError, match="no utterance that could be aligned"):
        measure_units(load_tokenizer("mfcc-501"), audio, SHORT)


@pytest.mark.slow
def test_the_speed_beside_hubert_base(speech: Manifest) -> None:
    summary = measure_units(load_tokenizer("mfcc-501"), speech, SHORT.model_copy(update={"base": True}))
    assert summary["speed"]["times_hubert_base"] > 5
