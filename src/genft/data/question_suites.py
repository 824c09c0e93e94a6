"""SQuAD v1.1 (arXiv 1606.05250) and v2 (arXiv 1806.03822): the official JSON files, or the Hub's copies.

The official test sets have no public answers: the splits are train and validation (the official dev).
"""

from __future__ import annotations

from genft.data.examples import as_data
from genft.data.questions import read_questions
from genft.data.suite_tables import Files, suite_tables
from genft.data.task import Fault, Task, TaskData, refuse

_FILES = {
    "squad": Files(
        "rajpurkar/squad",
        ("plain_text/*.parquet",),
        {"train": ("train-v1.1", "train"), "validation": ("dev-v1.1", "dev", "validation")},
        ".json",
    ),
    "squad2": Files(
        "rajpurkar/squad_v2",
        ("squad_v2/*.parquet",),
        {"train": ("train-v2.0", "train"), "validation": ("dev-v2.0", "dev", "validation")},
        ".json",
    ),
}


def read_question_suite(task: Task, fault: Fault = refuse) -> TaskData:
    """The splits of a benchmark that exist."""
    tables = suite_tables(task, _FILES[task.name])
    return as_data(task, {name: read_questions(table, task, fault) for name, table in tables.items()})
