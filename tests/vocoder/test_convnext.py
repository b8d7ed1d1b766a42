"""The ConvNeXt vocoder: streaming, look-ahead, training, and files that are wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.constants import DEFAULT_TOKENIZER
from lst.errors import LstError
from lst.manifest import Manifest, sha256_file, write_json
from lst.train.config import OptimizerConfig
from lst.units import load_tokenizer
from lst.units.loading import identify_tokenizer
from lst.vocoder import load_vocoder
from lst.vocoder.convnext import (
    LEAD,
    ConvnextConfig,
    ConvnextVocoder,
    Network,
    NetworkShape,
    NetworkStream,
    load_convnext,
)
from lst.vocoder.convnext_train import TrainConvnextConfig, train_convnext, train_convnext_spec
from lst.vocoder.fitting import analyse
from lst.vocoder.listening import open_listener
from lst.vocoder.loading import FILES, fingerprint_of
from lst.vocoder.pitch import estimate_pitch
from lst.vocoder.spectrum import Spectrum
from tests.align.speech import recording
from tests.vocoder.corpora import sung_corpus, tone_of, units_manifest
from tests.vocoder.toys import TOKENIZER, UNITS, check_delay

SHAPE = NetworkShape(dim=16, hidden=32, unit_blocks=4, frame_blocks=2, frame_hidden=24, kernel=5)


def toy(shape: NetworkShape = SHAPE, speakers: tuple[str, ...] = ()) -> ConvnextVocoder:
    config = ConvnextConfig(tokenizer=TOKENIZER, num_units=UNITS, network=shape, speakers=speakers, spectrum=Spectrum())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(config)
    network.mean[:] = torch.tensor([0.0] * 80 + [5.0])
    network.deviation[:] = torch.tensor([1.0] * 80 + [0.1])
    return ConvnextVocoder("toy", "00", config, network)


def random_units(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, UNITS, count)


@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 40), block=st.integers(1, 30), lookahead=st.integers(0, LEAD), blocks=st.integers(1, 5))
def test_a_stream_is_the_whole(count: int, block: int, lookahead: int, blocks: int) -> None:
    shape = SHAPE.model_copy(update={"lookahead": lookahead, "unit_blocks": blocks})
    vocoder, units = toy(shape), random_units(count)
    whole = vocoder.synthesize(units)
    pieces = list(vocoder.stream(iter(units.tolist()), block))
    assert whole.shape == (640 * count,)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=4e-4)


def test_no_click_where_pieces_meet() -> None:
    """The steps from sample to sample at borders of pieces are those of the waveform elsewhere."""
    vocoder, units = toy(), random_units(100)
    pieces = list(vocoder.stream(units.tolist(), 10))
    whole = np.concatenate(pieces)
    borders = np.cumsum([len(piece) for piece in pieces])[:-1]
    borders = borders[(borders > 1000) & (borders < len(whole) - 1000)]
    steps = np.abs(np.diff(whole))
    assert len(borders) >= 8
    assert steps[borders - 1].max() <= np.quantile(steps, 0.999)


@pytest.mark.parametrize("lookahead", [0, 1, 3, LEAD])
def test_frames_wait_for_the_look_ahead_and_no_more(lookahead: int) -> None:
    vocoder = toy(SHAPE.model_copy(update={"lookahead": lookahead}))
    units = random_units(30)
    before = vocoder.frames(units).log_mel
    changed = units.copy()
    changed[20] = (changed[20] + 1) % UNITS
    moved = (vocoder.frames(changed).log_mel != before).any(1)
    assert np.flatnonzero(moved)[0] // 4 == 20 - lookahead


def test_sound_is_200_ms_behind_at_most() -> None:
    check_delay(toy(), random_units(50).tolist(), 0.2)


def test_the_network_trained_is_the_network_used() -> None:
    """`Network.forward`, on which it learns, against the stream, by which it speaks."""
    vocoder = toy()
    units = random_units(20)
    padded = [UNITS] * LEAD + units.tolist() + [UNITS] * LEAD
    with torch.inference_mode():
        whole = vocoder.network(torch.tensor([padded]))[0, : -4 * LEAD]
        stream = NetworkStream(vocoder.network, None)
        pieces = [stream.push(padded[start : start + 3]) for start in range(0, len(padded), 3)]
    streamed = torch.cat(pieces)[: len(whole)]
    torch.testing.assert_close(streamed, whole, atol=1e-5, rtol=1e-4)


def test_voices_differ(tmp_path: Path) -> None:
    vocoder = toy(speakers=("ann", "bob"))
    directory = save(tmp_path / "v", vocoder)
    assert not np.allclose(
        load_vocoder(directory, speaker="bob").synthesize([1, 2, 3]),
        load_vocoder(directory, speaker="ann").synthesize([1, 2, 3]),
    )
    np.testing.assert_array_equal(
        load_vocoder(directory, speaker="0").synthesize([1, 2]), load_vocoder(directory).synthesize([1, 2])
    )
    with pytest.raises(LstError, match="no speaker 'carl'") as wrong:
        load_vocoder(directory, speaker="carl")
    assert "ann, bob" in (wrong.value.hint or "")
    single = save(tmp_path / "s", toy())
    with pytest.raises(LstError, match="has one voice"):
        load_vocoder(single, speaker="ann")
    with pytest.raises(LstError, match="no styles"):
        load_vocoder(single, style="sad")


def save(directory: Path, vocoder: ConvnextVocoder) -> Path:
    from safetensors.torch import save_file

    directory.mkdir()
    save_file(vocoder.network.state_dict(), directory / "weights.safetensors")
    write_json(directory / "config.json", vocoder.config.model_dump(mode="json"))
    digests = {file: sha256_file(directory / file) for file in FILES["convnext"]}
    card = {"name": "toy", "kind": "vocoder", "version": "1", "licence": "none", "source": "test", "description": ""}
    card |= {"files": {file: {"sha256": digest} for file, digest in digests.items()}, "tokenizer": TOKENIZER}
    write_json(directory / "card.json", {**card, "fingerprint": fingerprint_of("convnext", digests)})
    return directory


def test_units_it_does_not_have_are_refused(tmp_path: Path) -> None:
    vocoder = toy()
    with pytest.raises(LstError, match=rf"Unit {UNITS} at place 1 is outside 0 to {UNITS - 1}"):
        vocoder.synthesize([0, UNITS])
    with pytest.raises(LstError, match=f"Unit {UNITS}"):
        list(vocoder.stream([0, UNITS]))
    with pytest.raises(LstError, match="no units"):
        list(vocoder.stream([]))
    with pytest.raises(LstError, match="was made for units of the tokenizer"):
        load_vocoder(save(tmp_path / "v", vocoder), tokenizer="cd" * 32)


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    directory = save(tmp_path / "v", toy())
    weights = (directory / "weights.safetensors").read_bytes()
    (directory / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(LstError, match=r"does not match the sha256 of its card"):
        load_vocoder(directory)
    with pytest.raises(LstError, match="is missing or damaged"):
        load_convnext(directory, "toy", "00")
    # A pickle with code in it, under the name of the weights: never opened as one.
    trap = tmp_path / "trap"
    (directory / "weights.safetensors").write_bytes(b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR.")
    with pytest.raises(LstError, match="is missing or damaged"):
        load_convnext(directory, "toy", "00")
    assert not trap.exists()
    (directory / "weights.safetensors").write_bytes(weights)
    config = json.loads((directory / "config.json").read_text())
    write_json(directory / "config.json", {**config, "num_units": UNITS + 1})
    with pytest.raises(LstError, match=r"does not have the shape that its config\.json describes"):
        load_convnext(directory, "toy", "00")
    write_json(directory / "config.json", {**config, "wings": 2})
    with pytest.raises(LstError, match="wings"):
        load_convnext(directory, "toy", "00")


CONFIG = TrainConvnextConfig(
    num_units=UNITS,
    name="sung",
    network=SHAPE.model_copy(update={"dim": 48, "hidden": 64, "frame_hidden": 48}),
    steps=150,
    batch=8,
    piece_units=24,
    log_every=25,
    validate_every=50,
    held_out=0.2,
    dropout=0.0,
    optimizer=OptimizerConfig(lr=4e-3, warmup_steps=10, weight_decay=0.01),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Manifest]:
    return sung_corpus(tmp_path_factory.mktemp("sung"))


def test_it_learns_the_sound_of_every_unit(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    made = train_convnext(*corpus, tmp_path / "vocoder", CONFIG)
    assert made.schema == "lst.vocoder/1"
    assert made.totals["log_mel_db"] < 6
    assert made.totals["f0_semitones"] < 2
    vocoder = load_vocoder(made.path, tokenizer=TOKENIZER)
    assert vocoder.fingerprint == made.fingerprints["vocoder"]
    for unit in (1, 6, 11):
        samples = vocoder.synthesize(np.repeat([0, 5, unit, 9, 3], 4))
        pitch = estimate_pitch(samples, 160)[34:46]
        assert abs(12 * np.log2(np.median(pitch) / tone_of(unit)[0])) < 2
    card = json.loads(made.file("card.json").read_text())
    assert (card["name"], card["licence"], card["steps"]) == ("sung", "CC0", 150)
    assert card["numbers"]["log_mel_db"] == made.totals["log_mel_db"]
    lines = [json.loads(line) for line in made.file("metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "valid"] == [50, 100, 150]
    assert any(name.startswith("tensorboard/") for name in made.artifacts)


def test_a_stopped_training_goes_on(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    import os
    import signal

    from lst.train.control import TrainingStopped

    short = CONFIG.model_copy(update={"steps": 30, "validate_every": 25})
    whole = train_convnext(*corpus, tmp_path / "whole", short)

    def stop(done: int, total: int, unit: str) -> None:
        if "steps" in unit and done == 25:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match="after step 25 of 30"):
        train_convnext(*corpus, tmp_path / "again", short, progress=stop)
    again = train_convnext(*corpus, tmp_path / "again", short)
    assert again.fingerprints == whole.fingerprints
    assert train_convnext_spec(*corpus, CONFIG).id != train_convnext_spec(*corpus, short).id


def test_a_killed_analysis_goes_on(
    corpus: tuple[Manifest, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lst.vocoder.convnext_corpus as module

    def tell(done: int, total: int, unit: str) -> None:
        return None

    whole, _ = module.analyse_corpus(tmp_path / "whole", *corpus, UNITS, "sung", tell)

    def kill(done: int, total: int, unit: str) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module.analyse_corpus(tmp_path / "again", *corpus, UNITS, "sung", kill)
    for name, torn in {"index.jsonl": b'{"id": "te', "units.i64": b"123", "frames.f16": b"x" * 1001}.items():
        with (tmp_path / "again" / name).open("ab") as file:
            file.write(torn)
    analysed: list[int] = []
    original = module.analysed_utterances

    def counted(*arguments: object, **more: object) -> "object":
        for utterance in original(*arguments, **more):  # type: ignore[arg-type]
            analysed.append(1)
            yield utterance

    monkeypatch.setattr(module, "analysed_utterances", counted)
    again, _ = module.analyse_corpus(tmp_path / "again", *corpus, UNITS, "sung", tell)
    assert len(analysed) == len(whole) - 7
    assert again.ids == whole.ids
    np.testing.assert_array_equal(again.units, whole.units)
    np.testing.assert_array_equal(again.frames, whole.frames)


def test_a_listener_hears_frames_as_it_hears_sound() -> None:
    """Units of the frames of a recording are mostly those of the recording itself."""
    samples = recording("LJ001-0029")
    samples = samples[: len(samples) // 640 * 640]
    tokenizer = load_tokenizer(DEFAULT_TOKENIZER)
    units = tokenizer.encode(samples)
    listener = open_listener(identify_tokenizer(DEFAULT_TOKENIZER), Spectrum())
    frames = torch.from_numpy(analyse(samples, len(units), Spectrum()).log_mel)[None]
    with torch.inference_mode():
        heard = tokenizer.quantizer.codes(listener(frames)[-1][0].numpy())
    assert (heard == units).mean() > 0.8


def test_what_sounds_different_is_heard_and_what_does_not_count_is_not() -> None:
    listener = open_listener(identify_tokenizer(DEFAULT_TOKENIZER), Spectrum())
    samples = recording("LJ001-0029")[:64_000]
    true = torch.from_numpy(analyse(samples, 100, Spectrum()).log_mel)[None]
    known = torch.ones(1, 400, dtype=torch.bool)
    assert float(listener.difference(true, true, known)) == 0
    assert float(listener.difference(true + 0.5, true, known)) < 0.02  # loudness says nothing of the phone
    predicted = true.flip(2).requires_grad_()
    difference = listener.difference(predicted, true, known)
    assert float(difference) > 0.5
    difference.backward()  # type: ignore[no-untyped-call]
    assert predicted.grad is not None
    assert float(predicted.grad.abs().sum()) > 0
    known[:, 200:] = False
    half = torch.cat([true[:, :200], true[:, 200:].flip(2)], 1)
    assert float(listener.difference(half, true, known)) == 0


def test_training_may_listen(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    changes = {"steps": 4, "validate_every": 2, "batch": 2, "listening": 0.5, "precision": "bfloat16"}
    config = CONFIG.model_copy(update=changes)
    with pytest.raises(LstError, match=r"No asset is the tokenizer of .*fingerprint abababababab.* as `listener`"):
        train_convnext(*corpus, tmp_path / "none", config)
    deaf = config.model_copy(update={"listener": "mfcc-501"})
    with pytest.raises(LstError, match=r"mfcc-501 \(mfcc\) has no network that could listen"):
        train_convnext(*corpus, tmp_path / "deaf", deaf)
    named = config.model_copy(update={"listener": DEFAULT_TOKENIZER})
    directory = identify_tokenizer(DEFAULT_TOKENIZER).directory
    placed = config.model_copy(update={"listener": str(directory)})
    assert train_convnext_spec(*corpus, named).id == train_convnext_spec(*corpus, placed).id
    made = train_convnext(*corpus, tmp_path / "vocoder", placed)
    lines = [json.loads(line) for line in made.file("metrics.jsonl").read_text().splitlines()]
    assert all(line["heard"] > 0 for line in lines)
    assert str(directory) not in made.file("card.json").read_text() + (made.path / "manifest.json").read_text()
    assert json.loads(made.file("card.json").read_text())["settings"]["listener"] == DEFAULT_TOKENIZER


def test_what_cannot_be_trained(corpus: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    from lst.manifest import iter_rows

    units, audio = corpus
    first = next(iter_rows(units))
    little = units_manifest(tmp_path / "little", {first["id"]: first["units"]}, audio=audio)
    with pytest.raises(LstError, match=r"has 1\.6 s of usable speech, too little"):
        train_convnext(little, audio, tmp_path / "a", CONFIG)
    with pytest.raises(LstError, match=r"is outside 0 to 3, the units of the vocoder sung"):
        train_convnext(units, audio, tmp_path / "b", CONFIG.model_copy(update={"num_units": 4}))


def test_silent_recordings_teach_nothing(tmp_path: Path) -> None:
    from tests.units.corpus import audio_manifest

    random = np.random.default_rng(0)
    sounds = [np.zeros(64_000, np.float32), np.full(64_000, 0.3, np.float32)]
    sounds += [0.1 * random.standard_normal(64_000).astype(np.float32) for _ in range(12)]
    audio = audio_manifest(tmp_path, sounds, per_shard=20)
    from lst.manifest import iter_rows

    rows = {row["id"]: [1] * 100 for row in iter_rows(audio)}
    units = units_manifest(tmp_path / "units", rows, audio=audio)
    config = CONFIG.model_copy(update={"steps": 1, "batch": 1})
    made = train_convnext(units, audio, tmp_path / "vocoder", config)
    assert made.rejected == {"audio-silent": 2}
