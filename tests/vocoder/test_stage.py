"""`vocode`: rows, rejections, workers, interruptions; the command line of `vocode` and `train-vocoder`."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from click.testing import Result
from typer.testing import CliRunner

from lst.cli import vocode as commands
from lst.constants import DEFAULT_TOKENIZER
from lst.errors import LstError, UsageError
from lst.manifest import Manifest, iter_rows, load_manifest
from lst.manifest.inspect import verify_manifest
from lst.units import tokenizer_fingerprint
from lst.vocoder import load_vocoder
from lst.vocoder import stage as stage_module
from lst.vocoder.files import UnitList
from lst.vocoder.stage import VocodeConfig, vocode, vocode_list, vocode_spec
from tests.vocoder.corpora import sung_corpus, units_manifest
from tests.vocoder.hifigan_reference import config, random_state, save_checkpoint
from tests.vocoder.test_hifigan import DURATIONS
from tests.vocoder.toys import TOKENIZER, save_ridge

UTTERANCES = {
    "corpus/a/x.wav#0": [1, 2, 3, 4],
    "corpus/b/x.wav#0": [5, 6],
    "../../escape": [7] * 10,
    "corpus/a/x.wav#1": [11],
    "ö/ключ": [0, 0, 1],
}


@pytest.fixture
def toy(tmp_path: Path) -> str:
    return str(save_ridge(tmp_path / "toy"))


@pytest.fixture
def units(tmp_path: Path) -> Manifest:
    return units_manifest(tmp_path / "units", UTTERANCES)


def wave_bytes(manifest: Manifest) -> dict[str, bytes]:
    return {row["id"]: manifest.file(row["path"]).read_bytes() for row in iter_rows(manifest)}


def test_a_wave_per_row(units: Manifest, toy: str, tmp_path: Path) -> None:
    made = vocode(units, tmp_path / "waves", VocodeConfig(vocoder=toy))
    assert made.schema == "lst.waves/1"
    assert made.config["vocoder"] == "toy-ridge"
    assert made.fingerprints == {"tokenizer": TOKENIZER, "vocoder": load_vocoder(toy).fingerprint}
    assert made.provenance == units.provenance
    rows = list(iter_rows(made))
    assert [row["id"] for row in rows] == list(UTTERANCES)
    assert len({row["path"] for row in rows}) == len(rows)
    for row in rows:
        samples, rate = soundfile.read(made.file(row["path"]), dtype="float32")
        assert rate == 16000
        assert soundfile.info(made.file(row["path"])).subtype == "PCM_16"
        expected = load_vocoder(toy).synthesize(UTTERANCES[row["id"]])
        assert row["duration_s"] == len(samples) / 16000 == 0.04 * len(UTTERANCES[row["id"]])
        np.testing.assert_allclose(samples, expected, atol=1 / 32768)
    assert made.totals == {"rows": 5, "hours": pytest.approx(20 * 0.04 / 3600)}
    assert verify_manifest(made.path) == []
    assert {path.parent for path in (tmp_path / "waves").rglob("*.wav")} == {tmp_path / "waves" / "waves"}


def test_workers_change_nothing(units: Manifest, toy: str, tmp_path: Path) -> None:
    one = vocode(units, tmp_path / "one", VocodeConfig(vocoder=toy))
    two = vocode(units, tmp_path / "two", VocodeConfig(vocoder=toy), workers=2)
    assert one.id == two.id
    assert wave_bytes(one) == wave_bytes(two)


def test_an_interrupted_run_continues(
    units: Manifest, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def stop_after_two(path: Path, pieces: Iterable[np.ndarray], rate: int) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        original(path, pieces, rate)
        done.append(path.name)

    original = stage_module.write_wav_pieces
    monkeypatch.setattr(stage_module, "write_wav_pieces", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        vocode(units, tmp_path / "waves", VocodeConfig(vocoder=toy))
    assert not (tmp_path / "waves").exists()
    done.clear()
    done.append("counted from here")
    monkeypatch.setattr(stage_module, "write_wav_pieces", lambda *a: (original(*a), done.append("more")))
    made = vocode(units, tmp_path / "waves", VocodeConfig(vocoder=toy))
    assert len(done) == 1 + 3  # two were there
    assert wave_bytes(made) == wave_bytes(vocode(units, tmp_path / "whole", VocodeConfig(vocoder=toy)))


def test_a_full_disk_is_said(units: Manifest, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import lst.vocoder.files as files

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "fsync_file", full)
    with pytest.raises(LstError, match=r"No space left on the device while writing .*what is complete is kept"):
        vocode(units, tmp_path / "waves", VocodeConfig(vocoder=toy))


def test_rows_that_cannot_be_spoken_are_counted(toy: str, tmp_path: Path) -> None:
    units = units_manifest(tmp_path / "units", {**UTTERANCES, "empty": [], "foreign": [3, 12]})
    made = vocode(units, tmp_path / "waves", VocodeConfig(vocoder=toy))
    assert made.rows == 5
    assert made.rejected == {"no-units": 1, "unit-out-of-range": 1}
    with pytest.raises(LstError, match=r"2 of 7 rows could not be spoken \(empty: there are no units"):
        vocode(units, tmp_path / "strict", VocodeConfig(vocoder=toy), max_rejected=0.1)
    nothing = units_manifest(tmp_path / "nothing", {"empty": []})
    with pytest.raises(LstError, match="1 of 1 rows could not be spoken"):
        vocode(nothing, tmp_path / "silence", VocodeConfig(vocoder=toy))


def test_the_default_is_the_vocoder_made_for_the_units(units: Manifest, toy: str, tmp_path: Path) -> None:
    known = units_manifest(tmp_path / "known", {"a": [17, 17, 402]}, tokenizer=tokenizer_fingerprint("mfcc-501"))
    assert vocode_spec(known, VocodeConfig()).config["vocoder"] == "ridge-mfcc-501"
    with pytest.raises(LstError, match=r"No vocoder on this machine was made for the units of .*lst train-vocoder"):
        vocode_spec(units, VocodeConfig())
    with pytest.raises(LstError, match="was made for units of the tokenizer mfcc-501"):
        vocode(units, tmp_path / "waves", VocodeConfig(vocoder="ridge-mfcc-501"))
    assert not (tmp_path / "waves").exists()


def test_only_units_are_taken(tmp_path: Path, toy: str) -> None:
    _, audio = sung_corpus(tmp_path / "sung", count=2)
    with pytest.raises(LstError, match=r"holds lst\.audio/1, but units are needed"):
        vocode(audio, tmp_path / "waves", VocodeConfig(vocoder=toy))


def test_units_without_repeats(tmp_path: Path, toy: str) -> None:
    body = config(**DURATIONS)
    state = random_state(body)
    state["dur_predictor.proj.bias"] += 1.0
    gan = save_checkpoint(tmp_path / "gan", body, state)
    options = VocodeConfig(vocoder=str(gan), deduplicated=True)
    made = vocode_list(UnitList("u", [17, 402, 3, 99]), tmp_path / "waves", options)
    assert next(iter_rows(made))["duration_s"] > 4 * 0.04
    with pytest.raises(LstError, match="toy-ridge predicts no durations"):
        vocode_list(UnitList("u", [1]), tmp_path / "other", VocodeConfig(vocoder=toy, deduplicated=True))


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    commands.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command_for_a_manifest(units: Manifest, toy: str, tmp_path: Path) -> None:
    done = run("vocode", units.path, "--out", tmp_path / "waves", "--vocoder", toy, "--workers", "1", "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["totals"]["rows"] == 5
    assert load_manifest(tmp_path / "waves").rows == 5


def test_command_for_a_file_of_units(tmp_path: Path, toy: str) -> None:
    file = tmp_path / "said.json"
    file.write_text(json.dumps({"units": [17, 17, 402, 3], "tokenizer": "mfcc-501"}))
    done = run("vocode", file, "--out", tmp_path / "waves")
    assert done.exit_code == 0, done.exception
    (row,) = iter_rows(load_manifest(tmp_path / "waves"))
    assert (row["id"], row["duration_s"]) == ("said", 0.16)
    again = run("vocode", file, "--out", tmp_path / "waves")
    assert again.exit_code == 0

    text = tmp_path / "said.txt"
    text.write_text("1 2 3")
    unnamed = run("vocode", text, "--out", tmp_path / "b")
    assert isinstance(unnamed.exception, UsageError)
    assert "does not say which tokenizer" in str(unnamed.exception)
    assert run("vocode", text, "--out", tmp_path / "c", "--vocoder", toy).exit_code == 0
    for name, tokenizer in (("e", "mfcc"), ("f", DEFAULT_TOKENIZER)):
        assert run("vocode", text, "--out", tmp_path / name, "--tokenizer", tokenizer).exit_code == 0
        assert load_manifest(tmp_path / name).fingerprints["tokenizer"] == tokenizer_fingerprint(tokenizer)
    wrong = run("vocode", file, "--out", tmp_path / "g", "--tokenizer", DEFAULT_TOKENIZER)
    assert isinstance(wrong.exception, UsageError)
    assert "are those of mfcc-501" in str(wrong.exception)
    for content, message in (("", "no units"), ("1 12", "unit 12 is outside 0 to 11")):
        text.write_text(content)
        wrong = run("vocode", text, "--out", tmp_path / "d", "--vocoder", toy)
        assert isinstance(wrong.exception, LstError)
        assert message in str(wrong.exception)
    foreign = run("vocode", file, "--out", tmp_path / "h", "--vocoder", toy)
    assert "toy-ridge was made for units of the tokenizer fingerprint abababababab" in str(foreign.exception)
    assert isinstance(run("vocode", tmp_path / "nowhere", "--out", tmp_path / "f").exception, UsageError)


def test_command_that_fits_a_vocoder(tmp_path: Path) -> None:
    units, _ = sung_corpus(tmp_path)
    done = run("train-vocoder", units.path, "--out", tmp_path / "mine", "--name", "mine", "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["schema"] == "lst.vocoder/1"
    spoken = run("vocode", units.path, "--out", tmp_path / "waves", "--vocoder", tmp_path / "mine", "--workers", "1")
    assert spoken.exit_code == 0, spoken.exception
    wrong = run("train-vocoder", units.path, "--out", tmp_path / "other", "waveform=telephone")
    assert isinstance(wrong.exception, UsageError)
    assert "waveform" in str(wrong.exception)
    assert isinstance(run("train-vocoder", units.path, "--out", tmp_path / "x", "--kind", "horn").exception, UsageError)
    network = ["network.dim=16", "network.hidden=16", "network.frame_hidden=16", "steps=2", "held_out=0.2"]
    trained = run("train-vocoder", units.path, *network, "--out", tmp_path / "net", "--kind", "convnext", "--json")
    assert trained.exit_code == 0, trained.exception
    spoken = run("vocode", units.path, "--out", tmp_path / "more", "--vocoder", tmp_path / "net", "--workers", "1")
    assert spoken.exit_code == 0, spoken.exception
    duel = ["synthesis.dim=16", "synthesis.hidden=16", "discriminators.periods=[2]", "discriminators.windows=[256]"]
    duel += ["alone=0.5", "batch=2", f"start={tmp_path / 'net'}"]
    trained = run(
        "train-vocoder", units.path, *network[3:], *duel, "--out", tmp_path / "gan", "--kind", "gan", "--json"
    )
    assert trained.exit_code == 0, trained.exception
    spoken = run("vocode", units.path, "--out", tmp_path / "sung", "--vocoder", tmp_path / "gan", "--workers", "1")
    assert spoken.exit_code == 0, spoken.exception
