"""Damaged, copied and hostile results: named, counted, and never the end of a report."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import fake_store
from genft import DataError
from genft.cli import app
from genft.families.metrics import METRICS, Metric
from genft.report.collect import read_boards, read_report
from genft.report.doubts import doubts
from genft.report.formats import as_csv, as_json, as_markdown, as_rich
from genft.report.page import render
from genft.report.significance import compare
from genft.report.terminal import comparison
from genft.runs.measured import Failure, Result
from genft.runs.store import Store, answers, pack, unpack

TASKS = {"rte": {"genft": 0.9, "lora": 0.8, "linear": 0.5}, "cola": {"genft": 0.9, "lora": 0.8, "linear": 0.5}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return fake_store.put(tmp_path, TASKS, seeds=(0, 1))


def one(store: Store, task: str = "rte", method: str = "lora", seed: int = 0) -> Result:
    return next(r for r in store if (r.task, r.method, r.seed) == (task, method, seed))


def change(store: Store, result: Result, **parts: Any) -> Result:
    """Store ``result`` with other values; a dictionary changes fields of that part."""
    values = {
        name: getattr(result, name).model_copy(update=new) if isinstance(new, dict) and name != "spec" else new
        for name, new in parts.items()
    }
    changed = result.model_copy(update=values)
    store.put(changed)
    return changed


def every_format(store: Store) -> dict[str, str]:
    """All that `genft report` can write, without an error."""
    report = read_report(store)
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(as_rich(report))
    return {
        "text": console.file.getvalue(),  # type: ignore[attr-defined]
        "md": as_markdown(report),
        "csv": as_csv(report),
        "json": as_json(report),
        "html": render(store, report),
    }


# ---------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_neither_ranked_nor_averaged(store: Store, value: float) -> None:
    change(store, one(store), scores={"value": value, "metrics": {"accuracy": value}, "interval": (value, value)})
    (board,), _ = read_boards(store)
    assert board.ranks("rte") == {"genft": 1, "linear": 2}
    assert set(board.common) == {"cola", "rte"}
    assert board.complete == ("genft", "linear")
    assert board.reference() == "genft"
    assert ("rte", "lora") not in compare(board).tasks
    written = every_format(store)
    assert "lora on rte has no finite score (seed 0), so no rank and no mean" in written["text"]
    assert "not finite" in written["md"]
    row = next(r for r in csv.DictReader(io.StringIO(written["csv"])) if (r["task"], r["method"]) == ("rte", "lora"))
    assert row["rank"] == ""
    score = next(
        s for s in json.loads(written["json"])["boards"][0]["scores"] if (s["task"], s["label"]) == ("rte", "lora")
    )
    assert (score["mean"], score["deviation"]) == (None, None)


def test_predictions_that_are_not_finite_are_not_compared(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, {"stsb": {"genft": 0.9, "lora": 0.8}}, seeds=(0,))
    run = one(store, "stsb")
    predicted = unpack(run.predictions).copy()
    predicted[3] = np.nan
    change(store, run, predictions=pack(predicted))
    found = compare(read_boards(store)[0][0])
    assert found.tasks == {}
    assert "predictions that are not finite" in found.notes[0]


# ---------------------------------------------------------------- seeds that are none


def test_a_copied_result_is_no_further_seed(store: Store) -> None:
    run = one(store)
    (store.results / "copied.json").write_bytes(store.path(run.key).read_bytes())
    (board,), notes = read_boards(store)
    assert board.score("rte", "lora").n == 2  # type: ignore[union-attr]
    assert notes[0] == "1 of 13 results are left out"
    assert f"copied.json: holds the result of the run {run.key}" in notes[1]


def test_swapped_files_do_not_swap_methods(store: Store) -> None:
    first, second = (store.path(one(store, method=method).key) for method in ("genft", "linear"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    (board,), notes = read_boards(store)
    assert len(notes) == 3
    assert board.score("rte", "genft").n == 1  # type: ignore[union-attr]
    with pytest.raises(DataError, match="it was copied or renamed"):
        store.get(first.stem)


def test_two_results_of_one_seed_count_once_and_the_newer_one_counts(store: Store) -> None:
    run = one(store)
    newer = change(store, run, key="other", provenance={"started": "2026-11-23T10:00:00+00:00"}, scores={"value": 0.1})
    (board,), notes = read_boards(store)
    assert board.runs["rte", "lora"][0].key == newer.key
    assert notes[1] == f"left out: {run.key} is lora on rte with seed 0, as other is"


def test_seeds_of_different_versions_are_said(store: Store) -> None:
    change(store, one(store), provenance={"versions": {"genft": "0.2.0", "torch": "2.14.1"}})
    assert "lora on rte mixes seeds made by different versions of genft (0.1.0, 0.2.0)" in every_format(store)["text"]


def test_seeds_whose_examples_became_other_inputs_are_not_averaged(store: Store) -> None:
    """The base's tokenizer was exchanged between two benches."""
    for run in list(store):
        if run.task == "rte":
            change(store, run, provenance={"input_fingerprint": ("aaaa1", "aaaa2")[run.seed]})
    (board,), notes = read_boards(store)
    assert set(board.tasks) == {"cola", "rte (inputs aaaa1)", "rte (inputs aaaa2)"}  # four digits are not the hash
    assert [board.score(f"rte (inputs {made})", "lora").n for made in ("aaaa1", "aaaa2")] == [1, 1]  # type: ignore[union-attr]
    assert notes == []
    said = (
        "rte has a row for each tokenizer or image preprocessor (or the images' pixels) that its results were made "
        "with: rte (inputs aaaa1), rte (inputs aaaa2)"
    )
    assert said in " ".join(every_format(store)["text"].split())
    change(store, one(store), provenance={"input_fingerprint": None})
    (board,), _ = read_boards(store)
    assert "rte (inputs not recorded)" in board.tasks


def test_results_without_a_record_of_their_inputs_keep_their_row(store: Store) -> None:
    change(store, one(store), provenance={"input_fingerprint": "aaaa1"})
    (board,), _ = read_boards(store)
    assert board.score("rte", "lora").n == 2  # type: ignore[union-attr]
    assert doubts(board) == [
        "lora on rte mixes seeds that recorded their tokenizer or image preprocessor with seeds that did not (seed 1)"
    ]


def test_scores_by_different_metrics_stand_in_different_rows(store: Store) -> None:
    for seed in (0, 1):
        change(store, one(store, seed=seed), scores={"metric": "macro_f1"})
    (board,), _ = read_boards(store)
    assert set(board.tasks) == {"cola", "rte (accuracy)", "rte (macro_f1)"}


# ---------------------------------------------------------------- files that cannot be read


def unpacks_to_gigabytes(path: Path) -> None:
    content = json.loads(path.read_text())
    content["predictions"] = base64.b64encode(zlib.compress(b"\x93NUMPY" + bytes(2**30), 9)).decode()
    path.write_text(json.dumps(content))


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b"{"), "is not a result of this version"),
        (lambda path: path.write_text("[" * 100_000), "is not a result of this version"),
        (edited(lambda c: c.update(surprise=1)), "surprise: Extra inputs are not permitted"),
        (edited(lambda c: c["scores"].update(metric="meteor")), "metric: 'meteor' is not known; allowed: accuracy"),
        (edited(lambda c: c["spec"].update(task="rte")), "spec.task is not a table of names and values"),
    ],
)
def test_an_unreadable_result_is_named_and_the_others_are_shown(
    store: Store, damage: Callable[[Path], None], reason: str
) -> None:
    path = store.path(one(store).key)
    damage(path)
    written = every_format(store)
    assert "1 of 12 results are left out" in written["text"]
    assert path.name in written["text"]
    assert reason in written["text"]
    assert "lora is missing: rte (1 of 2 seeds)" in written["text"]


@pytest.mark.parametrize("damage", [directory, fifo])
def test_what_is_no_file_is_no_result(store: Store, damage: Callable[[Path], None]) -> None:
    damage(store.path(one(store).key))
    assert "lora is missing: rte (1 of 2 seeds)" in every_format(store)["text"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (unpacks_to_gigabytes, r"its predictions cannot be read \(it unpacks to more than 64 MiB\)"),
        (edited(lambda c: c.update(predictions="AAAA")), "its predictions cannot be read"),
        (edited(lambda c: c.update(predictions="")), "its predictions cannot be read"),
        (edited(lambda c: c.update(targets=pack(np.arange(3)))), r"predictions \(300,\) and targets \(3,\) do not"),
    ],
)
def test_damaged_predictions_name_their_file_and_cost_one_comparison(
    store: Store, damage: Callable[[Path], None], reason: str
) -> None:
    run = one(store)
    damage(store.path(run.key))
    with pytest.raises(DataError, match=rf"{run.key}\.json: .*{reason}"):
        answers(one(store))
    found = compare(read_boards(store)[0][0])
    assert ("rte", "lora") not in found.tasks
    assert ("rte", "linear") in found.tasks
    assert f"not compared: results/{run.key}.json" in every_format(store)["md"].replace("\\", "")


def test_a_setting_of_another_version_leaves_a_report_without_that_command(store: Store) -> None:
    run = one(store)
    change(store, run, spec={**run.spec, "settings": {**run.spec["settings"], "novelty": 1}})
    written = every_format(store)
    runs = [r for s in json.loads(written["json"])["boards"][0]["scores"] for r in s["runs"]]
    assert [r["command"] is None for r in runs if r["key"] == run.key] == [True]


def test_a_failure_without_a_reason_is_a_sentence(store: Store) -> None:
    store.fail(Failure(key="f", task="rte", method="genft", seed=2, error="", spec={}))
    (store.failures / "g.json").write_text("{")
    text = every_format(store)["text"]
    assert "failed: rte genft seed 2: no reason was recorded" in text
    assert "g.json: is not a failure of this version" in text


def test_a_store_of_damaged_results_says_why_it_is_empty(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, {"rte": {"lora": 0.8}}, seeds=(0,))
    store.path(one(store).key).write_text("")
    with pytest.raises(DataError, match=r"holds no results \(1 cannot be read; the first: left out: .*\.json: is not"):
        read_report(store)


# ---------------------------------------------------------------- hostile names


def test_names_reach_neither_the_terminal_nor_markdown_as_commands(tmp_path: Path) -> None:
    store = fake_store.put(tmp_path, {"rte": {"lora": 0.8, "genft": 0.9}}, seeds=(0,))
    evil = "a\x1b[2J\n# b | `c` [d](http://e) *f* <g>"
    for run in list(store):
        change(store, run, task=evil)
    written = every_format(store)
    assert "\x1b" not in "".join(written.values())
    assert "\n# b" not in written["text"] + written["md"]
    assert r"\x1b\[2J\n\# b \| \`c\` \[d\](http://e) \*f\* \<g\>" in written["md"].replace("\\\\", "\\")
    assert "](" not in written["md"].replace(r"\](", "")


def test_a_key_cannot_leave_the_store(tmp_path: Path) -> None:
    fake_store.put(tmp_path / "a", {"rte": {"lora": 0.8}}, seeds=(0,), bench="m")
    path = tmp_path / "a" / "bench.json"
    content = json.loads(path.read_text())
    content["cells"][0]["key"] = "../../b/results/secret"
    path.write_text(json.dumps(content))
    done = CliRunner().invoke(app, ["report", str(tmp_path / "a")])
    assert done.exit_code == 2
    assert "cells.0.key: String should match pattern" in done.stderr.replace("\n", "")


# ---------------------------------------------------------------- collapsed trainings, other metrics


def test_a_run_with_constant_predictions_is_named(store: Store) -> None:
    run = one(store)
    change(store, run, predictions=pack(np.zeros_like(unpack(run.predictions))))
    written = every_format(store)
    sentence = "lora on rte makes the same prediction for every example (seed 0): training collapsed"
    assert sentence in written["text"]
    assert "1 constant)" in written["md"]
    rows = {(r["task"], r["method"]): r for r in csv.DictReader(io.StringIO(written["csv"]))}
    assert (rows["rte", "lora"]["constant_seeds"], rows["rte", "genft"]["constant_seeds"]) == ("0", "")
    runs = {r["key"]: r["constant"] for s in json.loads(written["json"])["boards"][0]["scores"] for r in s["runs"]}
    assert [key for key, constant in runs.items() if constant] == [run.key]


def test_a_single_run_with_constant_predictions_is_named_too(store: Store) -> None:
    run = one(store)
    collapsed = run.model_copy(update={"predictions": pack(np.zeros_like(unpack(run.predictions)))})
    console = Console(width=100)
    with console.capture() as shown:
        console.print(comparison([run, collapsed]))
    assert shown.get().count("lora (constant)") == 1
    assert "constant: the same prediction for every example, so training collapsed" in shown.get()


@pytest.fixture
def mean_error(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """A metric that is low where answers are good, in a unit of its own."""
    metric = Metric(
        "mae",
        "mean absolute error",
        lambda predicted, target, weights: weights @ abs(predicted - target) / weights.sum(axis=1),
        numbers=True,
        higher_is_better=False,
        scale=1,
        digits=3,
    )
    monkeypatch.setitem(METRICS, "mae", metric)
    return metric


def test_a_lower_error_is_better_and_is_no_percentage(tmp_path: Path, mean_error: Metric) -> None:
    store = fake_store.put(tmp_path, {"stsb": {"genft": 0.99, "lora": 0.2, "linear": 0.1}})
    for run in list(store):
        value = mean_error.score(*answers(run))
        change(store, run, scores={"metric": "mae", "value": value, "metrics": {"mae": value}})
    (board,), _ = read_boards(store)
    assert board.ranks("stsb") == {"genft": 1, "lora": 2, "linear": 3}
    assert board.reference() == "genft"
    worse = compare(board).tasks["stsb", "linear"]
    assert worse.real
    assert worse.difference.value > 0
    written = every_format(store)
    assert "protocol validation: mae\n" in written["text"]
    assert "lower is better: mae" in written["text"]
    mean = board.score("stsb", "genft").mean  # type: ignore[union-attr]
    assert f"**{mean:.3f} ±" in written["md"]
    assert f"▼ +{worse.difference.value:.3f} [" in written["md"].replace("\\", "")


def test_scores_on_different_scales_are_not_averaged(tmp_path: Path, mean_error: Metric) -> None:
    store = fake_store.put(tmp_path, {"stsb": {"genft": 0.9, "lora": 0.2}, "rte": {"genft": 0.9, "lora": 0.5}})
    for run in [run for run in store if run.task == "stsb"]:
        change(store, run, scores={"metric": "mae", "value": mean_error.score(*answers(run))})
    (board,), _ = read_boards(store)
    assert board.mean_metric is None
    assert board.mean_rank("genft") == 1
    assert compare(board).means == {}
    text = every_format(store)["text"]
    assert "no means: the tasks are scored on different scales" in text
    assert "mean of" not in text
