"""The GAN vocoder: its synthesis, streaming, the duel with its discriminators, training, and files that are wrong."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lst.constants import DEFAULT_TOKENIZER
from lst.errors import LstError
from lst.manifest import Manifest
from lst.train.config import OptimizerConfig
from lst.train.control import TrainingStopped
from lst.vocoder import load_vocoder
from lst.vocoder.convnext_corpus import analyse_corpus
from lst.vocoder.convnext_train import train_convnext
from lst.vocoder.discriminators import Discriminators, DiscriminatorShape
from lst.vocoder.excitation import Pulses
from lst.vocoder.gan import GanConfig, GanNetwork, GanVocoder, load_gan
from lst.vocoder.gan_config import LossWeights, TrainGanConfig
from lst.vocoder.gan_duel import Duel
from lst.vocoder.gan_losses import LogMel, SpectralDistance, feature_distance
from lst.vocoder.gan_train import build_gan, make_duel, train_gan, train_gan_spec
from lst.vocoder.pieces import split_corpus
from lst.vocoder.source_filter import Frames, SourceFilter
from lst.vocoder.spectrum import Spectrum
from lst.vocoder.synthesis import SynthesisShape
from tests.align.speech import recording
from tests.vocoder.corpora import sung_corpus
from tests.vocoder.test_convnext import CONFIG as CONVNEXT
from tests.vocoder.test_convnext import SHAPE, random_units
from tests.vocoder.toys import TOKENIZER, UNITS, check_delay

SYNTHESIS = SynthesisShape(dim=16, hidden=24, blocks=2)


def toy(*, trained: bool = True) -> GanVocoder:
    """With random weights; before training the synthesis corrects nothing."""
    config = GanConfig(tokenizer=TOKENIZER, num_units=UNITS, network=SHAPE, spectrum=Spectrum(), synthesis=SYNTHESIS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GanNetwork(config)
        if trained:
            torch.nn.init.normal_(network.synthesis.added.weight, std=0.1)
            torch.nn.init.normal_(network.synthesis.bands.weight, std=0.1)
    network.frames.mean[:] = torch.tensor([-7.0] * 80 + [5.0])
    network.frames.deviation[:] = torch.tensor([1.0] * 80 + [0.1])
    return GanVocoder("toy", "00", config, network)


@settings(deadline=None, max_examples=15)
@given(count=st.integers(1, 30), block=st.integers(1, 20))
def test_a_stream_is_the_whole(count: int, block: int) -> None:
    vocoder, units = toy(), random_units(count)
    whole = vocoder.synthesize(units)
    pieces = list(vocoder.stream(iter(units.tolist()), block))
    assert whole.shape == (640 * count,)
    assert whole.std() > 1e-4
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=2e-5)


def test_sound_is_200_ms_behind_at_most() -> None:
    check_delay(toy(), random_units(50).tolist(), 0.2)


def test_the_network_trained_is_the_network_used() -> None:
    """`Synthesis.forward`, on which it learns, against the stream, by which it speaks."""
    vocoder, units = toy(), random_units(20)
    network, outside = vocoder.network, [UNITS] * 4
    with torch.inference_mode():
        hidden = network.frames.hidden(torch.tensor([outside + units.tolist() + outside]))[:, 16:-16]
        frames, log_f0 = network.pitch_frames(network.frames.decode(hidden))
        generator = torch.Generator().manual_seed(vocoder.config.source_filter.seed)
        noise = torch.cat([torch.randn(1, 160, generator=generator) for _ in range(80)], 1)
        made = network.synthesis(hidden, frames, log_f0, noise)[0].numpy()
    np.testing.assert_allclose(vocoder.render(units), made, atol=1e-5)


def test_before_training_it_is_the_source_filter() -> None:
    vocoder, units = toy(trained=False), random_units(40)
    network, outside = vocoder.network, [UNITS] * 4
    with torch.inference_mode():
        predicted = network.frames(torch.tensor([outside + units.tolist() + outside]))[:, 16:-16]
        frames, log_f0 = (value[0].numpy() for value in network.pitch_frames(predicted))
    synthesiser = SourceFilter(Spectrum())
    filtered = [synthesiser.push(Frames(frames[:, :80], log_f0, frames[:, -1])), synthesiser.flush()]
    expected, made = np.concatenate(filtered), vocoder.render(units)
    # Another noise, so the levels of bands differ from frame to frame; on the whole they are the same.
    mels = [Spectrum().log_mel(sound).mean(0) for sound in (made, expected)]
    assert np.abs(mels[0] - mels[1]).mean() < 0.1


def test_pulses_have_unit_power_and_the_pitch_asked_for() -> None:
    log_f0 = torch.full((2, 100), float(np.log(125.0)))
    log_f0[1] = float(np.log(200.0))
    whole = Pulses(160).push(log_f0)
    assert float(whole.square().mean()) == pytest.approx(1, rel=0.02)
    places = [torch.nonzero(row > 0.9 * row.max())[:, 0] for row in whole]
    assert [round(float(place.diff().float().mean())) for place in places] == [128, 80]
    stream = Pulses(160)
    pieces = [stream.push(log_f0[:, start : start + 7]) for start in range(0, 100, 7)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=0)


def test_log_mel_is_that_of_the_analysis() -> None:
    samples = recording("LJ001-0029")[:64_000]
    torch.testing.assert_close(
        LogMel(Spectrum())(torch.from_numpy(samples)[None])[0],
        torch.from_numpy(Spectrum().log_mel(samples)),
        atol=1e-3,
        rtol=1e-3,
    )
    distance, sound = SpectralDistance(), torch.from_numpy(samples)[None]
    assert float(distance(sound, sound)) == 0
    assert float(distance(sound, -sound)) < 1e-3  # no phase
    assert float(distance(sound, 2 * sound)) > 0.8


CONFIG = TrainGanConfig(
    num_units=UNITS,
    name="sung",
    network=CONVNEXT.network,
    synthesis=SynthesisShape(dim=32, hidden=48, blocks=2),
    discriminators=DiscriminatorShape(periods=(2, 3), period_channels=(8, 16), windows=(256,), window_channels=8),
    steps=60,
    alone=0.75,
    batch=4,
    piece_units=24,
    judged_units=8,
    log_every=15,
    validate_every=30,
    held_out=0.2,
    dropout=0.0,
    optimizer=OptimizerConfig(lr=4e-3, warmup_steps=10, weight_decay=0.01, betas=(0.8, 0.99)),
    against=OptimizerConfig(lr=4e-3, warmup_steps=2, weight_decay=0.01, betas=(0.8, 0.99)),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Manifest]:
    return sung_corpus(tmp_path_factory.mktemp("sung"))


def duel_of(corpus: tuple[Manifest, Manifest], directory: Path, config: TrainGanConfig = CONFIG) -> Duel:
    analysed, _ = analyse_corpus(directory, *corpus, UNITS, "sung", lambda *_: None, with_samples=True)
    train, _ = split_corpus(analysed, config.held_out, "sung")
    _, network = build_gan(config, TOKENIZER, analysed, train)
    return make_duel(config, analysed, train, network, None)


def gradients(module: torch.nn.Module) -> dict[str, float]:
    return {name: float(value.grad.abs().sum()) for name, value in module.named_parameters() if value.grad is not None}


def test_each_side_has_its_own_gradients(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    duel = duel_of(corpus, tmp_path)
    batch = duel.batch(torch.Generator().manual_seed(0))
    duel.discriminators.requires_grad_(False)
    losses = duel.deceive(batch)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert not gradients(duel.discriminators)
    own = gradients(duel.network)
    assert own["synthesis.added.weight"] > 0
    assert own["frames.embedding.weight"] > 0
    duel.network.zero_grad(set_to_none=True)
    duel.discriminators.requires_grad_(True)
    loss = duel.tell_apart(batch)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert not gradients(duel.network)
    theirs = gradients(duel.discriminators)
    assert len(theirs) == len(list(duel.discriminators.parameters()))
    assert min(value for name, value in theirs.items() if "original1" in name) > 0


def test_discriminators_learn_to_tell_noise_from_speech() -> None:
    from lst.vocoder.gan_losses import discrimination, right_share

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judges = Discriminators(CONFIG.discriminators)
        speech = torch.from_numpy(recording("LJ001-0029")[8000:48_960]).reshape(8, 5120)
        noise = torch.randn(8, 5120) * speech.std()
        optimizer = torch.optim.Adam(judges.parameters(), lr=1e-3)
        for _ in range(60):
            optimizer.zero_grad()
            discrimination(judges(noise), judges(speech)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert float(right_share(judges(noise), judges(speech))) > 0.9


def test_features_do_not_ask_for_the_place_of_a_pulse() -> None:
    """The same pulses, half a period later, are nearer than silence; place by place they would not be."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judges = Discriminators(DiscriminatorShape())
    pulses = 0.1 * Pulses(160).push(torch.full((2, 72), float(np.log(125.0))))
    real, later = pulses[:, :10_240], pulses[:, 64 : 64 + 10_240]
    with torch.no_grad():
        truth, same, silence = judges(real), judges(later), judges(torch.zeros_like(real))
    moved, none = float(feature_distance(same, truth)), float(feature_distance(silence, truth))
    assert float(feature_distance(truth, truth)) == 0
    assert moved < 0.6 * none


def test_what_is_not_known_is_silent(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    """Pieces longer than the utterances: what discriminators hear of them lies inside, as far as there is enough."""
    duel = duel_of(corpus, tmp_path, CONFIG.model_copy(update={"piece_units": 64}))
    batch = duel.batch(torch.Generator().manual_seed(0))
    _, made, real = duel._speak(batch)
    outside = ~batch["known"].repeat_interleave(160, 1)
    assert outside.any()
    assert not made[outside].any()
    assert not real[outside].any()
    assert all(duel._judged(sound, batch).square().mean(1).min() > 1e-6 for sound in (made, real))


def test_it_learns(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    made = train_gan(*corpus, tmp_path / "vocoder", CONFIG)
    assert made.schema == "lst.vocoder/1"
    assert made.totals["log_mel_db"] < 6
    vocoder = load_vocoder(made.path, tokenizer=TOKENIZER)
    assert isinstance(vocoder, GanVocoder)
    assert vocoder.fingerprint == made.fingerprints["vocoder"]
    card = json.loads(made.file("card.json").read_text())
    assert (card["name"], card["licence"], card["steps"]) == ("sung", "CC0", 60)
    assert set(card["files"]) == {"config.json", "weights.safetensors"}  # nothing of the discriminators
    lines = [json.loads(line) for line in made.file("metrics.jsonl").read_text().splitlines()]
    valid = [line["spectra"] for line in lines if line["split"] == "valid"]
    train = {line["step"]: line for line in lines if line["split"] == "train"}
    assert len(valid) == 2
    assert valid[1] < train[15]["spectra"]
    assert "opponent_loss" not in train[45]
    assert 0 < train[60]["opponent_loss"] < 4
    assert train[60]["features"] > 0
    assert any(name.startswith("tensorboard/") for name in made.artifacts)


@pytest.mark.parametrize("at", [10, 20])
def test_a_stopped_training_goes_on(corpus: tuple[Manifest, Manifest], tmp_path: Path, at: int) -> None:
    """Stopped before there are discriminators, and after."""
    short = CONFIG.model_copy(update={"steps": 25, "alone": 0.52, "validate_every": 25, "log_every": 5})
    whole = train_gan(*corpus, tmp_path / "whole", short)

    def stop(done: int, total: int, unit: str) -> None:
        if "steps" in unit and done == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match=f"after step {at} of 25"):
        train_gan(*corpus, tmp_path / "again", short, progress=stop)
    again = train_gan(*corpus, tmp_path / "again", short)
    assert again.fingerprints == whole.fingerprints

    def lines(made: Manifest) -> list[dict[str, float]]:
        read = [json.loads(line) for line in made.file("metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "steps_per_s"} for line in read]

    assert lines(again) == lines(whole)
    assert train_gan_spec(*corpus, CONFIG).id != train_gan_spec(*corpus, short).id


def test_it_may_start_from_a_convnext_and_leave_it_alone(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    few = CONVNEXT.model_copy(update={"steps": 4, "validate_every": 4, "batch": 2})
    first = train_convnext(*corpus, tmp_path / "frames", few)
    start = str(first.path)
    config = CONFIG.model_copy(
        update={
            "steps": 4,
            "alone": 0.5,
            "start": start,
            "freeze": True,
            "listening": 0.5,
            "listener": DEFAULT_TOKENIZER,
        }
    )
    made = train_gan(*corpus, tmp_path / "frozen", config.model_copy(update={"precision": "bfloat16"}))
    frames = load_vocoder(first.path).network.state_dict()  # type: ignore[attr-defined]
    kept = load_gan(made.path, "v", "00").network
    assert all(torch.equal(value, frames[name]) for name, value in kept.frames.state_dict().items())
    assert float(kept.synthesis.added.weight.detach().abs().sum()) > 0
    line = json.loads(made.file("metrics.jsonl").read_text().splitlines()[0])
    assert line["heard"] > 0
    assert "voicing" not in line  # frames that stay as they are have no loss
    text = made.file("card.json").read_text() + (made.path / "manifest.json").read_text()
    assert start not in text
    assert json.loads(made.file("card.json").read_text())["settings"]["start"] == "sung"
    moved = train_gan(*corpus, tmp_path / "free", config.model_copy(update={"freeze": False, "listening": 0.0}))
    changed = load_gan(moved.path, "v", "00").network.frames.state_dict()
    assert not torch.equal(changed["embedding.weight"], frames["embedding.weight"])
    with pytest.raises(LstError, match="there is no start"):
        train_gan(*corpus, tmp_path / "c", CONFIG.model_copy(update={"freeze": True}))
    with pytest.raises(LstError, match="is no ConvNeXt vocoder"):
        train_gan(*corpus, tmp_path / "a", config.model_copy(update={"start": str(made.path)}))
    with pytest.raises(LstError, match=r"start: sung has speakers \(\), not \('s',\)"):
        train_gan(*corpus, tmp_path / "b", config.model_copy(update={"speakers": True}))


def test_settings_that_are_wrong() -> None:
    body = CONFIG.model_dump()
    for wrong, message in (
        ({"alone": 1.0}, "less than 1"),
        ({"own_pitch": 1.0}, "less than 1"),
        ({"weights": {"loudness": 1}}, "loudness"),
        ({"weights": {"verdict": -1}}, "greater than or equal to 0"),
    ):
        with pytest.raises(ValidationError, match=message):
            TrainGanConfig.model_validate({**body, **wrong})
    assert LossWeights().verdict == 1


def test_damaged_files(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    few = CONFIG.model_copy(update={"steps": 2, "alone": 0.5, "batch": 2, "judged_units": 100})
    made = train_gan(*corpus, tmp_path / "v", few)
    with pytest.raises(LstError, match="was made for units of the tokenizer"):
        load_vocoder(made.path, tokenizer="cd" * 32)
    with pytest.raises(LstError, match="no styles"):
        load_vocoder(made.path, style="sad")
    with pytest.raises(LstError, match="has one voice"):
        load_vocoder(made.path, speaker="ann")
    config = json.loads((made.path / "config.json").read_text())
    (made.path / "config.json").write_text(json.dumps({**config, "num_units": UNITS + 1}))
    with pytest.raises(LstError, match=r"does not have the shape that its config\.json describes"):
        load_gan(made.path, "v", "00")
    (made.path / "config.json").write_text(json.dumps({**config, "wings": 2}))
    with pytest.raises(LstError, match="wings"):
        load_gan(made.path, "v", "00")
    (made.path / "config.json").write_text(json.dumps(config))
    (made.path / "weights.safetensors").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(LstError, match="is missing or damaged"):
        load_gan(made.path, "v", "00")
