"""A disk that fills up, for real: one sentence, nothing half-made, and the same command goes on once there is room."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lst.manifest import write_atomic
from tests.cli.processes import contents, lst, lst_on_a_small_disk

Stage = Callable[[str], Path]


def fill(command: list[str | Path], kilobytes: int, place: Path) -> None:
    """Run on a disk of `kilobytes`, then with room; the result is that of a run which always had it."""
    (place / "disk").mkdir(parents=True)
    whole = place / "whole"
    assert lst([*command, "--out", whole], place)[0] == 0
    said = place / "said"
    code = lst_on_a_small_disk(
        [*command, "--out", place / "disk" / "out"], place / "disk", kilobytes, place / "kept", said
    )
    assert code == 1
    errors = [line for line in said.read_text().splitlines() if line.startswith("lst:")]
    assert len(errors) == 1
    assert re.match(r"lst: No space left on the device while .*disk.*\. Free some space and run the same", errors[0])
    assert "Traceback" not in said.read_text()
    assert contents(place / "kept") == contents(whole)


def test_small_disks(small: Path, stage: Stage, tmp_path: Path) -> None:
    fill(["ingest", small / "sample", "--workers", "1"], 8, tmp_path / "ingest")
    fill(["tokenize-audio", stage("ingest"), "--workers", "2"], 8, tmp_path / "units")
    text = ["tokenize-text", small / "stories.txt", "--train-tokenizer", "360", "--workers", "1"]
    fill(text, 12, tmp_path / "text")
    fill(["vocode", stage("tokenize-audio"), "--workers", "1"], 100, tmp_path / "sound")


@pytest.mark.slow
def test_small_disks_of_training(small: Path, stage: Stage, tmp_path: Path) -> None:
    quick = ["budget.amount=2", "batch.rows=2", "batch.sequence_units=128", "validate_every=null", "log_every=1"]
    train = ["finetune", "asr", "--model", stage("pretrain"), "--data", stage("interleave"), *quick]
    for kilobytes in (12, 20_000):  # no room for the log, none for the second checkpoint
        fill([*train, "checkpoint.every_steps=1"], kilobytes, tmp_path / str(kilobytes))


def test_a_limit_on_the_size_of_files(stage: Stage, tmp_path: Path) -> None:
    said = tmp_path / "said"
    command = ["vocode", stage("tokenize-audio"), "--out", tmp_path / "out", "--workers", "1"]
    code, _ = lst(command, tmp_path, largest_file=20_000, said=said)
    assert code == 1
    assert re.search(r"^lst: A file became larger than .* allow while writing", said.read_text(), re.MULTILINE)
    assert not (tmp_path / "out").exists()
    assert lst(command, tmp_path)[0] == 0


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_atomic(tmp_path / "x", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "x", "\ud800")
    assert (tmp_path / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
