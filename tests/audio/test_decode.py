"""Decoding and resampling: every format, any rate, in any chunks, from any place."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.audio import AudioError, probe, read_audio, stream_audio
from lst.audio.decode import native_blocks
from lst.audio.resample import Ratio
from tests.audio.conftest import voice, write

FORMATS = [("wav", 16_000), ("wav", 44_100), ("flac", 22_050), ("ogg", 44_100), ("opus", 48_000), ("mp3", 32_000)]


def collect(path, **arguments):
    return np.concatenate(list(stream_audio(path, **arguments)))


@pytest.mark.parametrize(("extension", "rate"), FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_becomes_16_khz_mono(tmp_path, extension, rate, channels):
    wave = voice(1.5, rate, channels)
    path = write(tmp_path / f"a.{extension}", wave, rate)
    info = probe(path)
    samples = read_audio(path)
    assert (info.sample_rate, info.channels, info.frames) == (rate, channels, len(wave))
    assert samples.dtype == np.float32
    assert samples.shape == (24_000,)
    reference = read_audio(write(tmp_path / "reference.wav", wave, rate, "FLOAT"))
    correlation = np.corrcoef(samples, reference)[0, 1]
    assert correlation > 0.99


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000])
def test_resampling_is_torchaudios(tmp_path, rate):
    import torch
    import torchaudio.functional

    wave = voice(0.7, rate)
    path = write(tmp_path / "a.wav", wave, rate, "FLOAT")
    reference = torchaudio.functional.resample(torch.from_numpy(wave[:, 0].copy()), rate, 16_000).numpy()
    np.testing.assert_allclose(read_audio(path), reference, atol=1e-6)


def test_a_rate_without_common_factor_uses_the_same_filter(tmp_path):
    rng = np.random.default_rng(0)
    for rate in (8_000, 22_050, 44_100):
        ratio = Ratio.of(rate, 16_000)
        window = rng.standard_normal((12 + 2 * ratio.margin) * ratio.orig).astype(np.float32)
        # torchaudio computes its coefficients in float32, which shows at 1e-4 for long banks.
        np.testing.assert_allclose(ratio._direct(window), ratio.resample(window), atol=3e-4)
    path = write(tmp_path / "a.wav", voice(1.2, 44_101), 44_101, "FLOAT")
    nearby = write(tmp_path / "b.wav", voice(1.2, 44_100), 44_100, "FLOAT")
    samples = read_audio(path)
    assert len(samples) == probe(path).samples == 19_200
    assert np.corrcoef(samples, read_audio(nearby))[0, 1] > 0.99
    np.testing.assert_allclose(collect(path, chunk_s=0.21), samples, atol=1e-6)
    np.testing.assert_allclose(read_audio(path, offset_s=0.5, duration_s=0.25), samples[8_000:12_000], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_chunks_and_parts_equal_the_whole(tmp_path_factory, data):
    extension, rate = data.draw(st.sampled_from(FORMATS))
    folder = tmp_path_factory.getbasetemp() / "parts"
    path = folder / f"{rate}.{extension}"
    if not path.is_file():
        write(path, voice(2.3, rate, seed=rate), rate)
    whole = read_audio(path)
    chunk = data.draw(st.floats(0.02, 5.0))
    np.testing.assert_allclose(collect(path, chunk_s=chunk), whole, atol=2e-6)
    offset = data.draw(st.floats(0.0, 2.29))
    duration = data.draw(st.one_of(st.none(), st.floats(0.001, 3.0)))
    part = read_audio(path, offset_s=offset, duration_s=duration)
    start = round(offset * 16_000)
    np.testing.assert_allclose(part, whole[start : start + len(part)], atol=2e-6)
    if duration is None:
        assert len(part) == len(whole) - start


def test_chunks_have_the_asked_length(tmp_path):
    path = write(tmp_path / "a.wav", voice(2.3, 44_100), 44_100)
    assert [len(chunk) for chunk in stream_audio(path, chunk_s=0.5)] == [8_000] * 4 + [4_800]


def speech_like(seconds: float, rate: int) -> np.ndarray:
    """Noise whose level and colour change all the time: hard for codecs that predict, unlike a steady buzz."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(round(seconds * rate))
    level = np.repeat(rng.uniform(0.0, 0.2, len(noise) // 800 + 1) ** 1.5, 800)[: len(noise)]
    colour = np.repeat(rng.integers(1, 12, len(noise) // 1600 + 1), 1600)[: len(noise)]
    smooth = np.cumsum(noise) - np.cumsum(noise)[np.maximum(np.arange(len(noise)) - colour, 0)]
    return (smooth * level).astype(np.float32)[:, None]


@pytest.mark.parametrize("extension", ["mp3", "ogg", "opus"])
def test_seeking_is_exact_in_codecs_with_a_memory(tmp_path, extension, capfd):
    path = write(tmp_path / f"a.{extension}", speech_like(24.0, 16_000))
    whole, _ = soundfile.read(path, dtype="float32")
    for start in [*range(0, len(whole) - 5000, 30_011), *range(len(whole) - 4_500, len(whole), 1_371)]:
        part = np.concatenate(list(native_blocks(path, start, start + 5000)))[:, 0]
        np.testing.assert_allclose(part, whole[start : start + 5000], atol=2e-6)
    assert capfd.readouterr().err == ""


def test_eight_channels_are_averaged(tmp_path):
    wave = np.zeros((16_000, 8), dtype=np.float32)
    wave[:, 3] = voice(1.0)[:, 0]
    samples = read_audio(write(tmp_path / "a.wav", wave, subtype="FLOAT"))
    np.testing.assert_allclose(samples, wave[:, 3] / 8, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.wav", None, "audio-missing"),
        ("empty.wav", b"", "audio-empty"),
        ("text.wav", b"this is not audio at all, whatever its name says", "audio-unreadable"),
        ("text.mp3", b"neither is this" * 100, "audio-unreadable"),
        ("headerless.raw", b"\x00\x01" * 100, "audio-unreadable"),
    ],
)
def test_what_is_not_audio_has_a_reason(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for use in (probe, read_audio):
        with pytest.raises(AudioError) as caught:
            use(path)
        assert caught.value.reason == reason
        assert name in str(caught.value)


def test_a_directory_is_no_recording(tmp_path):
    with pytest.raises(AudioError, match="not a regular file"):
        probe(tmp_path)


def test_no_samples_and_one_sample(tmp_path):
    empty = write(tmp_path / "empty.wav", np.zeros((0, 1), dtype=np.float32))
    with pytest.raises(AudioError) as caught:
        read_audio(empty)
    assert caught.value.reason == "audio-empty"
    for rate in (16_000, 8_000, 44_100):
        one = write(tmp_path / f"{rate}.wav", np.full((1, 1), 0.5, dtype=np.float32), rate)
        assert len(read_audio(one)) == probe(one).samples in (1, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_no_samples(tmp_path, value):
    wave = voice(0.5).astype(np.float64)
    wave[5_000] = value
    path = write(tmp_path / "a.wav", wave, subtype="DOUBLE")
    with pytest.raises(AudioError) as caught, np.errstate(over="ignore"):
        read_audio(path)
    assert caught.value.reason == "not-finite"


@pytest.mark.parametrize("extension", ["flac", "mp3", "ogg", "opus"])
def test_half_a_file_is_not_taken_for_a_whole_one(tmp_path, extension, capfd):
    path = write(tmp_path / f"a.{extension}", voice(3.0))
    whole = len(read_audio(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if extension in ("ogg", "opus"):  # no length in the header: half of it is a shorter recording
        assert 0 < len(read_audio(path)) < whole
        return
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert caught.value.reason in ("audio-unreadable", "audio-truncated")


def test_a_part_outside_the_recording(tmp_path):
    path = write(tmp_path / "a.wav", voice(1.0))
    with pytest.raises(AudioError) as caught:
        read_audio(path, offset_s=1.0)
    assert caught.value.reason == "outside-audio"
    assert len(read_audio(path, offset_s=0.75, duration_s=9.0)) == 4_000


def test_errors_survive_a_process_boundary():
    import pickle

    error = pickle.loads(pickle.dumps(AudioError("what", reason="silent", hint="do")))
    assert (str(error), error.reason) == ("what do", "silent")


def test_long_recordings_stream_in_bounded_memory(tmp_path):
    import tracemalloc

    path = write(tmp_path / "a.wav", voice(120.0, 22_050), 22_050)
    list(stream_audio(path, chunk_s=1.0, duration_s=2.0))  # imports
    tracemalloc.start()
    total = sum(len(chunk) for chunk in stream_audio(path, chunk_s=1.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 120 * 16_000
    assert peak < 6e6  # the whole would be 7.7 MB here, and 2.3 GB for ten hours
