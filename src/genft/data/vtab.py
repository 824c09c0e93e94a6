"""VTAB-1k (arXiv 1910.04867) in the layout of NOAH and V-PETL Bench: one list of images and class numbers per split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from genft.data.layout import Rows, finish, listed_image, task_folder
from genft.data.limits import decode_utf8, read_data_file
from genft.data.task import Fault, Task, TaskData, refuse

_REPO = "XiN0919/VTAB-1k"
_LISTS = {"train": "train800.txt", "validation": "val200.txt", "test": "test.txt"}
_BOTH = "train800val200.txt"


def read_vtab(task: Task, fault: Fault = refuse) -> TaskData:
    """The splits that have a list. ``train800val200`` is assumed to be train800 and val200 together; a note reports if
    its list differs."""
    folder = task_folder(task, list(_LISTS.values()), _REPO)
    splits, notes, missing = {}, [], []
    for name, file in _LISTS.items():
        if (folder / file).is_file():
            splits[name] = _read_list(folder, folder / file, fault)
        else:
            missing.append(folder / file)
    if (folder / _BOTH).is_file() and {"train", "validation"} <= splits.keys():
        both = Counter(label for _, label, _ in _lines(folder / _BOTH, fault))
        if both != Counter(splits["train"].labels + splits["validation"].labels):
            notes.append(f"{folder / _BOTH} does not list the examples of train800 and val200; it is not used")
    return finish(task, splits, fault, notes, missing)


def _read_list(folder: Path, path: Path, fault: Fault) -> Rows:
    rows = Rows()
    for image, label, place in _lines(path, fault):
        if found := listed_image(folder, image, place, fault):
            rows.add((str(found),), label, place)
    return rows


def _lines(path: Path, fault: Fault) -> Sequence[tuple[str, str, str]]:
    """(image, class number, place) of every line; a name may contain spaces."""
    lines = decode_utf8(path, read_data_file(path)).split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        image, _, label = line.strip().rpartition(" ")
        if image:
            found.append((image.strip(), label, f"{path}: line {number}"))
        elif line.strip():
            fault(f"{path}: line {number}: {line.strip()!r} is not an image and its class number")
    return found
