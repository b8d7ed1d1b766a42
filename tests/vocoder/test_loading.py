"""Vocoders by name and path, damaged ones, and the handshake with the tokenizer."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lst.assets import cards
from lst.constants import DEFAULT_TOKENIZER, DEFAULT_VOCODER
from lst.errors import LstError, UsageError
from lst.manifest import DirectoryResult, ShardResult, StageSpec, build_directory, build_shards
from lst.units import tokenizer_fingerprint
from lst.vocoder import (
    check_handshake,
    choose_vocoder,
    find_vocoder,
    load_vocoder,
    vocoder_fingerprint,
    vocoder_name,
)
from lst.vocoder.loading import FILES
from lst.vocoder.stage import VocodeConfig, vocode
from tests.vocoder.hifigan_reference import config, random_state, save_checkpoint
from tests.vocoder.toys import TOKENIZER, save_ridge


def test_a_directory_loads_and_repeats(tmp_path: Path) -> None:
    directory = save_ridge(tmp_path / "ridge")
    vocoder = load_vocoder(directory, tokenizer=TOKENIZER)
    assert (vocoder.name, vocoder.tokenizer_fingerprint, vocoder.num_units) == ("toy-ridge", TOKENIZER, 12)
    assert (vocoder.frame_rate, vocoder.sample_rate) == (25, 16000)
    assert vocoder.fingerprint == vocoder_fingerprint(directory)
    assert vocoder_name(directory) == "toy-ridge"
    samples = vocoder.synthesize([1, 2, 3])
    np.testing.assert_array_equal(samples, load_vocoder(str(directory)).synthesize([1, 2, 3]))


@pytest.mark.parametrize("tokenizer", ["mfcc-501", DEFAULT_TOKENIZER])
@pytest.mark.parametrize("name", [None, "griffin-lim"])
def test_each_embedded_tokenizer_has_its_vocoder_and_griffin_lim(tokenizer: str, name: str | None) -> None:
    wanted = tokenizer_fingerprint(tokenizer)
    chosen = choose_vocoder(name, wanted)
    vocoder = load_vocoder(chosen, tokenizer=wanted)
    assert vocoder.tokenizer_fingerprint == wanted
    assert vocoder.name.endswith(":griffin-lim") == (name is not None)
    assert vocoder_fingerprint(chosen) == vocoder.fingerprint
    samples = vocoder.synthesize(list(range(0, 500, 10)))
    assert samples.shape == (640 * 50,)
    assert 0.01 < np.abs(samples).max() < 1


def test_what_is_dropped_in_is_preferred_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but its directory is needed: its card names the tokenizer."""
    from tests.vocoder.test_convnext import save, toy

    monkeypatch.setattr(cards, "EMBEDDED", tmp_path)
    assert find_vocoder(TOKENIZER) is None
    with pytest.raises(LstError, match=r"No vocoder .*the units of said\.json \(tokenizer fingerprint abababababab\)"):
        choose_vocoder(None, TOKENIZER, "said.json")
    gan = drop_in(tmp_path / "a-gan", "gan")
    assert find_vocoder(TOKENIZER) == gan
    network = save(tmp_path / "vocoder", toy())
    assert find_vocoder(TOKENIZER) == network
    ridge = save_ridge(tmp_path / "ridge")
    save_ridge(tmp_path / "another", tokenizer="cd" * 32)
    assert choose_vocoder(None, TOKENIZER) == str(ridge)
    exemplar = drop_in(tmp_path / "z-exemplar", "exemplar")
    assert find_vocoder(TOKENIZER) == find_vocoder(TOKENIZER, fitted=True) == exemplar
    hifigan = save_checkpoint(tmp_path / "zz-hifigan", config(), random_state(config()))
    (hifigan / "card.json").write_text(json.dumps(card("zz-hifigan")))
    assert find_vocoder(TOKENIZER) == hifigan
    assert find_vocoder(TOKENIZER, fitted=True) == exemplar
    shutil.rmtree(hifigan)
    default = shutil.copytree(exemplar, tmp_path / DEFAULT_VOCODER)
    (default / "card.json").write_text(json.dumps(card(DEFAULT_VOCODER)))
    earlier = shutil.copytree(exemplar, tmp_path / "a-exemplar")
    (earlier / "card.json").write_text(json.dumps(card("a-exemplar")))
    assert find_vocoder(TOKENIZER) == default  # of its kind it comes first, the others by name
    shutil.rmtree(default)
    assert find_vocoder(TOKENIZER) == earlier
    shutil.rmtree(earlier)
    shutil.rmtree(exemplar)
    assert find_vocoder(TOKENIZER, fitted=True) == ridge
    assert load_vocoder(choose_vocoder("griffin-lim", TOKENIZER)).name == "toy-ridge:griffin-lim"
    assert choose_vocoder("mine", TOKENIZER) == "mine"
    shutil.rmtree(ridge)
    assert find_vocoder(TOKENIZER) == network
    with pytest.raises(LstError, match="No fitted vocoder"):
        choose_vocoder("griffin-lim", TOKENIZER)
    with pytest.raises(LstError, match="makes its own waveform"):
        load_vocoder(f"{network}:griffin-lim")


def test_without_a_tokenizer_nothing_is_chosen() -> None:
    for name in (None, "griffin-lim"):
        with pytest.raises(UsageError, match=r"said\.txt does not say which tokenizer made its units.*--vocoder"):
            choose_vocoder(name, "", "said.txt")
    assert choose_vocoder("mine", "", "said.txt") == "mine"
    with pytest.raises(LstError, match=r"a synthesiser, not a vocoder.*:griffin-lim"):
        load_vocoder("griffin-lim")


def test_griffin_lim_is_the_same_vocoder_with_another_voice_box() -> None:
    plain, other = load_vocoder("ridge-mfcc-501"), load_vocoder("ridge-mfcc-501:griffin-lim")
    assert other.name == "ridge-mfcc-501:griffin-lim"
    assert other.fingerprint != plain.fingerprint
    assert other.tokenizer_fingerprint == plain.tokenizer_fingerprint
    units = [17, 17, 402, 3] * 5
    assert not np.allclose(other.synthesize(units), plain.synthesize(units))


def test_units_of_another_tokenizer_are_refused_by_name() -> None:
    vocoder = load_vocoder("ridge-mfcc-501")
    check_handshake(vocoder, vocoder.tokenizer_fingerprint)
    expected = (
        r"vocoder ridge-mfcc-501 was made for units of the tokenizer mfcc-501 \([0-9a-f]{12}\), but these are units of "
        r"fingerprint cdcdcdcdcdcd\. Either tokenize the audio with mfcc-501 .*or fit a vocoder on these units"
    )
    with pytest.raises(LstError, match=expected):
        check_handshake(vocoder, "cd" * 32)
    with pytest.raises(LstError, match=expected):
        load_vocoder("ridge-mfcc-501", tokenizer="cd" * 32)
    with pytest.raises(LstError, match="an unknown tokenizer"):
        check_handshake(vocoder, "")


def test_the_remedy_names_the_vocoder_that_fits(tmp_path: Path) -> None:
    with pytest.raises(LstError, match="use --vocoder ridge-mfcc-501"):
        load_vocoder(save_ridge(tmp_path / "ridge"), tokenizer=tokenizer_fingerprint("mfcc-501"))


def drop_in(directory: Path, kind: str) -> Path:
    """As much of a vocoder as it takes to be found."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"kind": kind}))
    (directory / "card.json").write_text(json.dumps(card(directory.name)))
    return directory


def card(name: str) -> dict[str, object]:
    facts = {"version": "1", "licence": "none", "source": "test", "description": "toy"}
    return {"name": name, "kind": "vocoder", **facts, "files": {}, "tokenizer": TOKENIZER}


def test_a_hifigan_may_name_its_tokenizer_in_a_card(tmp_path: Path) -> None:
    directory = save_checkpoint(tmp_path / "gan", config(), random_state(config()))
    bare = load_vocoder(directory, tokenizer="cd" * 32)  # an unknown tokenizer: nothing to compare
    assert bare.tokenizer_fingerprint == ""
    (directory / "card.json").write_text(json.dumps(card("carded")))
    assert load_vocoder(directory, tokenizer=TOKENIZER).name == "carded"
    with pytest.raises(LstError, match="carded was made for units of the tokenizer fingerprint abababababab"):
        load_vocoder(directory, tokenizer="cd" * 32)


def test_unknown_and_damaged_vocoders(tmp_path: Path) -> None:
    with pytest.raises(LstError, match=r"No vocoder 'ridge-mfcc-502'.*Did you mean ridge-mfcc-501"):
        load_vocoder("ridge-mfcc-502")
    with pytest.raises(LstError, match=r"mfcc-501 is a tokenizer, but a vocoder is needed"):
        load_vocoder("mfcc-501")
    directory = save_ridge(tmp_path / "ridge")
    with pytest.raises(LstError, match=r"is a file\. Give the directory"):
        load_vocoder(directory / "config.json")
    with pytest.raises(LstError, match="one voice"):
        load_vocoder(directory, speaker="lj")
    weights = directory / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LstError, match=r"does not match the sha256 of its card"):
        load_vocoder(directory)


def without_hashes(directory: Path) -> Path:
    """Let damage reach the reader: a card that names no files."""
    card = json.loads((directory / "card.json").read_text())
    (directory / "card.json").write_text(json.dumps({**card, "files": {}}))
    return directory


def test_damage_that_the_card_does_not_see(tmp_path: Path) -> None:
    directory = without_hashes(save_ridge(tmp_path / "a"))
    (directory / "weights.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(LstError, match=r"weights\.safetensors is missing or damaged"):
        load_vocoder(directory)
    (directory / "weights.safetensors").unlink()
    with pytest.raises(LstError, match=r"lacks weights\.safetensors"):
        load_vocoder(directory)

    directory = without_hashes(save_ridge(tmp_path / "b"))
    body = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**body, "num_units": 13}))
    with pytest.raises(LstError, match=r"do not belong together"):
        load_vocoder(directory)
    (directory / "config.json").write_text(json.dumps({**body, "context": 9}))
    with pytest.raises(LstError, match=r"config\.json: context: "):
        load_vocoder(directory)
    (directory / "config.json").write_text("{")
    with pytest.raises(LstError, match=r"config\.json: the file: "):
        load_vocoder(directory)


def test_the_ridge_vocoder_needs_no_torch() -> None:
    code = (
        "import sys; from lst.vocoder import load_vocoder; load_vocoder('ridge-mfcc-501').synthesize([1, 2, 3]); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_refusal_names_tokenizers_that_are_nobodys_asset(tmp_path: Path) -> None:
    """Both manifests know what they were made with: that of the units, and that beside the vocoder."""
    units = {}
    for name, fingerprint in (("es-mfcc", "ab" * 32), ("it-mfcc", "cd" * 32)):
        spec = StageSpec(
            "lst.units/1", "tokenize-audio", 1, {"tokenizer": name}, fingerprints={"tokenizer": fingerprint}
        )
        row = {"id": "a#0", "duration_s": 0.04, "units": [1], "speaker": "", "text": ""}
        units[name] = build_shards(tmp_path / name, spec, [0], lambda _, row=row: ShardResult([row]))

    def make(directory: Path) -> DirectoryResult:
        save_ridge(directory, "ab" * 32)
        return DirectoryResult(["card.json", *FILES["ridge"]])

    spec = StageSpec("lst.vocoder/1", "train-vocoder", 1, {}, {"units": units["es-mfcc"]}, {"tokenizer": "ab" * 32})
    spanish = build_directory(tmp_path / "spanish", spec, make).path
    expected = (
        r"made for units of the tokenizer es-mfcc \(abababababab\), but these are units of it-mfcc \(cdcdcdcdcdcd\)\. "
        r"Either .*fit a vocoder on these units"
    )
    with pytest.raises(LstError, match=expected):
        vocode(units["it-mfcc"], tmp_path / "waves", VocodeConfig(vocoder=str(spanish)))
    with pytest.raises(LstError, match=r"No vocoder on this machine .*\(tokenizer it-mfcc \(cdcdcdcdcdcd\)\)"):
        vocode(units["it-mfcc"], tmp_path / "waves", VocodeConfig())
