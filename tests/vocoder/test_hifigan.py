"""Unit HiFi-GAN checkpoints: parity with a separate reference, and every way in which files can be wrong."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lst.errors import LstError
from lst.vocoder import check_handshake, load_vocoder, vocoder_fingerprint
from lst.vocoder.hifigan_files import HifiGanVocoder, load_hifigan
from tests.vocoder.hifigan_reference import config, random_state, reference, reference_durations, save_checkpoint

DURATIONS = {
    "dur_predictor_params": {
        "encoder_embed_dim": 16,
        "var_pred_hidden_dim": 8,
        "var_pred_kernel_size": 3,
        "var_pred_dropout": 0.5,
    }
}
UNITS = [17, 17, 402, 3, 3, 3, 99, 500, 0, 250]


def load(directory: Path, **options: Any) -> HifiGanVocoder:
    return load_hifigan(directory, "test", "00", **options)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resblock": "2", "resblock_dilation_sizes": [[1, 3], [1, 3]]},
        {"multispkr": "from_input_file", "multistyle": "from_input_file"},
        {"upsample_rates": [5, 4, 4, 2, 2, 2], "upsample_kernel_sizes": [11, 8, 8, 4, 4, 4], **DURATIONS},
        {"num_f0_tokens": 64, "f0_hop_size": 2560, "num_style_tokens": 100, "style_hop_size": 16000,
         "multispkr": "parent_name"},
    ],
)  # fmt: skip
def test_parity_with_the_reference(tmp_path: Path, changes: dict[str, Any]) -> None:
    body = config(**changes)
    state = random_state(body)
    vocoder = load(
        save_checkpoint(tmp_path, body, state),
        speaker="2" if body.get("multispkr") else "",
        style="1" if body.get("multistyle") else "",
    )
    codes: dict[str, Any] = {}
    given: dict[str, Any] = {}
    if body.get("num_f0_tokens"):
        given = {"f0_codes": [5, 9, 63], "style_codes": [7]}
        codes = {"f0_codes": np.repeat(given["f0_codes"], 4)[:10], "style_codes": [7] * 10}
    expected = reference(body, state, UNITS, speaker=2, style=1, **codes).numpy()[: 640 * len(UNITS)]
    assert expected.std() > 0.01
    made = vocoder.render_with_codes(np.array(UNITS), **given)
    assert made.shape == (6400,)
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_both_spellings_of_weight_normalisation(tmp_path: Path) -> None:
    body = config()
    state = random_state(body)
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for name, value in state.items()
    }
    old, new = save_checkpoint(tmp_path / "old", body, state), save_checkpoint(tmp_path / "new", body, renamed)
    np.testing.assert_array_equal(load(old).synthesize(UNITS), load(new).synthesize(UNITS))


def test_long_input_in_blocks_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting with the receptive field as overlap changes nothing."""
    import lst.vocoder.hifigan_files as module

    vocoder = load(save_checkpoint(tmp_path, config(), random_state(config())))
    units = np.random.default_rng(0).integers(0, 501, 70)
    whole = vocoder.render(units)
    monkeypatch.setattr(module, "BLOCK", 23)
    np.testing.assert_allclose(vocoder.render(units), whole, atol=1e-5)


def test_length_and_ends(tmp_path: Path) -> None:
    vocoder = load_vocoder(save_checkpoint(tmp_path / "gan", config(), random_state(config())))
    assert (vocoder.name, vocoder.num_units, vocoder.tokenizer_fingerprint) == ("gan", 501, "")
    samples = vocoder.synthesize(UNITS)
    assert samples.shape == (6400,)
    assert abs(samples[0]) < 1e-3
    with pytest.raises(LstError, match="Unit 501 at place 1"):
        vocoder.synthesize([0, 501])
    with pytest.raises(LstError, match="no units"):
        vocoder.synthesize([])


def test_durations_of_units_without_repeats(tmp_path: Path) -> None:
    body = config(**DURATIONS)
    state = random_state(body)
    state["dur_predictor.proj.bias"] += 1.0
    vocoder = load(save_checkpoint(tmp_path / "gan", body, state))
    once = [17, 402, 3, 99, 500, 0, 250]
    durations = reference_durations(state, once)
    assert len(set(durations)) > 1
    made = vocoder.synthesize_deduplicated(UNITS)
    assert made.shape == (640 * sum(durations),)
    np.testing.assert_array_equal(made, vocoder.synthesize(np.repeat(once, durations)))
    plain = load(save_checkpoint(tmp_path / "plain", config(), random_state(config())))
    with pytest.raises(LstError, match="no duration predictor"):
        plain.synthesize_deduplicated(UNITS)


def test_speakers_and_styles_by_name(tmp_path: Path) -> None:
    body = config(multispkr="from_input_file", multistyle="from_input_file")
    directory = save_checkpoint(tmp_path, body, random_state(body))
    (directory / "speakers.txt").write_text("ex01\nex02\nlj\nvctk\n")
    (directory / "styles.txt").write_text("default\nhappy\nsad\n")
    assert load(directory).speaker == 0
    chosen = load(directory, speaker="lj", style="happy")
    assert (chosen.speaker, chosen.style) == (2, 1)
    assert not np.allclose(chosen.synthesize(UNITS), load(directory).synthesize(UNITS))
    with pytest.raises(LstError, match=r"no speaker 'ex09'.*ex01, ex02, lj, vctk"):
        load(directory, speaker="ex09")
    with pytest.raises(LstError, match="no style '3'"):
        load(directory, style="3")
    plain = save_checkpoint(tmp_path / "plain", config(), random_state(config()))
    with pytest.raises(LstError, match="no speaker to choose"):
        load(plain, speaker="lj")


def test_expressive_codes_are_asked_for(tmp_path: Path) -> None:
    body = config(num_f0_tokens=64, f0_hop_size=2560)
    vocoder = load(save_checkpoint(tmp_path, body, random_state(body)))
    with pytest.raises(LstError, match="needs pitch codes beside the units"):
        vocoder.synthesize(UNITS)
    with pytest.raises(LstError, match="1 pitch codes do not fit 10 units"):
        vocoder.render_with_codes(np.array(UNITS), f0_codes=[3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"upsample_rates": [5, 4, 4, 2, 2], "code_hop_size": 320},
            r"makes 16000 Hz from 50 units/s \(upsample_rates multiply to 320\).*25 per second of 16000 Hz \(640\)",
        ),
        ({"sampling_rate": 22050}, "makes 22050 Hz"),
        ({"f0": True}, "needs an F0 contour"),
        ({"embedder_params": {"a": 1}}, "speaker as a vector"),
    ],
)
def test_another_rate_or_input_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    body = config(**changes)
    with pytest.raises(LstError, match=message):
        load(save_checkpoint(tmp_path, body, random_state(body)))


def test_another_vocabulary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many units as the tokenizer, or one less: its blank."""
    import lst.vocoder.loading as module

    monkeypatch.setattr(module, "_tokenizer_size", lambda fingerprint: 501)
    for size in (500, 501):
        body = config(num_embeddings=size)
        check_handshake(load(save_checkpoint(tmp_path / str(size), body, random_state(body))), "cd" * 32)
    body = config(num_embeddings=100)
    directory = save_checkpoint(tmp_path / "small", body, random_state(body))
    with pytest.raises(LstError, match=r"small has 100 units, but the tokenizer fingerprint cdcdcdcdcdcd has 501"):
        load_vocoder(directory, tokenizer="cd" * 32)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    state = random_state(config())
    less = {name: value for name, value in state.items() if not name.startswith("conv_post")}
    with pytest.raises(LstError, match=r"3 weights|weights are missing, such as conv_post"):
        load(save_checkpoint(tmp_path, config(), less))
    with pytest.raises(LstError, match=r"1 weights have no place, such as extra.weight"):
        load(save_checkpoint(tmp_path, config(), {**state, "extra.weight": torch.zeros(1)}))
    with pytest.raises(LstError, match=r"dict.weight is \(501, 16\) instead of \(500, 16\)"):
        load(save_checkpoint(tmp_path, config(num_embeddings=500), state))


def test_damaged_files(tmp_path: Path) -> None:
    directory = save_checkpoint(tmp_path, config(), random_state(config()))
    weights = (directory / "generator.pt").read_bytes()
    for damage in (b"", b"not a checkpoint", weights[: len(weights) // 2]):
        (directory / "generator.pt").write_bytes(damage)
        with pytest.raises(LstError, match=r"generator\.pt"):
            load(directory)
    torch.save([1, 2], directory / "generator.pt")
    with pytest.raises(LstError, match="holds no generator"):
        load(directory)
    (directory / "config.json").write_text("{")
    with pytest.raises(LstError, match=r"config\.json cannot be read as JSON"):
        load(directory)
    (directory / "config.json").write_text("[]")
    with pytest.raises(LstError, match=r"not the configuration of a vocoder"):
        load(directory)
    (directory / "config.json").write_text(json.dumps({"num_embeddings": 501}))
    torch.save({"generator": random_state(config())}, directory / "generator.pt")
    with pytest.raises(LstError, match="not that of a unit HiFi-GAN"):
        load(directory)


class _Bomb:
    """A pickle that would run code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    directory = save_checkpoint(tmp_path, config(), random_state(config()))
    marker = tmp_path / "executed"
    torch.save({"generator": _Bomb(marker)}, directory / "generator.pt")
    with pytest.raises(LstError, match="more than tensors"):
        load(directory)
    (directory / "generator.pt").write_bytes(pickle.dumps(_Bomb(marker)))
    with pytest.raises(LstError, match="more than tensors"):
        load(directory)
    assert not marker.exists()


def test_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    state = random_state(config())
    one = save_checkpoint(tmp_path / "one", config(), state)
    two = save_checkpoint(tmp_path / "two", config(), state)
    three = save_checkpoint(tmp_path / "three", config(num_embeddings=500), random_state(config(num_embeddings=500)))
    assert vocoder_fingerprint(one) == vocoder_fingerprint(two) != vocoder_fingerprint(three)
