"""CoNLL-2003 (Tjong Kim Sang and De Meulder, 2003) and WNUT-17 (Derczynski et al., 2017): named entities.

The official column files, or the Hub's copies.
"""

from __future__ import annotations

from typing import Any

from genft.data.examples import as_data
from genft.data.suite_tables import Files, suite_tables
from genft.data.tables import Table
from genft.data.tagged import read_tagged
from genft.data.task import Fault, Task, TaskData, refuse

_FILES = {
    "conll2003": Files(
        "eriktks/conll2003",
        ("conll2003/*.parquet", "**/*.parquet"),
        {
            "train": ("train", "eng"),
            "validation": ("validation", "valid", "dev", "testa"),
            "test": ("test", "testb"),
        },
        ".conll",
    ),
    "wnut17": Files(
        "leondz/wnut_17",
        ("wnut_17/*.parquet", "**/*.parquet"),
        {
            "train": ("train", "wnut17train"),
            "validation": ("dev", "validation", "emerging.dev"),
            "test": ("test", "emerging.test.annotated"),
        },
        ".conll",
    ),
}


def read_tagged_suite(task: Task, fault: Fault = refuse) -> TaskData:
    """The splits of a benchmark that exist; on the Hub, whose tags are numbers, they are the benchmark's classes in
    order."""
    tables = suite_tables(task, _FILES[task.name])
    return as_data(task, {name: read_tagged(*_named(table, task), fault) for name, table in tables.items()})


def _named(table: Table, task: Task) -> tuple[Table, Task]:
    """The table and its columns, with names in place of the Hub's numbers."""
    if "ner_tags" not in table.columns:
        return table, task
    rows: list[dict[str, Any]] = []
    for row in table.rows:
        tags = [tag if isinstance(tag, str) else task.classes[int(tag)] for tag in row["ner_tags"]]
        rows.append({**row, "ner_tags": tags})
    named = Table(table.path, table.columns, rows, table.places, table.notes)
    return named, task.model_copy(update={"label_column": "ner_tags"})
