"""Questions and their answers in files: SQuAD's JSON, the Hub's tables, and a user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from genft import DataError
from genft.data import Task, load_task, question_suites, read, suite_tables
from genft.data.check import check_task
from genft.data.questions import Answer, as_questions, read_questions
from genft.data.tables import Table, read_table
from genft.runs.protocols import assign_roles, get_protocol

CONTEXT = "Warsaw lies on the Vistula. The Vistula is a river."


def squad(path: Path, *questions: dict[str, Any], context: str = CONTEXT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    article = {"title": "Warsaw", "paragraphs": [{"context": context, "qas": list(questions)}]}
    path.write_text(json.dumps({"version": "1.1", "data": [article]}), encoding="utf-8")
    return path


def question(name: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    listed = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": f"{name}?", "answers": listed, **more}


def task(**changes: Any) -> Task:
    values: dict[str, Any] = {"text_columns": ("question", "context"), "label_column": "answers"}
    return Task(name="t", kind="text", family="spans", reader="questions", metric="squad_f1", **values | changes)


def rows(folder: Path, *entries: dict[str, Any]) -> Table:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return read_table(path)


def test_squad_has_one_row_per_question(tmp_path: Path) -> None:
    path = squad(
        tmp_path / "dev.json",
        question("a", ("Vistula", 19), ("the Vistula", 15)),
        question("b", is_impossible=True, plausible_answers=[{"text": "river", "answer_start": 45}]),
    )
    table = as_questions(read_table(path))
    assert [(row["id"], row["question"]) for row in table.rows] == [("a", "a?"), ("b", "b?")]
    assert "plausible_answers" not in table.columns
    questions = read_questions(table, task())
    assert questions.split.inputs == (("a?", CONTEXT), ("b?", CONTEXT))
    assert questions.split.labels == ((Answer("Vistula", 19), Answer("the Vistula", 15)), ())
    assert list(questions.places) == [f"{path}: question a", f"{path}: question b"]
    assert questions.notes == ["1 question has no answer in dev.json"]


@pytest.mark.parametrize(
    "given",
    [
        {"answers": {"text": ["Vistula"], "answer_start": [19]}},
        {"answers": {"text": "Vistula", "answer_start": 19}},
        {"answers": [{"text": "Vistula", "answer_start": 19}]},
        {"answers": '{"text": ["Vistula"], "answer_start": [19]}'},
        {"answers": ["Vistula"], "answer_start": [19]},
        {"answers": "Vistula", "answer_start": "19"},
        {"answers": "Vistula"},
    ],
)
def test_answers_may_be_written_in_several_ways(given: dict[str, Any], tmp_path: Path) -> None:
    questions = read_questions(rows(tmp_path, {"question": "where?", "context": CONTEXT, **given}), task())
    assert questions.split.labels == ((Answer("Vistula", 19),),)


def test_an_answer_without_a_place_is_the_first_one_and_counted(tmp_path: Path) -> None:
    entry = {"question": "where?", "context": CONTEXT, "answers": ["Vistula"]}
    other = {"question": "what?", "context": CONTEXT, "answers": ["river"]}
    questions = read_questions(rows(tmp_path, entry, other), task())
    assert questions.notes == [
        "2 answers have no place, so the first one in the context is taken; 1 of them occur several times there"
    ]


@pytest.mark.parametrize("given", [{"answers": []}, {"answers": {"text": [], "answer_start": []}}, {"answers": None}])
def test_a_question_without_an_answer_has_none(given: dict[str, Any], tmp_path: Path) -> None:
    questions = read_questions(rows(tmp_path, {"question": "where?", "context": CONTEXT, **given}), task())
    assert questions.split.labels == ((),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"answers": {"text": ["Vistula"], "answer_start": [18]}},
            r"line 1: question q7: the answer 'Vistula' is not at its offset 18, where ' Vistul' is; it is at 19",
        ),
        (
            {"answers": {"text": ["Oder"], "answer_start": [-1]}},
            r"question q7: the answer 'Oder' is not at its offset -1, where 'Wars' is; it is nowhere in the context",
        ),
        ({"answers": ["Oder"]}, r"question q7: the answer 'Oder' is not in its context"),
        ({"answers": {"text": ["Vistula"], "answer_start": []}}, r"texts and places in different numbers: 1, 0"),
        (
            {"answers": {"text": ["Vistula", "river"], "answer_start": [19]}},
            r"column 'answers' has texts and places in different numbers: 2, 1",
        ),
        (
            {"answers": {"text": ["Vistula"], "answer_start": [1.5]}},
            r"the offset of an answer is 1\.5, which is no",
        ),
        ({"answers": [3]}, r"an answer in the column 'answers' is not a text: '3'"),
        ({"question": " "}, r"question q7: no text in the column 'question'"),
        ({"context": None}, r"question q7: no text in the column 'context'"),
    ],
)
def test_rows_that_cannot_be_used_are_named_with_their_id(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    entry = {"id": "q7", "question": "where?", "context": CONTEXT, "answers": ["Vistula"]}
    table = rows(tmp_path, {**entry, **changes})
    with pytest.raises(DataError, match=message):
        read_questions(table, task())
    faults: list[str] = []
    questions = read_questions(table, task(), faults.append)
    assert len(faults) == 1
    assert len(questions.split) == 0


def test_a_file_that_is_almost_squad_is_refused_with_the_missing_part(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "c", "questions": []}]}]}))
    with pytest.raises(DataError, match=r"dev.json: data\[0\].paragraphs\[0\]: has no list 'qas'"):
        as_questions(read_table(path))
    path.write_text(json.dumps({"data": [{"text": "c"}]}))
    with pytest.raises(DataError, match=r"dev.json: data\[0\]: has no list 'paragraphs'"):
        as_questions(read_table(path))


@pytest.mark.parametrize(("name", "version"), [("squad", "v1.1"), ("squad2", "v2.0")])
def test_suites_on_disk(name: str, version: str, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        squad(tmp_path / name / f"{split}-{version}.json", question(split, ("Vistula", 19)))
    data = read(load_task(name, tmp_path))
    assert data.splits["train"].inputs == (("train?", CONTEXT),)
    assert data.splits["validation"].labels == ((Answer("Vistula", 19),),)
    expected = {"squad": "87,599", "squad2": "130,319"}[name]
    assert f"train has 1 examples; {name} should have {expected}" in data.notes
    squad(tmp_path / name / f"dev-{version}.json", question("bad", ("Vistula", 3)))
    checked = check_task(load_task(name, tmp_path), lambda *_: None)
    assert [fault.rpartition(": question ")[2][:50] for fault in checked.faults] == [
        "bad: the answer 'Vistula' is not at its offset 3, "
    ]


def test_suites_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "plain_text"
    folder.mkdir()
    for split in ("train", "validation"):
        row = {"id": split, "title": "Warsaw", "context": CONTEXT, "question": f"{split}?"}
        answers = {"text": ["Vistula"], "answer_start": [19]}
        pd.DataFrame([{**row, "answers": answers}]).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    asked: list[Any] = []

    def hub(*arguments: Any) -> Path:
        asked.append(arguments[1:])
        return tmp_path

    monkeypatch.setattr(suite_tables, "hub_folder", hub)
    data = question_suites.read_question_suite(load_task("squad"))
    assert data.splits["train"].labels == ((Answer("Vistula", 19),),)
    assert data.splits["validation"].inputs == (("validation?", CONTEXT),)
    assert asked == [(["train-v1.1.json", "dev-v1.1.json"], "rajpurkar/squad", ("plain_text/*.parquet",))]


def test_own_questions_are_held_out_by_their_contexts(tmp_path: Path) -> None:
    entries = [
        {"question": f"{q} {c}?", "context": f"context {c}", "answers": ["context"] if q else []}
        for c in range(20)
        for q in range(3)
    ]
    path = rows(tmp_path, *entries).path
    data = read(task(files={"train": path}))
    contexts = [{context for _, context in split.inputs} for split in data.splits.values()]
    assert sum(map(len, contexts)) == len(set.union(*contexts)) == 20
    assert sum(map(len, data.splits.values())) == 60
    assert data.task.answering.unanswerable
    assert "questions on the same context are kept in the same split" in data.notes


def test_the_tenth_of_squad_that_selects_has_contexts_of_its_own(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        paragraphs = [
            {
                "context": f"{split} {c}",
                "qas": [{**question(f"{c}-{q}", (split, 0)), "id": f"{c}-{q}"} for q in range(4)],
            }
            for c in range(30)
        ]
        path = tmp_path / "squad" / f"{split}-v1.1.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    roles = assign_roles(read(load_task("squad", tmp_path)), get_protocol("validation"), by_class=False)
    train, select = ({context for _, context in split.inputs} for split in (roles.train, roles.select))
    assert (len(train), len(select), len(train & select)) == (27, 3, 0)
    assert roles.notes == []
