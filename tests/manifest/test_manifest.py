"""What a manifest's id depends on, what is refused, and how it is looked at."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lst.cli.main import run
from lst.errors import LstError
from lst.manifest import StageSpec, build_shards, inside, load_manifest, sha256_json
from lst.manifest import manifest as manifest_module
from lst.manifest.inspect import differences, lineage
from lst.manifest.manifest import to_json
from lst.manifest.schemas import VERSIONS
from tests.manifest.test_build import UnitsWorker, spec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_the_id_does_not_depend_on_the_order_of_keys(config: dict[str, Any]) -> None:
    backwards = dict(reversed(config.items()))
    assert StageSpec("lst.units/1", "s", 1, config).id == StageSpec("lst.units/1", "s", 1, backwards).id


@given(st.dictionaries(st.text(), JSON, max_size=4), st.dictionaries(st.text(), JSON, max_size=4))
def test_differences_are_none_only_for_equal_values(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert differences(old, old) == []
    if sha256_json(old) == sha256_json(new):
        assert differences(old, new) == []


@pytest.mark.parametrize("field", ["schema", "stage", "version", "config", "fingerprints", "files"])
def test_the_id_depends_on_everything_that_determines_the_output(field: str) -> None:
    base = {"schema": "lst.units/1", "stage": "s", "version": 1, "config": {"a": 1}, "fingerprints": {}, "files": {}}
    other = {"schema": "lst.text/1", "stage": "t", "version": 2, "config": {"a": 2}}.get(field, {"x": "y"})
    assert StageSpec(**base).id != StageSpec(**{**base, field: other}).id
    assert StageSpec(**base, provenance=[{"corpus": "x"}]).id == StageSpec(**base).id


def rewrite(directory: Path, **changes: Any) -> None:
    """Change a manifest's JSON and give it a right digest, as a newer program would have written it."""
    body = {**to_json(load_manifest(directory)), **changes}
    body.pop("digest")
    (directory / "manifest.json").write_text(json.dumps({**body, "digest": sha256_json(body)}))


def test_a_newer_schema_is_refused_with_the_version_that_reads_it(tmp_path: Path) -> None:
    build_shards(tmp_path / "out", spec(), range(1), UnitsWorker())
    rewrite(tmp_path / "out", schema="lst.units/7", tool={"lst": "9.9"})
    with pytest.raises(LstError, match=r"lst\.units/7.*up to version 1.*lst 9\.9"):
        load_manifest(tmp_path / "out")
    rewrite_unknown = json.loads((tmp_path / "out" / "manifest.json").read_text()) | {"schema": "lst.dreams/1"}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(rewrite_unknown))
    with pytest.raises(LstError, match="Unknown schema"):
        load_manifest(tmp_path / "out")


def test_an_older_schema_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_shards(tmp_path / "out", spec(), range(1), UnitsWorker())
    monkeypatch.setitem(VERSIONS, "lst.units", 2)
    monkeypatch.setitem(
        manifest_module.MIGRATIONS, "lst.units/1", lambda body: {**body, "schema": "lst.units/2", "config": {"new": 1}}
    )
    assert load_manifest(tmp_path / "out").config == {"new": 1}


def test_another_schema_than_needed_is_refused(tmp_path: Path) -> None:
    build_shards(tmp_path / "out", spec(), range(1), UnitsWorker())
    with pytest.raises(LstError, match=r"holds lst\.units/1.*lst\.text is needed"):
        load_manifest(tmp_path / "out", "lst.text")


def test_a_path_cannot_leave_its_directory(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "secret")
    for bad in ("../secret", "/etc/passwd", "a/../../secret", "link"):
        with pytest.raises(LstError, match="leaves"):
            inside(tmp_path / "root", bad, what="test")
    build_shards(tmp_path / "out", spec(), range(1), UnitsWorker())
    shard = to_json(load_manifest(tmp_path / "out"))["shards"][0]
    rewrite(tmp_path / "out", shards=[{**shard, "path": "../secret"}])
    with pytest.raises(LstError, match="leaves"):
        load_manifest(tmp_path / "out").shard(0)


def test_lineage_reaches_the_corpus_without_the_inputs_on_disk(tmp_path: Path) -> None:
    first = build_shards(tmp_path / "first", spec(), range(1), UnitsWorker())
    second = build_shards(
        tmp_path / "second", StageSpec("lst.units/1", "next", 1, {}, {"units": first}), range(1), UnitsWorker()
    )
    third = build_shards(
        tmp_path / "third", StageSpec("lst.units/1", "last", 1, {}, {"units": second}), range(1), UnitsWorker()
    )
    (tmp_path / "first" / "manifest.json").unlink()
    root = lineage(third)
    assert [root.stage, root.inputs[0].stage, root.inputs[0].inputs[0].stage] == ["last", "next", "test"]
    assert root.inputs[0].inputs[0].provenance == [{"corpus": "c", "licence": "CC0"}]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_shards(tmp_path / "a", spec(), range(1), UnitsWorker())
    build_shards(tmp_path / "b", spec(seed=3), range(2), UnitsWorker())
    assert run(["manifest", "show", str(tmp_path / "a"), "--rows", "1"]) == 0
    assert '"id": "c/0#0"' in capsys.readouterr().out
    assert run(["manifest", "show", str(tmp_path / "a"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["rows"] == 5
    assert run(["manifest", "diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "config.seed: 0 -> 3" in capsys.readouterr().out
    assert run(["manifest", "lineage", str(tmp_path / "a")]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["test", "c"]
    assert run(["manifest", "verify", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    (tmp_path / "b" / "shards" / "00001.arrow").unlink()
    assert run(["manifest", "verify", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "is missing" in capsys.readouterr().err
    assert run(["manifest", "show", str(tmp_path / "nowhere")]) == 1
    assert run(["manifest", "show"]) == 2
