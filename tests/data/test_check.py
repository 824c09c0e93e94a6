"""`genft data check`: what is wrong with data on disk, each with file and line, and the exit code."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmark_data import save_glue, save_vtab
from genft.cli import app
from genft.data import load_suite
from genft.data.check import check_task

SUITE = """
suite = "mine"
[[tasks]]
name = "shades"
kind = "image"
reader = "vtab-1k"
folders = ["shades"]
class_count = 2
sizes = { train = 20, validation = 10, test = 10 }
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_vtab(tmp_path / "shades")
    (tmp_path / "mine.toml").write_text(SUITE)
    return tmp_path


def test_everything_is_well(root: Path) -> None:
    steps: list[tuple[int, int]] = []
    (task,) = load_suite(root / "mine.toml", root)
    found = check_task(task, lambda done, total: steps.append((done, total)))
    assert found.good
    assert (found.classes, found.faults, found.copies, found.notes) == (2, [], [], [])
    assert steps == [(n, 40) for n in range(1, 41)]
    done = CliRunner().invoke(app, ["data", "check", str(root), str(root / "mine.toml")])
    assert done.exit_code == 0
    assert "20 ✓" in done.stdout


def test_every_fault_is_told_with_its_place(root: Path) -> None:
    folder = root / "shades"
    (folder / "images/test/000003.png").write_bytes(b"no image")
    (folder / "images/test/000004.png").unlink()
    shutil.copy(folder / "images/train800/000001.png", folder / "images/val200/000001.png")
    with (folder / "test.txt").open("a") as file:
        file.write("images/test/000000.png 2\n../x.png 0\n")
    done = CliRunner().invoke(app, ["data", "check", str(root), str(root / "mine.toml"), "--json"])
    assert done.exit_code == 1
    (found,) = json.loads(done.stdout)
    assert found["sizes"] == {"train": 20, "validation": 10, "test": 9}
    said = "\n".join(found["faults"])
    for place, what in [
        ("test.txt: line 4", "000003.png: cannot be read as an image"),
        ("test.txt: line 5", "000004.png does not exist"),
        ("test.txt: line 11", "'2' is not one of the classes"),
        ("test.txt: line 12", "is outside"),
    ]:
        assert any(f"{place}: " in fault and what in fault for fault in found["faults"]), (place, what, said)
    assert len(found["faults"]) == 4
    assert found["differences"] == ["test has 9 examples; shades should have 10"]
    (copy,) = found["copies"]
    assert copy.endswith("shades/train800.txt: line 2")
    assert "val200.txt: line 2 is a copy of" in copy


def test_copies_make_own_data_wrong_and_are_part_of_a_benchmark(root: Path) -> None:
    folder = root / "shades"
    shutil.copy(folder / "images/train800/000001.png", folder / "images/val200/000001.png")
    (task,) = load_suite(root / "mine.toml", root)
    assert check_task(task, lambda *_: None).good
    assert not check_task(task.model_copy(update={"sizes": {}}), lambda *_: None).good


def test_all_benchmarks_that_are_there(tmp_path: Path) -> None:
    save_glue(tmp_path / "glue")
    (tmp_path / "glue/STS-B/dev.tsv").write_text("index\tsentence1\tsentence2\tscore\n0\ta\tb\t7\n1\ta\tb\thigh\n")
    save_vtab(tmp_path / "vtab-1k/eurosat", classes=10)
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path)], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    for part in (
        "✗ 40 of 8,551",
        "✗ 20 of 800",
        "10 ✓",
        "glue/STS-B/dev.tsv: line 2: the score 7 is not between 0 and 5",
        "glue/STS-B/dev.tsv: line 3: 'high' is not a number",
        "missing: ",
    ):
        assert part in done.stdout, done.stdout


def test_nothing_to_check(tmp_path: Path) -> None:
    for arguments, message in [
        ([str(tmp_path)], "nothing to check: it has no folder of a GLUE, VTAB-1k or FGVC task"),
        ([str(tmp_path), "svhn"], "no folder svhn in"),
        ([str(tmp_path / "no")], "no: does not exist"),
        ([str(tmp_path), "svnh"], "nearest: 'svhn'"),
    ]:
        done = CliRunner().invoke(app, ["data", "check", *arguments])
        assert done.exit_code == 2
        assert message in done.stderr
