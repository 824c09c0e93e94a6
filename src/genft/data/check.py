"""Whether data on disk can be used, and are those of their benchmark: everything that is wrong, with file and line."""

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

#: Told how many of how many images have been opened.
Step = Callable[[int, int], None]


@dataclass
class Checked:
    """What a check of one task found; every list holds sentences.

    Attributes:
        data: the examples, or None if nothing could be read.
        there: whether the task's folder was found.
        faults: what makes results wrong: labels out of range, missing or unreadable images, bad rows.
        differences: sizes and classes that differ from the benchmark's and make results incomparable.
        copies: examples that are in two splits.
        notes: what was inferred, decoded in a special way or left out, with counts.
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


def check_task(task: Task, step: Step) -> Checked:
    """Read ``task``, open every image, and look for examples that are in two splits.

    Args:
        task: the task.
        step: told how many of how many images have been opened.
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
    if not task.regression and checked.classes != expected:
        checked.differences.append(f"the examples have {checked.classes} classes; {task.name} should have {expected}")
    _look_into(checked, checked.data, step)
    return checked


def check_data(data: TaskData, step: Step) -> Checked:
    """As :func:`check_task`, of data that have been read already; what their reader noted is not repeated."""
    checked = Checked(data.task, data)
    _look_into(checked, data, step)
    return checked


def require(faults: Sequence[str]) -> None:
    """Refuse data that would end a run, or make its result wrong.

    Raises:
        DataError: with the first of the faults, and the number of the others.
    """
    if faults:
        more = f" (and {len(faults) - 1:,} more: genft data check lists them)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}; --no-check trains without looking")


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
        (a sentence for every image that cannot be read, sentences with counts about what the decoder decides)
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
    """Why an image cannot be read, for each that cannot."""
    with ThreadPoolExecutor() as pool:
        problems = pool.map(_open, paths)
        return {path: problem for path, (_, problem) in zip(paths, problems, strict=True) if problem}


def _open(path: str | Path) -> tuple[str | None, str]:
    """(what the decoder decided, what is wrong with the file)."""
    try:
        return decode(Path(path), read_regular(Path(path))).remark, ""
    except DataError as e:
        return None, str(e)


def _contradictions(data: TaskData, content: dict[str, list[str]]) -> list[str]:
    """A sentence about examples that are the same and have different labels."""
    if data.task.regression:
        return []
    labels: dict[str, set[float]] = {}
    for name, values in content.items():
        for value, label in zip(values, data.splits[name].labels, strict=True):
            labels.setdefault(value, set()).add(label)
    odd = {value for value, of_value in labels.items() if len(of_value) > 1}
    if not odd:
        return []
    name, k = next((name, k) for name, values in content.items() for k, value in enumerate(values) if value in odd)
    what = "image" if data.task.kind == "image" else "text"
    counted = f"1 {what} occurs" if len(odd) == 1 else f"{len(odd):,} {what}s occur"
    return [f"{counted} with different labels (first: {data.place(name, k)})"]


def _find_copies(checked: Checked, data: TaskData, content: dict[str, list[str]]) -> None:
    first: dict[str, tuple[str, int]] = {}
    for name, values in content.items():
        for k, value in enumerate(values):
            split, place = first.setdefault(value, (name, k))
            if split != name:
                checked.copies.append(f"{data.place(name, k)} is a copy of {data.place(split, place)}")
