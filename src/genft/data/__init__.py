"""Tasks and their examples: ``read(task)`` turns a task into data, whatever layout it has on disk."""

from __future__ import annotations

from collections.abc import Callable

from genft.data.files import read_files, read_image_folder, read_table, task_from_path
from genft.data.packaged import read_bbc_news
from genft.data.task import Split, Task, TaskData, find_tasks, list_tasks, load_suite, load_task
from genft.errors import ConfigError, not_one_of

#: By the ``reader`` of a task. A new layout is a function here and a file beside this one.
READERS: dict[str, Callable[[Task], TaskData]] = {
    "bbc-news": read_bbc_news,
    "files": read_files,
    "image-folder": read_image_folder,
}


def read(task: Task) -> TaskData:
    """The examples of ``task``, with notes on everything that differs from what the task promises."""
    if task.reader not in READERS:
        raise ConfigError(not_one_of(f"task {task.name!r}: reader", task.reader, READERS))
    data = READERS[task.reader](task)
    notes = [*data.notes]
    for name, expected in task.sizes.items():
        if len(data.splits[name]) != expected:
            notes.append(f"{name} has {len(data.splits[name]):,} examples; {task.name} should have {expected:,}")
    train = set(data.splits["train"].inputs)
    for name, split in data.splits.items():
        seen = sum(inputs in train for inputs in split.inputs) if name != "train" else 0
        if seen:
            notes.append(f"{seen:,} of {len(split):,} {name} examples are also in train: its score is too good")
    return TaskData(data.task, data.splits, notes)


__all__ = [
    "READERS",
    "Split",
    "Task",
    "TaskData",
    "find_tasks",
    "list_tasks",
    "load_suite",
    "load_task",
    "read",
    "read_table",
    "task_from_path",
]
