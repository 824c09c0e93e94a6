"""Texts with several labels each: a list per row, or names in one cell, separated by semicolons or vertical bars.

An example's label is the tuple of its labels' names, in the order of the classes; it may be empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from genft.data.examples import Examples
from genft.data.labels import list_in
from genft.data.own_files import read_own_files
from genft.data.own_table import OwnTable
from genft.data.tables import Table, tell
from genft.data.task import Fault, Split, Task, TaskData, refuse
from genft.errors import DataError, not_one_of

_SEPARATOR = re.compile("[;|]")


def has_lists(file: OwnTable, column: str) -> bool:
    """Whether the labels in a column are lists, so that a row may have several."""
    if file.path.suffix.lower() not in (".jsonl", ".json", ".parquet") or column not in file.columns:
        return False
    return file.table is not None and any(isinstance(row.get(column), list) for row in file.table.rows)


def read_several_files(task: Task, fault: Fault = refuse) -> TaskData:
    """The rows of ``task.files`` with any number of labels; a missing validation or test split is held out."""

    def classes(labels: Sequence[Sequence[str]]) -> tuple[str, ...]:
        names = tuple(sorted({name for label in labels for name in label}))
        if len(names) < 2:
            column = f"{task.files['train']}: column {task.label_column!r}"
            raise DataError(f"{column}: at least two different labels are needed")
        return names

    about = f"multilabel: any number of labels per row, from the column {task.label_column!r}"
    return read_own_files(task, read_several, fault, about=about, classes=classes)


def read_several(table: Table, task: Task, fault: Fault = refuse) -> Examples:
    """The examples of a table.

    Args:
        table: its rows.
        task: names the columns; if it has classes, every label must be one of them.
        fault: called with a sentence for every row without a text, or with labels that cannot be used.
    """
    texts = [table.values(name, option="--text-column", fault=fault) for name in task.text_columns]
    if task.label_column not in table.columns:
        missing = not_one_of(f"{table.path}: column", task.label_column, table.columns, what="is missing")
        raise DataError(f"{missing}; name the column with --label-column")
    inputs, labels, places = [], [], []
    faults: list[str] = []
    for k, (row, *of_row) in enumerate(zip(table.rows, *texts, strict=True)):
        if None in of_row:
            continue
        try:
            label = tuple(dict.fromkeys(_labels(row.get(task.label_column), task.classes)))
        except DataError as e:
            faults.append(f"{table.where(k)}: {e}")
            continue
        inputs.append(tuple(text or "" for text in of_row))
        labels.append(label)
        places.append(table.where(k))
    tell(faults, fault)
    notes = [*table.notes]
    if empty := labels.count(()):
        have = "1 row has" if empty == 1 else f"{empty:,} rows have"
        notes.append(f"{have} no label in {table.path.name}: none of the classes applies")
    return Examples(Split(tuple(inputs), tuple(labels)), places, notes)


def _labels(value: Any, classes: Sequence[str]) -> Iterator[str]:
    if isinstance(value, str) and value.lstrip().startswith("["):  # a list in a cell of a CSV file
        cell, value = value, list_in(value)
        if value is None:
            raise DataError(f"the labels {cell!r} begin like a list and are none")
    if value is None:
        value = []
    names = value if isinstance(value, list) else _SEPARATOR.split(str(value))
    for name in names:
        if isinstance(name, (list, dict)) or name is None:
            raise DataError(f"a label is {name!r}, which is no name")
        if not (plain := str(name).strip()):
            continue
        if classes and plain not in classes:
            raise DataError(not_one_of("label", plain, classes, what="is not one of the classes"))
        yield plain
