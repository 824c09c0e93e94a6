"""genft report: the tables say what they must, and the command beside a run repeats it."""

import csv
import io
import json
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import fake_store
from genft.api.settings import full_settings
from genft.cli import app
from genft.cli.declare import takes_options
from genft.cli.request import RunOptions, build_request
from genft.methods import get_method
from genft.report.collect import read_boards
from genft.report.command import command
from genft.runs.measured import Failure
from genft.runs.request import Request
from genft.runs.spec import RunSpec

VTAB = {task: {"genft": 0.9, "lora": 0.8} for task in ("eurosat", "dtd", "svhn", "kitti")}


def report(*words: object) -> str:
    done = CliRunner().invoke(app, ["report", *map(str, words)], env={"COLUMNS": "120"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_tables_for_the_terminal(tmp_path: Path) -> None:
    fake_store.put(tmp_path, VTAB, limit_train=80)
    fake_store.put(tmp_path, {"dtd": {"linear": 0.5}}, seeds=(0,), limit_train=80)
    shown = report(tmp_path)
    heading = "VTAB-1k with tiny, protocol val200, LIMITED to 80 training examples"
    assert shown.count(heading) == 3  # every table says it
    lines = {line[:28].strip(): line for line in reversed(shown.splitlines())}  # the first table wins
    assert {"mean of 4 tasks", "mean, natural (2)", "mean, specialized (1)", "mean, structured (1)"} <= lines.keys()
    board = read_boards(fake_store.Store(tmp_path))[0][0]
    assert f"{100 * board.mean('lora', board.common).mean:.2f} ±" in lines["mean of 4 tasks"]
    assert lines["mean rank"].split() == ["mean", "rank", "1.00", "–", "2.00"]
    assert "n=1" in lines["dtd"]
    assert "val200 selects the epoch, a second training on train800val200 ends there, test reports" in shown
    assert "not comparable with runs on all data" in shown
    assert "means and mean ranks are for the methods that have every task: genft, lora" in shown
    assert "linear is missing: eurosat, kitti, svhn, dtd (1 of 3 seeds)" in " ".join(shown.split())
    assert "GenFT paper (arXiv 2506.11042v1) Table 11, ViT-B/16 IN-21k" in shown
    assert "difference from genft × 100" in shown
    assert "difference from lora × 100" in report(tmp_path, "--against", "lora")


def test_the_mean_of_groups_is_another_number(tmp_path: Path) -> None:
    fake_store.put(tmp_path, VTAB, seeds=(0,))
    (board,) = (json.loads(report(tmp_path, "--format", "json")))["boards"]
    found = {mean["name"]: mean["lora"]["mean"] for mean in board["means"]}
    groups = [found[f"mean, {name}"] for name in ("natural (2)", "specialized (1)", "structured (1)")]
    row = next(line for line in report(tmp_path, "--format", "md").splitlines() if "mean of the 3 group means" in line)
    assert f"{100 * sum(groups) / 3:.2f}" in row
    assert found["mean of 4 tasks"] == pytest.approx((2 * groups[0] + groups[1] + groups[2]) / 4)


def test_markdown_csv_and_json_agree(tmp_path: Path) -> None:
    fake_store.put(tmp_path, {"rte": {"genft": 0.9, "lora": 0.7}, "stsb": {"genft": 0.9, "lora": 0.8}})
    rows = list(csv.DictReader(io.StringIO(report(tmp_path, "--format", "csv"))))
    assert len(rows) == 4
    lora = next(r for r in rows if (r["task"], r["method"]) == ("rte", "lora"))
    assert (lora["protocol"], lora["n"], lora["rank"], lora["against"]) == ("validation", "3", "2.0", "genft")
    assert lora["published_percent"] == "72.92"
    (board,) = json.loads(report(tmp_path, "--format", "json"))["boards"]
    score = next(s for s in board["scores"] if (s["task"], s["label"]) == ("rte", "lora"))
    assert float(lora["mean"]) == score["mean"]
    assert [run["key"] for run in score["runs"]] == lora["keys"].split()
    assert not {"predictions", "targets"} & score["runs"][0].keys()
    markdown = report(tmp_path, "--format", "md")
    assert f"{100 * score['mean']:.2f} ± {100 * score['deviation']:.2f} (2)" in markdown
    report(tmp_path, "--out", tmp_path / "all.md")
    assert (tmp_path / "all.md").read_text() == markdown


def test_a_run_that_failed_is_named(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, {"rte": {"lora": 0.8}}, seeds=(0,))
    store.fail(Failure(key="f", task="rte", method="genft", seed=2, error="the loss became nan", spec={}))
    assert "failed: rte genft seed 2: the loss became nan" in report(tmp_path)


def test_one_seed_is_said(tmp_path: Path) -> None:
    fake_store.put(tmp_path, {"rte": {"lora": 0.8, "genft": 0.8}}, seeds=(3,))
    shown = report(tmp_path)
    assert "one seed (3)" in shown
    assert "±" not in shown
    assert "other seeds are not covered" in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "nowhere: holds no results"),
        (["{store}", "--against", "lorra"], "--against: 'lorra' is not known; allowed: lora; nearest: 'lora'"),
        (["{store}", "--out", "x.pdf"], "the extension: 'pdf' is not known; allowed: md, csv, json, html"),
    ],
)
def test_mistakes_are_sentences(tmp_path: Path, words: list[str], sentence: str) -> None:
    fake_store.put(tmp_path, {"rte": {"lora": 0.8}}, seeds=(0,))
    done = CliRunner().invoke(app, ["report", *(word.format(store=tmp_path) for word in words)])
    assert done.exit_code == 2
    assert sentence in done.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("task", "method", "said"),
    [
        ("rte", "lora", {"settings": {"r": 4, "target_modules": ["query", "value"]}, "limit_train": 100}),
        ("eurosat", "genft", {"settings": {"shared_dim": 8}, "training": {"image_size": 112, "weight_decay": 0.05}}),
        ("stsb", "linear", {"protocol": "validation-best"}),
    ],
)
def test_the_command_beside_a_run_repeats_it(tmp_path: Path, task: str, method: str, said: dict[str, object]) -> None:
    """It goes through the real command line, and comes out as the same spec."""
    store = fake_store.put(tmp_path, {task: {method: 0.8}}, seeds=(2,), **said)  # type: ignore[arg-type]
    (run,) = store
    words = shlex.split(command(run) or "")
    assert words[:2] == ["genft", "train"]
    requests: list[Request] = []
    commands = typer.Typer()

    @commands.command()
    @takes_options
    def collect(run: RunOptions) -> None:
        requests.append(build_request(run))

    done = CliRunner().invoke(commands, words[2:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    again, wanted = requests[0].spec, RunSpec.model_validate(run.spec)
    info = get_method(method)
    assert full_settings(info, again.settings) == full_settings(info, wanted.settings)
    assert again.model_copy(update={"settings": {}}) == wanted.model_copy(update={"settings": {}})


def test_a_task_of_an_own_suite_has_no_command(tmp_path: Path) -> None:
    (run,) = fake_store.put(tmp_path, {"rte": {"lora": 0.8}}, seeds=(0,))
    spec = {**run.spec, "task": {**run.spec["task"], "name": "mine"}}
    assert command(run.model_copy(update={"spec": spec})) is None
    assert command(run.model_copy(update={"spec": {"limit_train": None}})) is None
