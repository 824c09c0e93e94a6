"""Texts with any number of labels: read, learned, scored, predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from command_line import call, ok
from genft import ConfigError, DataError, load_adapter
from genft.data import read
from genft.data.task import Task
from genft.families.metrics import METRICS
from genft.families.multilabel import _counts
from genft.families.own_data import own_task
from genft.families.registry import get_family
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.settings import Training
from genft.runs.store import Store
from genft.training.prepared import prepare
from genft.training.run import run_once


def tickets(path: Path, rows: int = 160) -> Path:
    """ "good" and "bad" among other words; each is a label, and some texts have neither."""
    with path.open("w", encoding="utf-8") as file:
        for k in range(rows):
            labels = [name for bit, name in enumerate(("good", "bad")) if k >> bit & 1]
            file.write(json.dumps({"text": f"w{k % 20} {' '.join(labels)} w{k % 7}", "label": labels}) + "\n")
    return path


def test_lists_are_recognised_and_cells_are_split_when_asked(tmp_path: Path) -> None:
    task = own_task(tickets(tmp_path / "a.jsonl"))
    assert (task.family, task.metric) == ("multilabel", "micro_f1")
    data = read(task)
    assert data.task.classes == ("bad", "good")
    assert set(data.splits["train"].labels) == {(), ("good",), ("bad",), ("good", "bad")}
    assert "40 rows have no label in a.jsonl: none of the classes applies" in data.notes
    path = tmp_path / "b.csv"
    path.write_text("text,label\n" + "".join(f"t{k},{('a;b', 'b', '', 'c|a')[k % 4]}\n" for k in range(40)))
    assert own_task(path).family == "classification"
    data = read(own_task(path, family="multilabel"))
    assert data.task.classes == ("a", "b", "c")
    assert set(data.splits["train"].labels) == {("a", "b"), ("b",), (), ("c", "a")}


def test_several_labels_in_a_cell_lead_to_the_family(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"t{k},{('a;b', 'b', 'a')[k % 3]}\n" for k in range(40)))
    with pytest.raises(DataError, match=r"labels such as 'a;b' look like several .* --family multilabel reads them"):
        read(own_task(path))


def test_lists_in_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    cells = ('["a", "b"]', "[]", "['c', 'b']")  # pandas writes the last
    path.write_text("text\tlabel\n" + "".join(f"t{k}\t{cells[k % 3]}\n" for k in range(42)))
    with pytest.raises(DataError, match=r"look like several labels in one.* class; --family multilabel reads"):
        read(own_task(path))
    data = read(own_task(path, family="multilabel"))
    assert set(data.splits["train"].labels) == {("a", "b"), (), ("c", "b")}


def test_commas_are_not_split(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + "".join(f"t{k}\t{('a,b', 'b', 'a')[k % 3]}\n" for k in range(42)))
    with pytest.raises(DataError, match="with semicolons, --family multilabel reads"):
        read(own_task(path))


def test_a_label_outside_the_classes_is_a_fault(tmp_path: Path) -> None:
    train, test = tickets(tmp_path / "a.jsonl"), tmp_path / "test.jsonl"
    test.write_text(json.dumps({"text": "t", "label": ["god"]}) + "\n")
    with pytest.raises(
        DataError, match=r"test\.jsonl: line 1: label: 'god' is not one of the classes.*nearest: 'good'"
    ):
        read(own_task(train, test=test))


def test_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    predicted, true = rng.random((2, 50, 4)) > 0.6
    for name, expected in (
        ("micro_f1", f1_score(true, predicted, average="micro")),
        ("subset_accuracy", accuracy_score(true, predicted)),
    ):
        counted = _counts(name, np.where(predicted, 1.0, -1.0), true)
        assert METRICS[name].score(counted, np.zeros(50)) == pytest.approx(expected)


def test_labels_are_learned_scored_and_predicted(bert: Path, tmp_path: Path) -> None:
    path = tickets(tmp_path / "tickets.jsonl")
    values: dict[str, Any] = {"epochs": 6, "batch_size": 8, "learning_rate": 0.003, "schedule": "constant"}
    preset = Preset(name="none", source="")
    spec = build_spec(own_task(path), str(bert), preset, method="full", training=values).spec
    result = run_once(prepare(spec), Store(tmp_path / "runs").open())
    assert result.scores.value > 0.95
    assert result.scores.metrics.keys() == {"micro_f1", "subset_accuracy", "macro F1 of the labels"}
    assert result.scores.interval[0] <= result.scores.value <= result.scores.interval[1]
    folder = tmp_path / "runs" / result.adapter
    probabilities = load_adapter(folder).predict(["w1 good bad w2", "w3 w4"])
    assert (probabilities > 0.5).tolist() == [[True, True], [False, False]]
    rows = tmp_path / "new.jsonl"
    rows.write_text(json.dumps({"text": "w1 good w2"}) + "\n")
    (written,) = json.loads(ok("predict", str(folder), "--input", str(rows), "--json"))
    assert written["labels"] == "good"
    assert written["probabilities"]["good"] > 0.5
    scored = json.loads(ok("evaluate", str(folder), "--input", str(path), "--json"))
    assert scored["value"] > 0.95
    assert call("data", "check", str(path)).exit_code == 0


def test_what_does_not_apply_is_refused(tmp_path: Path) -> None:
    task = read(own_task(tickets(tmp_path / "a.jsonl"))).task
    family = get_family(task)
    assert family.answers == "any of 2 labels"
    for training in ({"class_weights": "balanced"}, {"label_smoothing": 0.1}):
        with pytest.raises(ConfigError, match="does not apply to several labels"):
            family.check(Training(**training))
    with pytest.raises(ConfigError, match="metric: 'accuracy' cannot score several labels; allowed: micro_f1, subset"):
        get_family(Task(**{**dict(task), "metric": "accuracy"})).check(Training())
