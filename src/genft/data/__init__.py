"""Tasks and their examples: ``read(task)`` reads the data of a task, whatever its layout on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from genft.data.copies import contents
from genft.data.fgvc import read_fgvc
from genft.data.files import read_files, read_image_folder, task_from_path
from genft.data.glue import read_glue
from genft.data.packaged import read_bbc_news
from genft.data.prompt_suites import read_prompt_suite
from genft.data.prompts import read_prompt_files
from genft.data.question_suites import read_question_suite
from genft.data.questions import read_question_files
from genft.data.several import read_several_files
from genft.data.tables import read_table
from genft.data.tagged import read_tagged_files
from genft.data.tagged_suites import read_tagged_suite
from genft.data.task import Fault, Split, Task, TaskData, find_tasks, list_tasks, load_suite, load_task, refuse
from genft.data.vtab import read_vtab
from genft.errors import ConfigError, not_one_of

#: Maps a task's ``reader`` to the function that reads it and reports every invalid row. To support a new layout, add
#: a module to this package and its function here; a family with files of a new kind adds its function itself.
READERS: dict[str, Callable[[Task, Fault], TaskData]] = {
    "bbc-news": read_bbc_news,
    "fgvc": read_fgvc,
    "files": read_files,
    "glue": read_glue,
    "image-folder": read_image_folder,
    "prompt-suite": read_prompt_suite,
    "prompts": read_prompt_files,
    "question-suite": read_question_suite,
    "questions": read_question_files,
    "several": read_several_files,
    "tagged": read_tagged_files,
    "tagged-suite": read_tagged_suite,
    "vtab-1k": read_vtab,
}
#: The readers of benchmarks that are stored on disk.
LAYOUTS = frozenset(("fgvc", "glue", "prompt-suite", "question-suite", "tagged-suite", "vtab-1k"))


def read(task: Task) -> TaskData:
    """The examples of ``task``, with notes on everything that differs from its description.

    Raises:
        GenFTError: the data are missing or cannot be used.
    """
    if task.reader not in READERS:
        raise ConfigError(not_one_of(f"task {task.name!r}: reader", task.reader, READERS))
    data = READERS[task.reader](task, refuse)
    notes = [*data.notes, *compare_sizes(data)]
    content = {name: split.inputs if task.sizes else contents(task.kind, split) for name, split in data.splits.items()}
    train = set(content.get("train", ()))
    for name, split in data.splits.items():
        seen = sum(example in train for example in content[name]) if name != "train" else 0
        if seen:
            notes.append(f"{seen:,} of {len(split):,} {name} examples are also in train: its score is optimistic")
    return replace(data, notes=notes)


def compare_sizes(data: TaskData) -> list[str]:
    """One sentence for every split whose size differs from the size that the task expects."""
    sizes = {name: len(split) for name, split in data.splits.items()}
    return [
        f"{name} has {sizes.get(name, 0):,} examples; {data.task.name} should have {expected:,}"
        for name, expected in data.task.sizes.items()
        if sizes.get(name, 0) != expected
    ]


__all__ = [
    "LAYOUTS",
    "READERS",
    "Split",
    "Task",
    "TaskData",
    "compare_sizes",
    "find_tasks",
    "list_tasks",
    "load_suite",
    "load_task",
    "read",
    "read_table",
    "task_from_path",
]
