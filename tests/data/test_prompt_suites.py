"""Benchmarks whose answers are texts: where their files lie, and what becomes of their rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from genft.data import load_task, read, suite_tables
from genft.data.check import check_task


def save(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def gsm8k(folder: Path) -> None:
    for split in ("train", "test"):
        save(folder / "gsm8k" / f"{split}.jsonl", {"question": f"{split}?", "answer": "1 + 1\n#### 2"})


def test_gsm8k(tmp_path: Path) -> None:
    gsm8k(tmp_path)
    data = read(load_task("gsm8k", tmp_path))
    assert data.splits["test"].inputs == (("Question: test?\nAnswer:",),)
    assert data.splits["test"].labels == (("1 + 1\n#### 2",),)
    assert "train has 1 examples; gsm8k should have 7,473" in data.notes
    checked = check_task(load_task("gsm8k", tmp_path), lambda *_: None)
    assert (checked.faults, len(checked.differences), checked.classes) == ([], 2, 0)


def test_e2e_without_its_training_set_is_trained_on_the_development_set(tmp_path: Path) -> None:
    for split in ("dev", "test"):
        rows = [{"mr": f"{split}[{k // 2}]", "ref": f"text {k}"} for k in range(4)]
        save(tmp_path / "e2e" / f"{split}.jsonl", *rows)
    data = read(load_task("e2e", tmp_path))
    assert data.splits.keys() == {"train", "test"}
    assert len(data.splits["train"]) == 4
    assert data.splits["test"].inputs == (("test[0]\n\nText:",), ("test[1]\n\nText:",))
    assert data.splits["test"].labels == (("text 0", "text 1"), ("text 2", "text 3"))
    assert any("the development set is trained on" in note for note in data.notes)
    official = "MR,ref\ntrain[0],text\n"
    (tmp_path / "e2e" / "trainset.csv").write_text(official)
    data = read(load_task("e2e", tmp_path))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1, "validation": 4, "test": 2}
    assert data.splits["train"].inputs == (("train[0]\n\nText:",),)


def test_metamath_is_tested_on_gsm8k_and_leaves_out_long_texts(tmp_path: Path) -> None:
    gsm8k(tmp_path)
    rows = [{"query": f"q{k}", "response": "r" * (2000 if k == 3 else 5), "type": "t"} for k in range(30)]
    (tmp_path / "metamath").mkdir()
    (tmp_path / "metamath" / "MetaMathQA-395K.json").write_text(json.dumps(rows))
    data = read(load_task("metamath", tmp_path))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 27, "validation": 2, "test": 1}
    assert data.splits["test"].inputs == (("Question: test? Think step by step.\nAnswer:",),)
    assert data.splits["test"].labels == (("1 + 1\n#### 2",),)
    assert "29 of 30 examples have at most 1,300 characters; 29 of them are drawn" in data.notes
    assert all("q3 " not in text for split in data.splits.values() for (text,) in split.inputs)


@pytest.mark.parametrize(
    ("name", "column", "answer", "place"),
    [("xsum", "document", "summary", "data"), ("cnn_dailymail", "article", "highlights", "3.0.0")],
)
def test_the_hubs_copies(
    name: str, column: str, answer: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / place).mkdir()
    for split in ("train", "validation", "test"):
        frame = pd.DataFrame({column: [f"{split} text"], answer: ["short"], "id": ["1"]})
        frame.to_parquet(tmp_path / place / f"{split}-00000-of-00001.parquet")
    asked: list[Any] = []
    monkeypatch.setattr(suite_tables, "hub_folder", lambda *given: asked.append(given) or tmp_path)
    data = read(load_task(name))
    assert data.splits["validation"].inputs == (("validation text\n\nSummary:",),)
    assert data.splits["validation"].labels == (("short",),)
    assert len(asked) == 1
