"""``genft bench`` from the command line, with tasks of a user's own."""

import json
from pathlib import Path

import pytest

from cli.test_cli import ok, refused
from genft.data import TaskData
from genft.runs.protocols import Protocol

QUICK = ("--epochs", 1, "--batch-size", 16)


@pytest.fixture
def suite(reviews: Path, tmp_path: Path) -> Path:
    path = tmp_path / "support.toml"
    task = f'kind = "text"\nreader = "files"\nfiles = {{ train = "{reviews}" }}\n'
    path.write_text(f'suite = "support"\n[[tasks]]\nname = "tickets"\n{task}[[tasks]]\nname = "mails"\n{task}')
    return path


def test_a_plan_is_shown_before_anything_runs(suite: Path, bert: Path, tmp_path: Path) -> None:
    words = ("bench", suite, "-m", bert, "--methods", "linear,bitfit", "--seeds", "0,1", *QUICK, "--dry-run")
    shown = ok(*words, "--limit-train", 20, "--learning-rates", "1e-2,1e-3", "--out", tmp_path / "runs")
    assert "tickets  accuracy     20       4      12  holdout" in shown
    assert "mails" in shown
    assert "limited data (limit train 20): not comparable with full runs" in shown
    assert "rates     0.001, 0.01: chosen on the selection split of seed 0" in shown
    assert "runs      12, 0 finished" in shown
    assert not (tmp_path / "runs").exists()


def test_runs_are_compared_and_not_repeated(suite: Path, bert: Path, tmp_path: Path) -> None:
    words = ("bench", suite, "-m", bert, "--methods", "linear", "--seeds", "0", *QUICK, "--out", tmp_path / "runs")
    shown = ok(*words)
    for expected in ("with ", "protocol holdout: accuracy × 100", "trained parameters, time and memory"):
        assert expected in shown
    results = json.loads(ok(*words, "--json"))
    assert [(r["task"], r["method"], r["seed"]) for r in results] == [("tickets", "linear", 0), ("mails", "linear", 0)]
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs" / "results").glob("*.json")}
    assert "runs      2, 2 finished" in ok(*words)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs" / "results").glob("*.json")} == written
    assert "tickets" in ok("report", tmp_path / "runs")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "genfd"), "method: 'genfd' is not known;"),
        (("--methods", "lora[rank=4]"), "--set rank: the method 'lora' has no such setting"),
        (("--seeds", "one"), "--seeds: 'one' is not a list of numbers such as 0,1,2"),
        (("--seeds", ","), "--seeds: ',' is not a list of numbers such as 0,1,2"),
        (("--methods", ","), "--methods ',': names no method"),
        (("--learning-rates", "1e-3,inf"), "--learning-rates: '1e-3,inf' is not a list of numbers"),
        (("--learning-rates", "0,1e-3"), "--learning-rates: '0,1e-3' contains a number that is too small"),
        (("--preset", "defualt"), "preset: 'defualt' is not known;"),
    ],
)
def test_mistakes_are_one_sentence(
    words: tuple[str, ...], message: str, suite: Path, bert: Path, tmp_path: Path
) -> None:
    error = refused("bench", suite, "-m", bert, *words, "--out", tmp_path / "runs")
    assert message in error
    assert error.count("\n") == 1


def test_a_task_without_its_split_is_left_out(suite: Path, reviews: Path, bert: Path, tmp_path: Path) -> None:
    """A suite in which one task lacks the split that the protocol needs: it is reported, and the others run."""
    from genft import ConfigError
    from genft.cli import request

    real = request.check_splits

    def check(data: TaskData, protocol: Protocol) -> None:
        if data.task.name == "mails":
            raise ConfigError("protocol 'holdout': split 'test' is not in mails")
        real(data, protocol)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request, "check_splits", check)
        words = ("bench", suite, "-m", bert, "--methods", "linear", "--seeds", "0", "--dry-run")
        shown = ok(*words, "--out", tmp_path / "runs")
    assert "left out mails: protocol 'holdout': split 'test' is not in mails" in shown
    assert "runs      1, 0 finished" in shown


def test_an_unknown_suite(bert: Path, tmp_path: Path) -> None:
    assert "task: 'gleu' is not known" in refused("bench", "gleu", "-m", bert, "--out", tmp_path)


def test_two_tasks_of_one_name(suite: Path, bert: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(suite.read_text().replace("support", "other"))
    error = refused("bench", suite, other, "-m", bert, "--out", tmp_path / "runs")
    assert "other.toml: has a different task of the same name, 'tickets'" in error


@pytest.mark.parametrize("name", ["bench", "study", "search"])
def test_one_process_is_enough(
    name: str, suite: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = {"bench": (suite,), "study": ("rank", suite), "search": ("bbc-news",)}[name]
    error = refused(name, *words, "-m", bert, "--out", tmp_path / "runs")
    assert f"{name}: runs in one process; torchrun and accelerate are for `genft train`" in error
