"""Questions about a context whose answers are parts of it: SQuAD's JSON, and tables with one question per row.

An example's inputs are its question and its context. Its label holds the answers that are equally right, each with its
place in the context; a question without an answer has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from genft.data.examples import Examples
from genft.data.limits import LONGEST_TEXT
from genft.data.own_files import read_own_files
from genft.data.own_table import OwnTable
from genft.data.tables import Table, tell
from genft.data.task import Fault, Split, Task, TaskData, refuse
from genft.errors import DataError, not_one_of

#: The usual names of the columns.
QUESTION, CONTEXT, ANSWERS = "question", "context", "answers"
#: Columns that hold the place of an answer whose text stands in a column of its own.
_STARTS = ("answer_start", "answer_starts", "start")
_IDS = ("id", "qid", "_id")


class Answer(NamedTuple):
    """A part of a context: ``context[start : start + len(text)] == text``."""

    text: str
    start: int


# -------------------------------------------------------------------- files


def as_questions(table: Table) -> Table:
    """``table`` with one question per row, if it is SQuAD's JSON (v1.1 or v2) read as a table; otherwise as it is.

    Raises:
        DataError: a part of the JSON is missing; the message says which.
    """
    (content, *others), path = table.rows, table.path
    if others or not isinstance(content.get("data"), list):
        return table
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    for a, article in enumerate(content["data"]):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{path}: data[{a}]")):
            where = f"data[{a}].paragraphs[{p}]"
            for q, question in enumerate(_list(paragraph, "qas", f"{path}: {where}")):
                if not isinstance(question, dict):
                    raise DataError(f"{path}: {where}.qas[{q}]: is not an object")
                known = {name: value for name, value in question.items() if name != "plausible_answers"}
                rows.append({**known, CONTEXT: paragraph.get(CONTEXT)})
                places.append(f"question {question['id']}" if "id" in question else f"{where}.qas[{q}]")
    if not rows:
        raise DataError(f"{path}: has no questions")
    return Table(path, tuple(dict.fromkeys(key for row in rows for key in row)), rows, places)


def _list(value: Any, name: str, where: str) -> list[Any]:
    entries = value.get(name) if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{where}: has no list {name!r}")
    return entries


class QuestionColumns(NamedTuple):
    """The columns of questions, contexts and answers."""

    question: str
    context: str
    answers: str


def find_question_columns(file: OwnTable) -> QuestionColumns | None:
    """The columns of a file with questions; None if the columns must be certain, and may mean something else, such as
    answers in other words than the context's.

    Raises:
        DataError: they need not be certain, and are not known.
    """
    columns = file.columns
    if file.path.suffix.lower() == ".json" and "data" in columns and QUESTION not in columns and file.table:
        columns = as_questions(file.table).columns
        if {QUESTION, CONTEXT, ANSWERS} <= set(columns):
            return QuestionColumns(QUESTION, CONTEXT, ANSWERS)
    usual = (ANSWERS, "answer") if not file.certain or set(_STARTS) & set(columns) else (ANSWERS,)
    answers = file.label or next((name for name in usual if name in columns), None)
    asked = tuple(file.texts) or (QUESTION, CONTEXT)
    if answers and len(asked) == 2 and {*asked, answers} <= set(columns):
        return QuestionColumns(*asked, answers)
    if file.certain:
        return None
    raise DataError(
        f"{file.path}: the columns {', '.join(columns)} are not those of questions, contexts and answers; name "
        "them with --text-column (the question's, then the context's) and --label-column"
    )


# -------------------------------------------------------------------- rows


def read_question_files(task: Task, fault: Fault = refuse) -> TaskData:
    """The questions of ``task.files``; a missing validation or test split is held out from training, by contexts."""
    asked, context = task.text_columns
    about = f"spans: questions from the column {asked!r} about {context!r}; answers from {task.label_column!r}"
    data = read_own_files(task, read_questions, fault, about=about, together="questions on the same context")
    unanswerable = not all(label for split in data.splits.values() for label in split.labels)
    answering = task.answering.model_copy(update={"unanswerable": unanswerable or task.answering.unanswerable})
    return replace(data, task=task.model_copy(update={"answering": answering}))


def read_questions(table: Table, task: Task, fault: Fault = refuse) -> Examples:
    """The examples of a table, or of SQuAD's JSON read as one.

    Args:
        table: its rows.
        task: names the columns: the question's, the context's, and the answers'.
        fault: called with a sentence for every row without a question or a context, and for every answer that is not
            at its place.
    """
    table = as_questions(table)
    asked, context = task.text_columns
    for name in (asked, context, task.label_column):
        if name not in table.columns:
            raise DataError(not_one_of(f"{table.path}: column", name, table.columns, what="is missing"))
    inputs: list[tuple[str, str]] = []
    labels: list[tuple[Answer, ...]] = []
    places: list[str] = []
    faults: list[str] = []
    unanswered = unplaced = repeated = 0
    for k, row in enumerate(table.rows):
        where = _where(table, k)
        try:
            text = _text(row.get(context), context)
            given = _answers(row, task.label_column)
            placed = [_placed(answer, text) for answer in given]
            question = _text(row.get(asked), asked)
        except DataError as e:
            faults.append(f"{where}: {e}")
            continue
        unplaced += sum(start is None for _, start in given)
        repeated += sum(start is None and text.count(answer) > 1 for answer, start in given)
        unanswered += not placed
        inputs.append((question, text))
        labels.append(tuple(placed))
        places.append(where)
    tell(faults, fault)
    notes = [*table.notes]
    if unanswered:
        have = "1 question has" if unanswered == 1 else f"{unanswered:,} questions have"
        notes.append(f"{have} no answer in {table.path.name}")
    if unplaced:
        several = f"; {repeated:,} of them occur several times there" if repeated else ""
        answers = "1 answer has" if unplaced == 1 else f"{unplaced:,} answers have"
        notes.append(f"{answers} no place, so the first one in the context is taken{several}")
    return Examples(Split(tuple(inputs), tuple(labels), tuple(text for _, text in inputs)), places, notes)


def _where(table: Table, k: int) -> str:
    """The place of a row, with the question's id if it has one."""
    name = next((str(table.rows[k][key]) for key in _IDS if table.rows[k].get(key) is not None), "")
    return table.where(k) if not name or name in table.places[k] else f"{table.where(k)}: question {name}"


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"no text in the column {column!r}")
    if len(value) > LONGEST_TEXT:
        raise DataError(f"the column {column!r} has {len(value):,} characters; at most {LONGEST_TEXT:,} are read")
    return value


def _answers(row: Mapping[str, Any], column: str) -> list[tuple[str, int | None]]:
    """The answers of a row, each with its place if that is given; none if the question has no answer.

    They may be SQuAD's list of objects, the Hub's object of two lists, a list of texts, or one text with its place in
    another column; in a cell of a CSV file, any of these as JSON.
    """
    value = _parsed(row.get(column))
    if row.get("is_impossible") in (True, "true", "True") or value is None:
        return []
    starts: Any
    if isinstance(value, dict):
        texts, starts = _as_list(value.get("text")), value.get("answer_start")
    elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        texts, starts = [entry.get("text") for entry in value], [entry.get("answer_start") for entry in value]
    else:
        texts = _as_list(value)
        starts = next((_parsed(row[name]) for name in _STARTS if row.get(name) is not None), None)
    if texts == [""]:
        return []
    starts = [None] * len(texts) if starts is None else _as_list(starts)
    if len(starts) != len(texts):
        raise DataError(f"the column {column!r} has texts and places in different numbers: {len(texts)}, {len(starts)}")
    answers: list[tuple[str, int | None]] = []
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"an answer in the column {column!r} is not a text: {str(text)[:60]!r}")
        answers.append((text, None if start is None else _whole(start)))
    return answers


def _placed(answer: tuple[str, int | None], context: str) -> Answer:
    """The answer at its place.

    Raises:
        DataError: it is not there.
    """
    text, start = answer
    first = context.find(text)
    if start is not None and start >= 0 and context.startswith(text, start):
        return Answer(text, start)
    if start is None and first >= 0:
        return Answer(text, first)
    if start is None:
        raise DataError(f"the answer {_short(text)} is not in its context")
    there = context[max(start, 0) : max(start, 0) + len(text)]
    instead = f"it is at {first}" if first >= 0 else "it is nowhere in the context"
    raise DataError(f"the answer {_short(text)} is not at its offset {start}, where {_short(there)} is; {instead}")


def _short(text: str, most: int = 40) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}…")


def _whole(start: Any) -> int:
    try:
        if isinstance(start, bool) or int(start) != float(start):
            raise ValueError
    except (TypeError, ValueError):
        raise DataError(f"the offset of an answer is {start!r}, which is no whole number") from None
    return int(start)


def _as_list(value: Any) -> list[Any]:
    """A list as it is, one value as a list of it, None as an empty one."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _parsed(value: Any) -> Any:
    """A list or an object in a cell of a CSV file is written as JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
