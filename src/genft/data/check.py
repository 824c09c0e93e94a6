"""Whether the data on disk are those of a benchmark: everything that is wrong, with its file and line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from genft.data import LAYOUTS, READERS, compare_sizes
from genft.data.encode import read_image
from genft.data.layout import MissingFolder
from genft.data.task import Task, TaskData
from genft.errors import DataError, GenFTError


@dataclass
class Checked:
    """What a check of one task found; every list holds sentences.

    Attributes:
        data: the examples, or None if nothing could be read.
        there: whether the task's folder was found.
        faults: what makes results wrong: labels out of range, missing or unreadable images, bad rows.
        differences: sizes and classes that differ from the benchmark's and make results incomparable.
        copies: examples that are in two splits.
        notes: further remarks of the reader.
    """

    task: Task
    data: TaskData | None = None
    there: bool = True
    faults: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Copies are no fault of a benchmark, which is published with them; in your own data they are."""
        return self.there and not (self.faults or self.differences or (self.copies and not self.task.sizes))

    @property
    def classes(self) -> int:
        """How many classes have examples, in any split; 0 in a regression."""
        if self.task.regression:
            return 0
        return len({label for split in self.data.splits.values() for label in split.labels}) if self.data else 0


def check_task(task: Task, step: Callable[[int, int], None]) -> Checked:
    """Read ``task``, open every image, and look for examples that are in two splits.

    Args:
        task: the task.
        step: told how many of how many images have been opened.
    """
    checked = Checked(task)
    try:
        layout = LAYOUTS.get(task.reader)
        checked.data = layout(task, checked.faults.append) if layout else READERS[task.reader](task)
    except MissingFolder as e:
        checked.there = False
        checked.faults.append(str(e))
        return checked
    except GenFTError as e:
        checked.faults.append(str(e))
        return checked
    checked.notes += checked.data.notes
    checked.differences += compare_sizes(checked.data)
    expected = len(checked.data.task.classes)
    if not task.regression and checked.classes != expected:
        checked.differences.append(f"the examples have {checked.classes} classes; {task.name} should have {expected}")
    contents = _open_images(checked, checked.data, step) if task.kind == "image" else _texts(checked.data)
    _find_copies(checked, checked.data, contents)
    return checked


def _texts(data: TaskData) -> dict[str, list[str]]:
    return {name: ["\t".join(texts) for texts in split.inputs] for name, split in data.splits.items()}


def _open_images(checked: Checked, data: TaskData, step: Callable[[int, int], None]) -> dict[str, list[str]]:
    """Per split the hash of every image's file; images that cannot be read are faults."""
    total, done = sum(map(len, data.splits.values())), 0
    contents: dict[str, list[str]] = {name: [] for name in data.splits}
    with ThreadPoolExecutor() as pool:
        for name, split in data.splits.items():
            for k, (content, problem) in enumerate(pool.map(_open, (Path(path) for (path,) in split.inputs))):
                if problem:
                    checked.faults.append(f"{data.place(name, k)}: {problem}")
                contents[name].append(content)
                done += 1
                step(done, total)
    return contents


def _open(path: Path) -> tuple[str, str]:
    """(hash of the file, what is wrong with it)."""
    try:
        read_image(path)
        return hashlib.sha256(path.read_bytes()).hexdigest(), ""
    except (DataError, OSError) as e:
        return str(path), str(e)


def _find_copies(checked: Checked, data: TaskData, contents: dict[str, list[str]]) -> None:
    first: dict[str, tuple[str, int]] = {}
    for name, values in contents.items():
        for k, value in enumerate(values):
            split, place = first.setdefault(value, (name, k))
            if split != name:
                checked.copies.append(f"{data.place(name, k)} is a copy of {data.place(split, place)}")
