"""A user's own file as a task: each family recognises its own kind of file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genft.data.files import task_from_path
from genft.data.task import Task
from genft.families.registry import FAMILIES


def own_task(
    path: Path,
    *,
    family: str | None = None,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    regression: bool = False,
    **how: Any,
) -> Task:
    """The task that a user's own file or image folder describes, or a data set of the Hub.

    Args:
        path: see :func:`genft.data.files.task_from_path`.
        family: the kind of task; None: the one that the columns leave no doubt about, otherwise classification.
        text_columns, label_column: the columns that the user named.
        regression: whether the label is a number.
        how: further arguments of :func:`~genft.data.files.task_from_path`.

    Raises:
        DataError: the file cannot be read, or its columns are not known.
        ConfigError: options that do not suit the family.
    """
    task = task_from_path(
        path, family=family, text_columns=text_columns, label_column=label_column, regression=regression, **how
    )
    if family is not None:
        return FAMILIES[family].of_file(task, text_columns, label_column, certain=False) or task
    if task.reader != "files" or text_columns or label_column or regression:
        return task
    recognised = (each.of_file(task, (), None, certain=True) for each in FAMILIES.values())
    return next(filter(None, recognised), task)
