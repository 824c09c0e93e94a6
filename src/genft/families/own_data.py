"""A user's own file as a task: each family recognises its own kind of file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genft.data.files import task_from_path
from genft.data.own_table import OwnTable
from genft.data.task import Task
from genft.errors import ConfigError
from genft.families.registry import FAMILIES, get_family


def own_task(
    path: Path,
    *,
    family: str | None = None,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    regression: bool = False,
    prompting: Mapping[str, Any] | None = None,
    **how: Any,
) -> Task:
    """The task that a user's own file or image folder describes, or a data set of the Hub.

    Args:
        path: see :func:`genft.data.files.task_from_path`.
        family: the kind of task; None: the one that the columns leave no doubt about, otherwise classification.
        text_columns, label_column: the columns that the user named.
        regression: whether the label is a number.
        prompting: values of :class:`~genft.data.prompting.Prompting` that the user set.
        how: further arguments of :func:`~genft.data.files.task_from_path`.

    Raises:
        DataError: the file cannot be read, or its columns are not known.
        ConfigError: options that do not suit the family.
    """
    task = task_from_path(path, text_columns=text_columns, label_column=label_column, regression=regression, **how)
    certain = family is None
    file = OwnTable(task.files["train"], task.encoding, text_columns, label_column, prompting or {}, certain)
    if family is not None:
        task = _named(family, task, file)
    elif not (text_columns or label_column or regression):  # described as a classification
        able = (each for each in FAMILIES.values() if task.kind in each.kinds)
        task = next((own for each in able if (own := each.of_file(task, file))), task)
    return task.model_copy(update=get_family(task).usual_values)


def _named(family: str, task: Task, file: OwnTable) -> Task:
    task = task.model_copy(update={"family": family})
    named = get_family(task)
    if task.kind not in named.kinds:
        raise ConfigError(
            f"family: {family} learns from {' and '.join(named.kinds)}s, and {file.path} is a folder of {task.kind}s"
        )
    return named.of_file(task, file) or task
