"""Which family a user's own file belongs to: recognised where its columns leave no doubt, or named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genft import ConfigError, DataError
from genft.data import own_table, read_table
from genft.families.own_data import own_task


def save(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


ASKED = {"question": "where?", "context": "Warsaw lies on the Vistula.", "answers": ["Vistula"]}


@pytest.mark.parametrize(
    ("row", "family"),
    [
        (ASKED, "spans"),
        ({**ASKED, "id": 1, "title": "Warsaw"}, "spans"),
        ({"question": "q", "context": "c", "answer": "c", "answer_start": 0}, "spans"),
        ({"question": "q", "context": "c", "answer": "in other words"}, "classification"),
        ({"text": "good", "label": "yes"}, "classification"),
        ({"prompt": "p", "completion": "c"}, "generation"),
    ],
)
def test_the_family_follows_from_the_columns(row: dict[str, Any], family: str, tmp_path: Path) -> None:
    assert own_task(save(tmp_path / "rows.jsonl", row)).family == family


def test_squad_is_recognised_by_its_articles(tmp_path: Path) -> None:
    path = tmp_path / "qa.json"
    answers = [{"text": "Vistula", "answer_start": 19}]
    paragraph = {"context": ASKED["context"], "qas": [{"id": "a", "question": "where?", "answers": answers}]}
    path.write_text(json.dumps({"data": [{"title": "Warsaw", "paragraphs": [paragraph]}]}))
    task = own_task(path)
    assert (task.family, task.reader, task.metric, task.max_length) == ("spans", "questions", "squad_f1", 384)
    assert (task.text_columns, task.label_column) == (("question", "context"), "answers")
    path.write_text(json.dumps([{"data": "a text", "label": "yes"}]))
    assert own_task(path).family == "classification"


def test_what_the_user_names_is_taken(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.jsonl", {"q": "where?", "passage": "on the Vistula", "gold": ["Vistula"]})
    task = own_task(path, family="spans", text_columns=["q", "passage"], label_column="gold")
    assert (task.family, task.text_columns, task.label_column) == ("spans", ("q", "passage"), "gold")
    with pytest.raises(DataError, match="the columns q, passage, gold are not those of questions, contexts"):
        own_task(path, family="spans")
    asked = save(tmp_path / "asked.jsonl", ASKED)
    assert own_task(asked, family="classification").family == "classification"
    assert own_task(asked, text_columns=["question"], label_column="answers").family == "classification"


@pytest.mark.parametrize("family", ["generation", "multilabel", "tokens", "spans"])
def test_a_folder_of_images_is_no_table(family: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"family: {family} learns from texts, and .* is a folder of images"):
        own_task(tmp_path, family=family)
    assert own_task(tmp_path, family="classification").kind == "image"


@pytest.mark.parametrize(("ending", "times"), [(".jsonl", 1), (".csv", 0)])
def test_a_table_is_read_once_to_recognise_it(
    ending: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"rows{ending}"
    row = {"text": "good", "label": "yes"}
    path.write_text("text,label\ngood,yes\n" if ending == ".csv" else json.dumps(row))
    read: list[Path] = []
    monkeypatch.setattr(own_table, "read_table", lambda path, encoding: read.append(path) or read_table(path, encoding))
    assert own_task(path).family == "classification"
    assert read == [path] * times
