"""The embedded tokenizers on the repository's own recordings of a reader that hubert-nano-25hz-501 has not heard."""

from pathlib import Path

import numpy as np
import pytest

from lst.assets.cards import EMBEDDED
from lst.audio.stage import IngestConfig, ingest
from lst.evaluate.units import UnitsConfig, measure_units
from lst.manifest import Manifest
from lst.units import load_tokenizer
from tests.units.tiny import speechlike

SAMPLE = Path(__file__).resolve().parents[2] / "data_manifests" / "sample" / "ljspeech"
NAME = "hubert-nano-25hz-501"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Ten sentences."""
    place = tmp_path_factory.mktemp("reader")
    lines = (SAMPLE.parent / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.replace("ljspeech/", "", 1) for line in lines if line.startswith("ljspeech/")]
    (place / "corpus").mkdir()
    for row in rows[:10]:
        name = row.split("\t")[0]
        (place / "corpus" / name).write_bytes((SAMPLE / name).read_bytes())
    (place / "corpus" / "transcripts.tsv").write_text("\n".join([lines[0], *rows[:10]]) + "\n", encoding="utf-8")
    return ingest(place / "corpus", place / "audio", IngestConfig(corpus="tsv"))


def test_its_units_follow_the_phone_better_than_mfcc(reader: Manifest) -> None:
    config = UnitsConfig(minutes=2, disturbed_minutes=0.3)
    found = {name: measure_units(load_tokenizer(name), reader, config) for name in (NAME, "mfcc-501")}
    assert found[NAME]["quality"]["phone_purity"] > found["mfcc-501"]["quality"]["phone_purity"] + 0.1
    assert found[NAME]["quality"]["pnmi"] > found["mfcc-501"]["quality"]["pnmi"] + 0.1
    assert found[NAME]["robustness"]["noise 20 dB"] > found["mfcc-501"]["robustness"]["noise 20 dB"] + 0.1
    assert found[NAME]["invariance"]["batch"] == 1.0
    assert found[NAME]["invariance"]["seams"] > 0.98


def test_it_is_as_small_as_promised() -> None:
    assert sum(path.stat().st_size for path in (EMBEDDED / NAME).iterdir()) < 20e6
    tokenizer = load_tokenizer(NAME)
    assert (tokenizer.num_units, tokenizer.num_frames(16000)) == (501, 25)


@pytest.mark.parametrize("samples", [1, 300, 639, 641])
def test_very_short_audio_has_units(samples: int) -> None:
    tokenizer = load_tokenizer(NAME)
    assert len(tokenizer.encode(speechlike(samples))) == tokenizer.num_frames(samples)
    assert len(np.unique(tokenizer.encode(np.zeros(16000, np.float32)))) < 8
