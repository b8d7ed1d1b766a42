"""Units of another tokenizer are refused by name, also where the tokenizer is nobody's asset."""

from pathlib import Path

import pytest

from lst.assets import check_units, tokenizer_label
from lst.constants import DEFAULT_TOKENIZER
from lst.errors import LstError
from lst.manifest import Manifest, ShardResult, StageSpec, build_shards
from lst.units import tokenizer_fingerprint

MINE, THEIRS = "ab" * 32, "cd" * 32


def units(out: Path, fingerprint: str, tokenizer: str) -> Manifest:
    rows = [{"id": "a#0", "duration_s": 0.04, "units": [1], "speaker": "", "text": ""}]
    spec = StageSpec(
        "lst.units/1", "tokenize-audio", 1, {"tokenizer": tokenizer}, fingerprints={"tokenizer": fingerprint}
    )
    return build_shards(out, spec, [0], lambda _: ShardResult(rows))


def test_names_come_from_assets_and_else_from_what_the_units_were_made_with(tmp_path: Path) -> None:
    default = tokenizer_fingerprint(DEFAULT_TOKENIZER)
    mine = units(tmp_path / "mine", MINE, "es-mfcc")
    later = build_shards(
        tmp_path / "later",
        StageSpec("lst.units/1", "next", 1, {}, {"units": mine}, mine.fingerprints),
        [0],
        lambda _: ShardResult([]),
    )
    assert tokenizer_label(default, mine) == f"{DEFAULT_TOKENIZER} ({default[:12]})"
    assert tokenizer_label(MINE) == "fingerprint abababababab"
    assert tokenizer_label(MINE, None, mine) == tokenizer_label(MINE, later) == "es-mfcc (abababababab)"
    assert tokenizer_label(THEIRS, mine) == "fingerprint cdcdcdcdcdcd"
    assert tokenizer_label("", mine) == "an unknown tokenizer"


def test_a_refusal_has_both_names_and_what_to_do(tmp_path: Path) -> None:
    default = tokenizer_fingerprint(DEFAULT_TOKENIZER)
    mine = units(tmp_path / "mine", MINE, "es-mfcc")
    check_units(MINE, MINE, whose="The data", model="m")
    with pytest.raises(LstError) as refused:
        check_units(MINE, default, whose="The data here", model="there", told_by=(mine, None))
    said = str(refused.value)
    assert "The data here has units of tokenizer es-mfcc (abababababab), but the model there was" in said
    assert f"on those of {DEFAULT_TOKENIZER} ({default[:12]})" in said
    assert f"--tokenizer {DEFAULT_TOKENIZER}" in said
