"""Training a CTC aligner: a language of tones, where it is written, and what is wrong with recordings and files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lst.align.checkpoints import load_checkpoint
from lst.align.ctc import CTCAligner
from lst.align.loading import default_min_score, load_aligner
from lst.align.network import STRIDE, CTCConfig, CTCNetwork, load_ctc, save_ctc
from lst.align.train import TrainAlignerConfig, train_aligner, train_aligner_spec
from lst.align.train_corpus import alphabet_of, spell
from lst.audio import open_row_audio
from lst.audio.stage import IngestConfig, ingest
from lst.cli.main import build_app
from lst.errors import LstError
from lst.manifest import Manifest, iter_rows
from lst.train.config import OptimizerConfig
from lst.units.hubert_config import NetworkConfig
from lst.units.network import HubertNetwork, save_network
from lst.vocoder.files import write_wav

LETTERS = "abdeiklmñou"
TINY = NetworkConfig(mel_bands=40, dim=48, layers=2, heads=2, ffn_dim=96, pos_kernel=8, pos_groups=4, clusters=4)
CONFIG = TrainAlignerConfig(
    network=TINY,
    hidden=48,
    steps=20,
    seconds=10.0,
    log_every=10,
    validate_every=20,
    prior_weight=0.0,
    dropout=0.0,
    noise=False,
    held_out=0.2,
    language="es",
    optimizer=OptimizerConfig(lr=5e-3, warmup_steps=10, weight_decay=0.0),
)


def say(text: str, noise: np.random.Generator) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Each letter 100 ms of its own two tones, 150 ms of rest around words: samples, and words in seconds."""
    parts, spans, position = [np.zeros(2400, np.float32)], [], 0.15
    for word in text.split():
        start = position
        for letter in word.lower():
            index = LETTERS.index(letter)
            time = np.arange(1600) / 16000
            tone = np.sin(2 * np.pi * (300 + 170 * index) * time) + np.sin(2 * np.pi * (3000 + 250 * index) * time)
            parts.append((0.2 * tone * np.hanning(1600) ** 0.3).astype(np.float32))
            position += 0.1
        spans.append((start, position))
        parts.append(np.zeros(2400, np.float32))
        position += 0.15
    samples = np.concatenate(parts)
    return (samples + 0.002 * noise.standard_normal(len(samples))).astype(np.float32), spans


def words(random: np.random.Generator, count: int) -> str:
    return " ".join(
        "".join(random.choice(list(LETTERS), int(random.integers(2, 5)), replace=False)) for _ in range(count)
    )


def corpus(home: Path, texts: list[str], extra: list[tuple[str, np.ndarray, str]] | None = None) -> Manifest:
    home.mkdir(parents=True)
    lines, noise = ["file\tspeaker\ttext"], np.random.default_rng(5)
    for number, text in enumerate(texts):
        write_wav(home / f"{number:03}.wav", say(text, noise)[0], 16000)
        lines.append(f"{number:03}.wav\tx\t{text}")
    for name, samples, text in extra or []:
        write_wav(home / name, samples, 16000)
        lines.append(f"{name}\tx\t{text}")
    (home / "transcripts.tsv").write_text("\n".join(lines) + "\n")
    return ingest(home, home / "audio", IngestConfig(corpus="tsv"))


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    random = np.random.default_rng(0)
    texts = [words(random, 3) for _ in range(60)]
    tone = 0.3 * np.sin(np.arange(32000) / 10).astype(np.float32)
    extra = [
        ("strange.wav", tone, "çç"),
        ("fast.wav", tone[:3200], "abdeiklmñou abdeiklmñou abdeiklmñou"),
        ("textless.wav", tone, ""),
        ("long.wav", np.tile(tone, 10), "abi"),
    ]
    return corpus(tmp_path_factory.mktemp("tones") / "corpus", texts, extra)


@pytest.fixture(scope="module")
def trained(audio: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return train_aligner(audio, tmp_path_factory.mktemp("aligner") / "out", CONFIG)


@pytest.mark.slow
def test_it_finds_words_of_a_language_nobody_speaks(audio: Manifest, tmp_path: Path) -> None:
    learnt = CONFIG.model_copy(update={"steps": 300, "seconds": 10.0, "validate_every": 100})
    made = train_aligner(audio, tmp_path / "out", learnt)
    assert made.totals["valid_cer"] < 0.2
    aligner = load_aligner(made.path)
    random, errors = np.random.default_rng(9), []
    for _ in range(10):
        text = words(random, 4)
        samples, spans = say(text, random)
        found = aligner.align(samples, text, round(len(samples) / 640))
        assert [word.text for word in found.words] == text.split()
        ends = [(phone.start_s, phone.end_s) for phone in found.phones]
        first = 0
        for word, (start, end) in zip(text.split(), spans, strict=True):
            errors += [abs(ends[first][0] - start), abs(ends[first + len(word) - 1][1] - end)]
            first += len(word)
        other = aligner.align(samples, words(random, 4), round(len(samples) / 640))
        assert other.score < found.score
    assert np.median(errors) < 0.06


def test_rows_that_teach_nothing_are_counted(trained: Manifest) -> None:
    # "çç" is too rare for the alphabet; the long recording is left out, the fast one cannot hold its text.
    assert trained.rejected == {"no-text": 1, "text-outside-alphabet": 1, "text-too-long": 1, "too-long": 1}
    aligner = load_aligner(trained.path)
    assert (trained.schema, aligner.language, aligner.name) == ("lst.aligner/1", "es", "out")
    lines = [json.loads(line) for line in trained.file("metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [10, 20]
    assert lines[1]["loss"] < lines[0]["loss"]
    card = json.loads(trained.file("card.json").read_text())
    assert card["alphabet"] == "".join(sorted(LETTERS))
    assert card["kind"] == "aligner"
    assert card["numbers"]["cer"] == pytest.approx(trained.totals["valid_cer"])
    assert any(name.startswith("tensorboard/") for name in trained.artifacts)


def test_true_words_teach_and_calibrate_it(audio: Manifest, trained: Manifest, tmp_path: Path) -> None:
    """What it is off by on the recordings whose words are known is in the file of the weights, and taken off in use."""
    lines, noise = [], np.random.default_rng(5)
    for row in iter_rows(audio):
        if row["audio_path"][0].isdigit():
            spans = say(row["text"], noise)[1]
            words = [
                {"text": word, "start_s": start, "end_s": end}
                for word, (start, end) in zip(row["text"].split(), spans, strict=True)
            ]
            lines.append(json.dumps({"file": row["audio_path"], "words": words}))
    path = tmp_path / "words.jsonl"
    path.write_text("\n".join(lines) + "\n")
    made = train_aligner(audio, tmp_path / "out", CONFIG.model_copy(update={"flat_steps": 20}), words=path)
    assert made.id != trained.id
    card = json.loads(made.file("card.json").read_text())
    network = load_ctc(made.file("model.safetensors"))
    config = network.config
    assert card["calibration"] == {name: getattr(config, name) for name in card["calibration"]}
    assert config.min_score == default_min_score(made.path)
    assert load_ctc(trained.file("model.safetensors")).config.start_shift_s == 0
    plain = tmp_path / "plain.safetensors"
    save_ctc(plain, network, config.model_copy(update={"start_shift_s": 0.0, "end_shift_s": 0.0}))
    offs = []
    for calibrated in (False, True):
        aligner, errors = load_aligner(made.path if calibrated else plain), []
        for row in list(iter_rows(audio))[:20]:
            if row["audio_path"][0].isdigit():
                samples = open_row_audio(audio, row)
                found = aligner.align(samples, row["text"], len(samples) // 640)
                truth = say(row["text"], noise)[1]
                errors += [time.end_s - end for time, (_, end) in zip(found.times, truth, strict=True)]
        offs.append(abs(np.median(errors)))
    assert offs[1] <= offs[0]
    with pytest.raises(LstError, match="does not exist"):
        train_aligner(audio, tmp_path / "x", CONFIG, words=tmp_path / "nothing.jsonl")


def test_a_stopped_training_goes_on(audio: Manifest, tmp_path: Path) -> None:
    import os
    import signal

    from lst.train.control import TrainingStopped

    short = CONFIG.model_copy(update={"steps": 4, "log_every": 2, "validate_every": 2, "noise": True, "dropout": 0.1})
    whole = train_aligner(audio, tmp_path / "whole", short)

    def stop(done: int, total: int, unit: str) -> None:
        if "steps" in unit and done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match="after step 2 of 4"):
        train_aligner(audio, tmp_path / "again", short, progress=stop)
    again = train_aligner(audio, tmp_path / "again", short)
    assert again.file("model.safetensors").read_bytes() == whole.file("model.safetensors").read_bytes()


def save_tokenizer(directory: Path) -> Path:
    from safetensors.torch import save_file

    directory.mkdir()
    torch.manual_seed(3)
    save_network(directory / "network.safetensors", HubertNetwork(TINY))
    save_file({"cluster_centers": torch.randn(4, 48)}, directory / "codebook.safetensors")
    spec = {"name": "toy", "encoder": {"kind": "fbank-hubert", "weights": "network.safetensors", "layer": 1}}
    (directory / "tokenizer.json").write_text(json.dumps({**spec, "quantizer": {"weights": "codebook.safetensors"}}))
    return directory


def test_it_starts_from_a_tokenizer_and_may_keep_its_network(audio: Manifest, tmp_path: Path) -> None:
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    command = ["train-aligner", str(audio.path), "--tokenizer", str(tokenizer), "--language", "es", "--json"]
    settings = ["steps=2", "log_every=1", "validate_every=1", "hidden=16", "seconds=4"]
    settings += ["optimizer.warmup_steps=0", "optimizer.lr=0.02"]
    before = HubertNetwork(TINY)
    before.load_state_dict({k: v.float() for k, v in _tensors(tokenizer / "network.safetensors").items()})
    changed = {}
    for name, more in {"tuned": [], "kept": ["freeze=true"]}.items():
        out = tmp_path / name
        done = CliRunner().invoke(build_app(), [*command, "--out", str(out), *settings, *more])
        assert done.exit_code == 0, done.exception
        after = load_ctc(out / "model.safetensors").encoder.state_dict()
        same = [
            torch.allclose(after[key], value, atol=1e-3)
            for key, value in before.state_dict().items()
            if key.startswith(("frontend.", "encoder."))
        ]
        changed[name] = not all(same)
    assert changed == {"tuned": True, "kept": False}
    assert load_checkpoint(tmp_path / "tuned").stride == STRIDE
    first = train_aligner_spec(audio, CONFIG, str(tokenizer)).id
    assert first != train_aligner_spec(audio, CONFIG, None).id
    with pytest.raises(LstError, match=r"mfcc-501 \(mfcc\) has no network"):
        train_aligner(audio, tmp_path / "m", CONFIG.model_copy(update={"network": None}), tokenizer="mfcc-501")
    with pytest.raises(LstError, match="its own sizes"):
        train_aligner(audio, tmp_path / "n", CONFIG, tokenizer=str(tokenizer))
    with pytest.raises(LstError, match="no tokenizer whose encoder could be kept"):
        train_aligner(audio, tmp_path / "o", CONFIG.model_copy(update={"freeze": True}))


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(path))


def test_too_little_speech(tmp_path: Path) -> None:
    little = corpus(tmp_path / "little", ["abi", "kuma"])
    with pytest.raises(LstError, match=r"too little for an aligner") as refused:
        train_aligner(little, tmp_path / "out", CONFIG.model_copy(update={"rare": 1}))
    assert "Rejected: none" in (refused.value.hint or "")
    with pytest.raises(LstError, match="no transcripts to learn from"):
        train_aligner(little, tmp_path / "out", CONFIG.model_copy(update={"rare": 100}))


def test_silent_and_constant_recordings_teach_nothing(tmp_path: Path) -> None:
    from tests.units.corpus import audio_manifest

    random = np.random.default_rng(0)
    sounds = [np.zeros(80_000, np.float32), np.full(80_000, 0.3, np.float32)]
    sounds += [say("abi kuma", random)[0] for _ in range(3)]
    manifest = audio_manifest(tmp_path, sounds, per_shard=9, changes={row: {"text": "abi kuma"} for row in range(5)})
    with pytest.raises(LstError, match=r"has 3\.5 s of usable speech with a transcript, too little") as refused:
        train_aligner(manifest, tmp_path / "out", CONFIG.model_copy(update={"rare": 1}))
    assert "Rejected: 2 audio-silent" in (refused.value.hint or "")


def test_spelling() -> None:
    labels = alphabet_of(["año nuevo", "año | año"], rare=2)
    assert labels == ("<blank>", "|", "a", "o", "ñ")
    assert spell("año", labels) == [2, 4, 3]
    assert spell("áño xx a", labels) == [2, 4, 3, 1, 2]  # without the accent; a word of strangers has no letters
    assert spell("xx", labels) == []


def test_damaged_and_foreign_files(trained: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = trained.file("model.safetensors").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LstError, match="cannot be read"):
        load_checkpoint(path)
    trap = tmp_path / "trap"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR.")
    with pytest.raises(LstError, match="cannot be read"):
        load_checkpoint(path)
    assert not trap.exists()
    with pytest.raises(LstError, match="is not an aligner of lst train-aligner"):
        load_ctc(path)
    network = CTCNetwork(CTCConfig(encoder=TINY, layer=2, labels=("<blank>", "|", "a"), hidden=16), HubertNetwork(TINY))
    save_ctc(path, network)
    config = network.config.model_copy(update={"hidden": 24})
    object.__setattr__(network, "config", config)
    save_ctc(path, network)
    with pytest.raises(LstError, match="does not fit its configuration"):
        load_checkpoint(path)


def test_long_recordings_in_windows_are_as_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    import lst.align.ctc as module
    from lst.align.checkpoints import CTCCheckpoint

    torch.manual_seed(1)
    network = CTCNetwork(CTCConfig(encoder=TINY, layer=2, labels=("<blank>", "|", "a"), hidden=16), HubertNetwork(TINY))
    checkpoint = CTCCheckpoint(network.eval(), network.config.labels, 0, 1, False, STRIDE, STRIDE)
    aligner = CTCAligner(checkpoint, name="toy", fingerprint="00")
    samples = say(words(np.random.default_rng(0), 12), np.random.default_rng(0))[0]
    samples = samples[: len(samples) - 77]
    whole = aligner.emissions(samples)
    assert whole.shape == (len(samples) // STRIDE, 3)
    np.testing.assert_allclose(np.exp(whole).sum(1), 1, atol=1e-5)
    monkeypatch.setattr(module, "WINDOW_S", 2)
    monkeypatch.setattr(module, "OVERLAP_S", 1)
    cut = aligner.emissions(samples)
    assert cut.shape == whole.shape
    assert np.abs(np.exp(cut) - np.exp(whole)).mean() < 0.05
