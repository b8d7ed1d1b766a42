"""Building manifests: the same bytes whatever happens, and nothing half-made in place."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from lst.errors import LstError
from lst.manifest import (
    DirectoryResult,
    Rejection,
    ShardResult,
    StageSpec,
    build_directory,
    build_shards,
    iter_rows,
    load_manifest,
    open_input,
    partial_path,
    read_table,
)
from lst.manifest.inspect import verify_manifest

ROWS = 5


@dataclass(frozen=True)
class UnitsWorker:
    """Makes `ROWS` rows of units from a task number; task 2 also rejects a row."""

    fail_at: int = -1
    pause: float = 0.0

    def __call__(self, task: int) -> ShardResult:
        time.sleep(self.pause)
        if task == self.fail_at:
            raise OSError(errno.ENOSPC, "no space")
        rows = [
            {"id": f"c/{task}#{k}", "duration_s": 0.04 * k, "units": list(range(k)), "speaker": "s", "text": "é"}
            for k in range(ROWS)
        ]
        rejected = [Rejection("c/x", "silent", "all zero")] if task == 2 else []
        return ShardResult(rows, rejected, {"units": float(sum(range(ROWS)))})


def spec(**config: object) -> StageSpec:
    return StageSpec("lst.units/1", "test", 1, {"seed": 0, **config}, provenance=[{"corpus": "c", "licence": "CC0"}])


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def test_builds_what_it_says(tmp_path: Path) -> None:
    manifest = build_shards(tmp_path / "out", spec(), range(4), UnitsWorker())
    assert manifest.rows == 4 * ROWS == len(list(iter_rows(manifest)))
    assert manifest.totals == {"rows": 20, "units": 40.0}
    assert manifest.rejected == {"silent": 1}
    assert verify_manifest(tmp_path / "out") == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert next(iter_rows(manifest, ["id"])) == {"id": "c/0#0"}


def test_artifacts_and_fingerprints_of_what_was_made_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("x")
    made = build_shards(
        tmp_path / "out",
        spec(),
        range(2),
        UnitsWorker(),
        artifacts={
            "a": b"bytes",
            "b": tmp_path / "words",
            "c": lambda directory: str(len(list((directory / "shards").iterdir()))).encode(),
        },
        fingerprints={"text_tokenizer": "f"},
    )
    assert [made.file(name).read_text() for name in "abc"] == ["bytes", "x", "2"]
    assert made.fingerprints == {"text_tokenizer": "f"}
    assert made.id == spec().id


def test_bytes_do_not_depend_on_workers(tmp_path: Path) -> None:
    build_shards(tmp_path / "one", spec(), range(4), UnitsWorker(), workers=1)
    build_shards(tmp_path / "two", spec(), range(4), UnitsWorker(), workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert load_manifest(tmp_path / "one").shards == load_manifest(tmp_path / "two").shards


def test_a_failure_keeps_complete_shards_and_leaves_nothing_in_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(LstError, match="No space left"):
        build_shards(out, spec(), range(4), UnitsWorker(fail_at=2))
    assert not out.exists()
    kept = partial_path(out, spec().id) / "shards"
    before = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.arrow")}
    assert sorted(before) == ["00000.arrow", "00001.arrow"]
    manifest = build_shards(out, spec(), range(4), UnitsWorker())
    after = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert {name: after[name] for name in before} == before
    build_shards(tmp_path / "undisturbed", spec(), range(4), UnitsWorker())
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert manifest.rows == 20


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_shard_of_an_interrupted_build_is_made_again(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(LstError):
        build_shards(out, spec(), range(4), UnitsWorker(fail_at=3))
    shard = partial_path(out, spec().id) / "shards" / "00001.arrow"
    hurt(shard, damage)
    build_shards(out, spec(), range(4), UnitsWorker())
    assert verify_manifest(out) == []


def hurt(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    elif damage == "truncate":
        path.write_bytes(bytes(data[:-7]))
    else:
        path.unlink()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_to_a_finished_shard_is_seen(tmp_path: Path, damage: str) -> None:
    manifest = build_shards(tmp_path / "out", spec(), range(2), UnitsWorker())
    hurt(tmp_path / "out" / "shards" / "00001.arrow", damage)
    assert len(verify_manifest(tmp_path / "out")) == 1
    with pytest.raises(LstError, match=r"00001\.arrow"):
        read_table(manifest, 1)


def test_every_flipped_byte_of_a_manifest_is_seen(tmp_path: Path) -> None:
    build_shards(tmp_path / "out", spec(), range(1), UnitsWorker())
    file = tmp_path / "out" / "manifest.json"
    good = file.read_bytes()
    text = json.loads(good)
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 1
        file.write_bytes(bytes(bad))
        try:
            same = json.loads(bytes(bad)) == text
        except ValueError:
            same = False
        if same:  # white space between the values
            continue
        with pytest.raises(LstError):
            load_manifest(tmp_path / "out")
    file.write_bytes(good[:-20])
    with pytest.raises(LstError, match="damaged"):
        load_manifest(tmp_path / "out")


def test_same_id_is_not_made_again_and_another_needs_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_shards(out, spec(), range(2), UnitsWorker())
    stamp = (out / "manifest.json").stat().st_mtime_ns
    build_shards(out, spec(), range(2), UnitsWorker(fail_at=0))
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(LstError, match="--force"):
        build_shards(out, spec(seed=1), range(2), UnitsWorker())
    with pytest.raises(LstError):  # the old output survives a failed replacement
        build_shards(out, spec(seed=1), range(2), UnitsWorker(fail_at=1), force=True)
    assert load_manifest(out).config == {"seed": 0}
    assert build_shards(out, spec(seed=1), range(3), UnitsWorker(), force=True).rows == 15
    assert verify_manifest(out) == []


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = build_shards(out, spec(), range(2), UnitsWorker())
    out.rename(tmp_path / "out.previous")
    assert build_shards(out, spec(), range(2), UnitsWorker(fail_at=0)).id == made.id
    assert not (tmp_path / "out.previous").exists()


def test_what_belongs_to_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("thesis", "file"):
        with pytest.raises(LstError, match="another --out"):
            build_shards(tmp_path / name, spec(), range(1), UnitsWorker(), force=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "x"


def test_rejections_are_counted_and_limited(tmp_path: Path) -> None:
    with pytest.raises(LstError, match=r"4\.8% of the rows.*1 silent.*--max-rejected"):
        build_shards(tmp_path / "out", spec(), range(4), UnitsWorker(), max_rejected=0.01)
    assert not (tmp_path / "out").exists()

    def nothing(task: int) -> ShardResult:
        return ShardResult([], [Rejection(f"r{task}", "silent")])

    kept = partial_path(tmp_path / "out", spec().id)
    assert kept.is_dir()  # with more allowed, the same shards do
    plan = partial_path(tmp_path / "none", spec().id) / "plan.jsonl"
    plan.parent.mkdir()
    plan.write_text("what a stage keeps for itself")
    with pytest.raises(LstError, match="every row was rejected"):
        build_shards(tmp_path / "none", spec(), range(2), nothing)
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_what_fails_before_anything_is_made_leaves_nothing(tmp_path: Path) -> None:
    def fail(directory: Path) -> DirectoryResult:
        (directory / "shards").mkdir()
        raise LstError("No.")

    def fail_later(directory: Path) -> DirectoryResult:
        (directory / "half").write_text("x")
        return fail(directory)

    with pytest.raises(LstError, match="No"):
        build_directory(tmp_path / "none", spec(), fail)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LstError, match="No"):
        build_directory(tmp_path / "some", spec(), fail_later)
    assert (partial_path(tmp_path / "some", spec().id) / "half").read_text() == "x"


def test_inputs_and_ancestors(tmp_path: Path) -> None:
    first = build_shards(tmp_path / "first", spec(), range(1), UnitsWorker())
    second = build_shards(
        tmp_path / "deep" / "second", StageSpec("lst.units/1", "next", 1, {}, {"units": first}), range(1), UnitsWorker()
    )
    assert open_input(second, "units").id == first.id
    moved = tmp_path / "moved"
    (tmp_path / "deep").rename(moved)
    with pytest.raises(LstError, match="without an input"):
        open_input(load_manifest(moved / "second"), "audio")
    assert open_input(load_manifest(moved / "second"), "units").id == first.id
    build_shards(tmp_path / "first", spec(seed=2), range(1), UnitsWorker(), force=True)
    with pytest.raises(LstError, match="has changed since"):
        open_input(load_manifest(moved / "second"), "units")


def test_a_directory_goes_on_after_a_kill_and_keeps_only_its_artifacts(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def make(directory: Path) -> DirectoryResult:
        seen = directory / "checkpoint"
        if not seen.exists():
            seen.write_text("half")
            raise RuntimeError("killed")
        (directory / "sub").mkdir()
        (directory / "sub" / "weights").write_text("whole")
        return DirectoryResult(["sub/weights"], {"steps": 2}, fingerprints={"model": "m"})

    with pytest.raises(RuntimeError):
        build_directory(out, spec(), make)
    assert not out.exists()
    manifest = build_directory(out, spec(), make)
    assert manifest.file("sub/weights").read_text() == "whole"
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "sub"]
    assert manifest.fingerprints == {"model": "m"}
    with pytest.raises(LstError, match="no file"):
        manifest.file("checkpoint")


def test_two_processes_do_not_make_the_same_output(tmp_path: Path) -> None:
    def make(directory: Path) -> DirectoryResult:
        with pytest.raises(LstError, match="Another lst process"):
            build_directory(tmp_path / "out", spec(), make)
        return DirectoryResult([])

    build_directory(tmp_path / "out", spec(), make)


@pytest.mark.parametrize("moment", [0.0, 0.2])
def test_ctrl_c_reaches_the_parent_only(tmp_path: Path, moment: float) -> None:
    script = textwrap.dedent(
        """
        import signal
        import sys
        from pathlib import Path
        from lst.manifest import build_shards
        from tests.manifest.test_build import UnitsWorker, spec

        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

        def progress(done, total, unit):
            print(done, flush=True)

        try:
            build_shards(Path(sys.argv[1]), spec(), range(40), UnitsWorker(pause=0.5), workers=2, progress=progress)
        except KeyboardInterrupt:
            print("stopped")
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"  # the workers are about to start
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert out.splitlines()[-1] == "stopped"
    assert err == ""
    assert not (tmp_path / "out").exists()
    assert _ends(process.pid)


def _ends(group: int) -> bool:
    """Whether a process group has no member left, within a minute."""
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_kill_minus_nine_in_the_middle(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from lst.manifest import build_shards
        from tests.manifest.test_build import UnitsWorker, spec

        def worker(task):
            if task == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return UnitsWorker()(task)

        build_shards(Path(sys.argv[1]), spec(), range(4), worker)
        """
    )
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], check=False, cwd=os.getcwd())
    assert result.returncode == -signal.SIGKILL
    with pytest.raises(LstError, match="run the same command again"):
        load_manifest(tmp_path / "out")
    build_shards(tmp_path / "out", spec(), range(4), UnitsWorker())
    build_shards(tmp_path / "undisturbed", spec(), range(4), UnitsWorker())
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
