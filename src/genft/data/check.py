"""Checks whether data on disk can be used and match their benchmark; every fault is reported with file and line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from genft.data import READERS, compare_sizes
from genft.data.copies import contents
from genft.data.images import decode
from genft.data.layout import MissingFolder
from genft.data.task import Task, TaskData
from genft.errors import DataError, GenFTError
from genft.files import read_regular

#: Progress callback: called with the number of images opened so far and the total.
Step = Callable[[int, int], None]


@dataclass
class Checked:
    """The outcome of checking one task; every list contains sentences.

    Attributes:
        data: the examples, or None if nothing could be read.
        there: whether the task's folder was found.
        faults: problems that make results wrong: labels out of range, missing or unreadable images, invalid rows.
        differences: sizes and classes that differ from the benchmark's, so that results cannot be compared.
        copies: examples that occur in two splits.
        notes: what was inferred, converted while decoding, or skipped, with counts.
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
        """Whether the data can be used. Copies are accepted in a published benchmark, but not in your own data."""
        return self.there and not (self.faults or self.differences or (self.copies and not self.task.sizes))

    @property
    def classes(self) -> int:
        """The number of classes with at least one example in any split; 0 for a task without classes."""
        if self.data is None or not self.data.task.classes:
            return 0
        labels = (label for split in self.data.splits.values() for label in split.labels)
        return len({each for label in labels for each in (label if isinstance(label, tuple) else (label,))})


def check_task(task: Task, step: Step) -> Checked:
    """Read ``task``, open every image, and look for examples that occur in two splits.

    Args:
        task: the task.
        step: called after each image with the number of images opened so far and the total.
    """
    checked = Checked(task)
    try:
        checked.data = READERS[task.reader](task, checked.faults.append)
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
    if checked.classes != expected:
        checked.differences.append(f"the examples have {checked.classes} classes; {task.name} should have {expected}")
    _look_into(checked, checked.data, step)
    return checked


def check_data(data: TaskData, step: Step) -> Checked:
    """Like :func:`check_task`, for data that have already been read; the notes of their reader are not repeated."""
    checked = Checked(data.task, data)
    _look_into(checked, data, step)
    return checked


def require(faults: Sequence[str]) -> None:
    """Refuse data that would stop a run or make its result wrong.

    Raises:
        DataError: there are faults; the message gives the first one and the number of the others.
    """
    if faults:
        more = f" (and {len(faults) - 1:,} more: genft data check lists them)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}; use --no-check to train without this check")


def _look_into(checked: Checked, data: TaskData, step: Step) -> None:
    if data.task.kind == "image":
        unreadable, remarks = _check_images(data, step)
        checked.faults += unreadable
        checked.notes += remarks
    content = {name: contents(data.task.kind, split) for name, split in data.splits.items()}
    checked.notes += _contradictions(data, content)
    _find_copies(checked, data, content)


def _check_images(data: TaskData, step: Step) -> tuple[list[str], list[str]]:
    """Open every image.

    Returns:
        (one sentence per unreadable image, sentences that count the conversions made by the decoder)
    """
    total, done = sum(map(len, data.splits.values())), 0
    faults: list[str] = []
    remarks: Counter[str] = Counter()
    with ThreadPoolExecutor() as pool:
        for name, split in data.splits.items():
            for k, (remark, problem) in enumerate(pool.map(_open, (path for (path,) in split.inputs))):
                if problem:
                    place, (path,) = data.place(name, k), split.inputs[k]
                    faults.append(problem if place == path else f"{place}: {problem}")
                if remark:
                    remarks[remark] += 1
                done += 1
                step(done, total)
    return faults, [f"{n:,} image{'' if n == 1 else 's'} {remark}" for remark, n in sorted(remarks.items())]


def unreadable_images(paths: Sequence[Path]) -> dict[Path, str]:
    """Maps each unreadable image to the reason."""
    with ThreadPoolExecutor() as pool:
        problems = pool.map(_open, paths)
        return {path: problem for path, (_, problem) in zip(paths, problems, strict=True) if problem}


def _open(path: str | Path) -> tuple[str | None, str]:
    """(the conversion that the decoder made, what is wrong with the file)."""
    try:
        return decode(Path(path), read_regular(Path(path))).remark, ""
    except DataError as e:
        return None, str(e)


def _contradictions(data: TaskData, content: dict[str, list[str]]) -> list[str]:
    """A sentence about identical examples with different labels."""
    if not data.task.classes:
        return []
    labels: dict[str, set[float]] = {}
    for name, values in content.items():
        for value, label in zip(values, data.splits[name].labels, strict=True):
            labels.setdefault(value, set()).add(label)
    odd = {value for value, of_value in labels.items() if len(of_value) > 1}
    if not odd:
        return []
    name, k = next((name, k) for name, values in content.items() for k, value in enumerate(values) if value in odd)
    noun = "image" if data.task.kind == "image" else "text"
    counted = f"1 {noun} occurs" if len(odd) == 1 else f"{len(odd):,} {noun}s occur"
    return [f"{counted} with different labels (first: {data.place(name, k)})"]


def _find_copies(checked: Checked, data: TaskData, content: dict[str, list[str]]) -> None:
    first: dict[str, tuple[str, int]] = {}
    for name, values in content.items():
        for k, value in enumerate(values):
            split, place = first.setdefault(value, (name, k))
            if split != name:
                checked.copies.append(f"{data.place(name, k)} is a copy of {data.place(split, place)}")
