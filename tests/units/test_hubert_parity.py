"""Our HuBERT features against Hugging Face's and torchaudio's, on the same random weights in the published forms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.models.wav2vec2.utils import import_huggingface_model
from transformers import Wav2Vec2FeatureExtractor

from lst.errors import LstError
from lst.units import load_tokenizer
from lst.units.hubert import HubertEncoder, build, load_hubert
from lst.units.spec import HubertSpec, read_spec
from tests.units.tiny import (
    DIM,
    STEM,
    STEM_25HZ,
    hidden_states,
    save_huggingface,
    save_spirit_lm,
    speechlike,
    tiny_hubert,
)

AUDIO = speechlike(16000 * 3 // 2 + 17)


@pytest.fixture
def any_stride(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 50 Hz networks through, to compare them too."""
    monkeypatch.setattr("lst.units.checkpoints._check_stride", lambda path, architecture: None)


def encoder_of(directory: Path, layer: int) -> HubertEncoder:
    spec = read_spec(directory).encoder
    assert isinstance(spec, HubertSpec)
    return load_hubert(spec.model_copy(update={"layer": layer}), directory, "cpu")


def largest_difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first - second).max())


@pytest.mark.parametrize("form", ["spirit-lm", "safetensors", "bin"])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_features_equal_those_of_hugging_face_at_25_hz(tmp_path: Path, form: str, layer: int) -> None:
    model = tiny_hubert()
    directory = tmp_path / "checkpoint"
    if form == "spirit-lm":
        save_spirit_lm(model, directory)
    else:
        save_huggingface(model, directory, safe=form == "safetensors")
    encoder = encoder_of(directory, layer)
    features = encoder.features(AUDIO)
    assert features.shape == (encoder.num_frames(len(AUDIO)), DIM)
    assert largest_difference(features, hidden_states(model, AUDIO, layer)) < 1e-4
    assert np.abs(features).mean() > 0.1


@pytest.mark.usefixtures("any_stride")
@pytest.mark.parametrize("form", ["spirit-lm", "safetensors"])
@pytest.mark.parametrize("stem", [STEM, STEM_25HZ], ids=["50hz", "25hz"])
@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
def test_features_equal_those_of_torchaudio(
    tmp_path: Path, form: str, stem: list[tuple[int, int, int]], large: bool
) -> None:
    model = tiny_hubert(stem=stem, large=large)
    reference = import_huggingface_model(model).eval()
    save = save_spirit_lm if form == "spirit-lm" else save_huggingface
    encoder = encoder_of(save(model, tmp_path / "checkpoint"), 2)
    with torch.inference_mode():
        layers, _ = reference.extract_features(torch.from_numpy(AUDIO)[None], num_layers=2)
    assert largest_difference(encoder.features(AUDIO), layers[1][0].numpy()) < 1e-4


def test_last_layer_of_a_norm_first_network_follows_the_form(tmp_path: Path) -> None:
    """Hugging Face closes with a layer norm after the last layer; fairseq-1 leaves it out whenever a layer is named."""
    model = tiny_hubert(large=True)
    huggingface = encoder_of(save_huggingface(model, tmp_path / "hf"), 3).features(AUDIO)
    assert largest_difference(huggingface, hidden_states(model, AUDIO, 3)) < 1e-4
    fairseq = encoder_of(save_spirit_lm(model, tmp_path / "fairseq"), 3).features(AUDIO)
    with torch.inference_mode():
        closed = model.encoder.layer_norm(torch.from_numpy(fairseq)).numpy()
    assert largest_difference(fairseq, huggingface) > 0.1
    assert largest_difference(closed, huggingface) < 1e-4


@pytest.mark.parametrize("normalize", [True, False])
def test_input_is_normalised_if_the_checkpoint_says_so(tmp_path: Path, normalize: bool) -> None:
    model = tiny_hubert(large=True)  # (group norm would hide the scale of the input)
    audio = AUDIO * 0.3 + 0.01
    as_fairseq = (audio - audio.mean()) / np.sqrt(audio.var() + 1e-5) if normalize else audio
    spirit = encoder_of(save_spirit_lm(model, tmp_path / "a", normalize=normalize), 2)
    assert largest_difference(spirit.features(audio), hidden_states(model, as_fairseq.astype(np.float32), 2)) < 1e-3
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    as_transformers = extractor(audio, sampling_rate=16000, return_tensors="np").input_values[0]
    huggingface = encoder_of(save_huggingface(model, tmp_path / "b", normalize=normalize), 2)
    assert largest_difference(huggingface.features(audio), hidden_states(model, as_transformers, 2)) < 1e-3
    unscaled = encoder_of(save_huggingface(model, tmp_path / "c"), 2)
    assert largest_difference(unscaled.features(audio), hidden_states(model, audio, 2)) < 1e-3
    assert (largest_difference(unscaled.features(audio), huggingface.features(audio)) > 0.1) == normalize


def test_normalisation_can_be_decided_in_the_spec(tmp_path: Path) -> None:
    model = tiny_hubert(large=True)
    directory = save_spirit_lm(model, tmp_path / "a", normalize=True)
    spec = read_spec(directory).encoder
    assert isinstance(spec, HubertSpec)
    forced = load_hubert(spec.model_copy(update={"normalize": False}), directory, "cpu")
    assert largest_difference(forced.features(AUDIO), hidden_states(model, AUDIO, 2)) < 1e-4


def test_hugging_face_projects_even_between_equal_widths(tmp_path: Path) -> None:
    model = tiny_hubert(stem=[(DIM, kernel, stride) for _, kernel, stride in STEM_25HZ])
    encoder = encoder_of(save_huggingface(model, tmp_path / "hf"), 2)
    assert largest_difference(encoder.features(AUDIO), hidden_states(model, AUDIO, 2)) < 1e-4


def test_a_missing_gpu_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    directory = save_spirit_lm(tiny_hubert(), tmp_path / "a")
    with pytest.raises(LstError, match="no CUDA device"):
        load_tokenizer(directory, device="cuda")


def test_only_the_layers_needed_are_built(tmp_path: Path) -> None:
    from lst.units.checkpoints import read_fairseq

    directory = save_spirit_lm(tiny_hubert(), tmp_path / "a")
    frontend, encoder = build(read_fairseq(directory / "mhubert_base_25hz.pt"), 2)
    assert len(encoder.layers) == 2
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in encoder.parameters())
    assert not frontend.training


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 719, 720, 1359, 1360, 16000, 16080])
def test_number_of_frames_is_exact(tmp_path: Path, samples: int) -> None:
    encoder = encoder_of(save_spirit_lm(tiny_hubert(), tmp_path / "a"), 1)
    frames = len(encoder.features(speechlike(max(samples, 1))[:samples]))
    assert frames == encoder.num_frames(samples)
    expected = 0 if samples < 400 else max(1, (samples - 80) // 640)
    assert frames == expected
    if frames:
        assert encoder.num_frames(encoder.num_samples(frames)) == frames
        assert encoder.num_frames(encoder.num_samples(frames + 1) - 1) == frames


def test_threads_do_not_change_features(tmp_path: Path) -> None:
    encoder = encoder_of(save_spirit_lm(tiny_hubert(), tmp_path / "a"), 2)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(encoder.features(AUDIO))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(results[0], results[1])


def test_a_layer_beyond_the_last_is_refused(tmp_path: Path) -> None:
    directory = save_spirit_lm(tiny_hubert(), tmp_path / "a")
    with pytest.raises(LstError, match="has 3 layers, but the tokenizer asks for layer 7"):
        encoder_of(directory, 7)


@pytest.mark.gpu
def test_gpu_features_are_close(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    directory = save_spirit_lm(tiny_hubert(), tmp_path / "a")
    spec = read_spec(directory).encoder
    assert isinstance(spec, HubertSpec)
    cpu, gpu = (load_hubert(spec, directory, device).features(AUDIO) for device in ("cpu", "cuda"))
    assert largest_difference(cpu, gpu) < 1e-3
