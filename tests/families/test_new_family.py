"""A new family is one file: no other code knows its name, its metric, its files or its usual values."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import ok
from genft import load_adapter
from genft.data import READERS, Split, Task, TaskData
from genft.data.examples import Examples
from genft.data.own_files import read_own_files
from genft.data.own_table import OwnTable
from genft.data.tables import Table
from genft.data.task import Fault, refuse
from genft.families.classification import Classification
from genft.families.metrics import METRICS, Array, Metric
from genft.families.own_data import own_task
from genft.families.registry import FAMILIES
from genft.presets import load_preset
from genft.runs.options import options
from genft.runs.request import build_spec

SRC = Path(__file__).resolve().parents[2] / "src"


def read_moods(table: Table, task: Task, fault: Fault) -> Examples:
    """Utterances and their smileys; a smiley that laughs is a 1."""
    inputs = tuple((str(row["utterance"]),) for row in table.rows)
    labels = tuple(int(row["mood"] == ":)") for row in table.rows)
    return Examples(Split(inputs, labels), [table.where(k) for k in range(len(labels))], table.notes)


def read_mood_files(task: Task, fault: Fault = refuse) -> TaskData:
    known = task.model_copy(update={"classes": (":(", ":)")})
    return read_own_files(known, read_moods, fault, about="moods: smileys")


def laughs(predicted: Array, target: Array, weights: Array) -> Array:
    return weights @ (predicted == target) / weights.sum(axis=1)


class Moods(Classification):
    """Two smileys. A family of its own: files of its own, recognised by their columns, and a metric of its own."""

    name = "moods"
    kinds = ("text",)

    @classmethod
    def of_file(cls, task: Task, file: OwnTable) -> Task | None:
        if not {"utterance", "mood"} <= set(file.columns):
            return None
        columns = {"text_columns": ("utterance",), "label_column": "mood"}
        return task.model_copy(update={"family": cls.name, "reader": "moods", **columns})

    @property
    def usual_values(self) -> dict[str, Any]:
        return {"metric": "mood_hits", "max_length": 24}

    @property
    def metric(self) -> Metric:
        return METRICS[self.task.metric]

    @property
    def answers(self) -> str:
        return "a smiley"

    def scores(self, predicted: Array, target: Array) -> dict[str, float]:
        return {"mood_hits": METRICS["mood_hits"].score(predicted, target)}

    def answer(self, output: Any) -> dict[str, Any]:
        return {"smiley": self.task.classes[int(np.argmax(output))]}


@pytest.fixture
def moods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the new family, which is registered during the test."""
    monkeypatch.setitem(FAMILIES, "moods", Moods)
    monkeypatch.setitem(READERS, "moods", read_mood_files)
    metric = Metric("mood_hits", "share of right smileys", laughs, counts_hits=True, family="moods")
    monkeypatch.setitem(METRICS, "mood_hits", metric)
    path = tmp_path / "moods.jsonl"
    rows = [{"utterance": f"w{k % 20} {('bad', 'good')[k % 2]}", "mood": (":(", ":)")[k % 2]} for k in range(160)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_is_recognised_and_only_what_is_unusual_is_an_option(moods: Path) -> None:
    task = own_task(moods)
    assert (task.family, task.reader, task.metric, task.max_length) == ("moods", "moods", "mood_hits", 24)
    preset = load_preset("none")
    for changed in ({}, {"max_length": 16}):
        spec = build_spec(task.model_copy(update=changed), "bert", preset).spec
        values = options(spec, preset)
        assert values is not None
        assert {name: values.get(name) for name in ("family", "metric", "max_length")} == {
            "family": "moods", "metric": None, "max_length": changed.get("max_length"),
        }  # fmt: skip


def test_it_trains_predicts_and_evaluates_through_the_public_doors(moods: Path, bert: Path, tmp_path: Path) -> None:
    quick = ("--epochs", "6", "--batch-size", "8", "--learning-rate", "0.003", "--schedule", "constant")
    ok("train", moods, "--model", bert, "--method", "full", *quick, "--out", tmp_path / "runs")
    (folder,) = (tmp_path / "runs" / "adapters").iterdir()
    new = tmp_path / "new.jsonl"
    new.write_text('{"utterance": "w1 good"}\n{"utterance": "w2 bad"}\n')
    predicted = json.loads(ok("predict", folder, "--input", new, "--json"))
    assert [row["smiley"] for row in predicted] == [":)", ":("]
    scored = json.loads(ok("evaluate", folder, "--input", moods, "--json"))
    assert (scored["metric"], scored["value"]) == ("mood_hits", 1.0)
    assert load_adapter(folder).family.answers == "a smiley"


def test_no_other_code_compares_with_a_family() -> None:
    """Of method families, "peft" and others, this says nothing."""

    def named(node: ast.AST) -> bool:
        return any(isinstance(each, ast.Constant) and each.value in FAMILIES for each in ast.walk(node))

    asking = [
        f"{path.relative_to(SRC)}:{node.lineno}"
        for path in sorted(SRC.rglob("*.py"))
        if "families" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Compare, ast.MatchValue)) and named(node)
    ]
    assert asking == []
