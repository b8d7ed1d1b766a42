"""The cards of corpora and the sample that ships with the repository."""

import shlex
from pathlib import Path

import pytest
import yaml

from lst.audio.card import CorpusCard
from lst.audio.corpora import READERS
from lst.audio.corpora.base import is_audio
from lst.audio.corpora.tables import read_tsv
from lst.audio.stage import IngestConfig, ingest, ingest_spec

CARDS = Path(__file__).parents[2] / "data_manifests"
SAMPLE = CARDS / "sample"
KEYS = {
    "name": str,
    "title": str,
    "layout": str,
    "language": str,
    "licence": str,
    "homepage": str,
    "access": str,
    "download": list,
    "hours": (int, float),
    "size_gb": (int, float),
    "structure": str,
    "used_by_lst": str,
    "command": str,
}


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_card_is_complete_and_names_a_reader(path):
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {key: type(value) for key, value in card.items() if not isinstance(value, KEYS[key])} == {}
    assert set(card) == set(KEYS)
    assert card["name"] == path.stem
    reader = READERS[card["layout"]]
    assert card["licence"].startswith(reader.licence.split(",")[0].split(" and ")[0])
    words = shlex.split(card["command"])
    assert words[:2] == ["lst", "ingest"]
    assert words[words.index("--corpus") + 1] == card["layout"]
    assert all(url.startswith("https://") for url in card["download"])


def test_every_named_corpus_has_a_card():
    assert {name for name, reader in READERS.items() if reader.corpus} <= {path.stem for path in CARDS.glob("*.yaml")}


def test_the_sample_is_complete_and_small():
    listed = [Path(one.audio) for one in read_tsv(SAMPLE)]
    present = [path for path in SAMPLE.rglob("*") if is_audio(path.name)]
    assert sorted(listed) == sorted(present)
    assert len(listed) == 505
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 9e6
    spec = ingest_spec(SAMPLE, IngestConfig())
    assert [entry["licence"] for entry in spec.provenance] == ["public domain", "CC BY-SA 3.0"]
    attribution = (SAMPLE / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for name in ("Allison Smith", "Linda Johnson", "https://creativecommons.org/licenses/by-sa/3.0/"):
        assert name in attribution


def test_a_part_of_the_sample_ingests(tmp_path):
    part = tmp_path / "part"
    (part / "ljspeech").mkdir(parents=True)
    lines = (SAMPLE / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
    chosen = [lines[0], *[line for line in lines if line.startswith("ljspeech/")][:3]]
    (part / "transcripts.tsv").write_text("\n".join(chosen), encoding="utf-8")
    (part / "corpus.json").write_bytes((SAMPLE / "corpus.json").read_bytes())
    for line in chosen[1:]:
        name = line.split("\t")[0]
        (part / name).write_bytes((SAMPLE / name).read_bytes())
    manifest = ingest(part, tmp_path / "out", IngestConfig(require_text=True))
    assert manifest.rows == 3
    assert manifest.rejected == {}
    assert [entry["corpus"] for entry in manifest.provenance] == ["LJSpeech (25 utterances)"]


def test_a_card_needs_provenance():
    with pytest.raises(ValueError, match="provenance"):
        CorpusCard.model_validate({"name": "x", "provenance": []})
    with pytest.raises(ValueError, match="name"):
        CorpusCard.model_validate({"name": "a/b", "provenance": [{"corpus": "x", "licence": "y"}]})
