"""Helpers for the readers of benchmark layouts: finding the folder, collecting rows, reporting invalid ones."""

from __future__ import annotations

import functools
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from filelock import FileLock

from genft.data.labels import number_labels
from genft.data.task import Fault, Split, Task, TaskData, squash
from genft.errors import ConfigError, DataError
from genft.hub import fetch_data

#: The usual names of the folder that contains all tasks of a layout, by reader.
_SUITE_FOLDERS = {"glue": ("glue", "glue_data"), "vtab-1k": ("vtab-1k", "vtab"), "fgvc": ("fgvc",)}
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class MissingFolder(DataError):
    """The root has no folder for a task."""


@dataclass
class Rows:
    """The examples of a split as its file lists them; ``places`` locates each of them: ``"test.txt: line 3"``."""

    inputs: list[tuple[str, ...]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def add(self, inputs: tuple[str, ...], label: str, place: str) -> None:
        self.inputs.append(inputs)
        self.labels.append(label)
        self.places.append(place)


def task_folder(task: Task, files: Sequence[str], repo: str) -> Path:
    """The folder of ``task``: in its root (the suite's folder, the one above it, or the task's own), or in the Hub's
    copy ``repo`` if it has no root.

    Args:
        task: the task.
        files: what the folder should contain; one of them is enough.
        repo: the data set on the Hub.

    Raises:
        MissingFolder: there is no such folder; the message says what was expected and where.
        DataError: it contains none of the files.
        ConfigError: the Hub's copy cannot be fetched; the message says what to pass as --data.
    """
    root = task.root or _unpacked(hub_folder(task, files, repo))
    if not root.is_dir():
        raise DataError(f"--data {root}: is not a folder")
    bases = [*_named(root, _SUITE_FOLDERS.get(task.reader, ())), root]
    found = [folder for base in bases for folder in _named(base, task.folders)]
    if not task.folders or squash(root.resolve().name) in map(squash, task.folders):
        found.append(root)
    for folder in found:
        if any((folder / file).is_file() for file in files):
            return folder
    if found:
        raise DataError(f"{task.name}: {found[0]} has none of the files {', '.join(files)}")
    raise MissingFolder(
        f"{task.name}: no folder {' or '.join(task.folders)} in {' or '.join(map(str, bases))}; "
        f"it should contain {', '.join(files)}"
    )


def _named(base: Path, names: Sequence[str]) -> list[Path]:
    wanted = [squash(name) for name in names if name]
    return sorted(p for p in base.iterdir() if squash(p.name) in wanted and p.is_dir())


def hub_folder(task: Task, files: Sequence[str], repo: str, patterns: Sequence[str] | None = None) -> Path:
    """The Hub's copy of the data set ``repo``, or its files that match ``patterns``, in the local cache."""
    try:
        return fetch_data(repo, patterns)
    except ConfigError as e:
        raise ConfigError(
            f"{task.name}: {e}; pass --data ROOT, a folder in which {(*task.folders, task.name)[0]} contains "
            f"{', '.join(files)}"
        ) from None


@functools.cache
def _unpacked(folder: Path) -> Path:
    """``folder``, or the sibling folder into which its archives are unpacked once."""
    archives = sorted(p for p in folder.rglob("*") if p.name.endswith(_ARCHIVES))
    if not archives:
        return folder
    target = folder.with_name(f"{folder.name}-unpacked")
    with FileLock(f"{target}.lock"):
        if not (target / ".complete").is_file():
            for archive in archives:
                shutil.unpack_archive(archive, target, filter=None if archive.suffix == ".zip" else "data")
            (target / ".complete").touch()
    return target


def listed_image(folder: Path, path: str, place: str, fault: Fault) -> Path | None:
    """The image that a list names; or None, with a fault, if it is outside ``folder`` or does not exist."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or ":" in path:
        fault(f"{place}: {path!r} is outside {folder}")
        return None
    image = folder / pure
    if not os.path.isfile(image):  # also handles names that are too long for the file system
        fault(f"{place}: the image {image} does not exist")
        return None
    return image


def finish(
    task: Task, splits: Mapping[str, Rows], fault: Fault, notes: Sequence[str] = (), missing: Sequence[Path] = ()
) -> TaskData:
    """The data with labels as indices into the task's classes, or into ``class_count`` numbered classes."""
    classes = task.classes or tuple(str(k) for k in range(task.class_count))
    made: dict[str, Split] = {}
    places: dict[str, Sequence[str]] = {}
    for name, rows in splits.items():
        numbers = number_labels(rows.labels, rows.places, classes, task.regression, fault)
        good = [k for k, number in enumerate(numbers) if not math.isnan(number)]
        made[name] = Split(tuple(rows.inputs[k] for k in good), tuple(numbers[k] for k in good))
        places[name] = [rows.places[k] for k in good]
    seen = len(set(made["train"].labels)) if "train" in made else len(classes)
    few = [f"{seen} of {len(classes)} classes have training examples"] if seen < len(classes) else []
    absent = [f"{file} does not exist" for file in missing]
    return TaskData(task.model_copy(update={"classes": classes}), made, [*notes, *absent, *few], places, missing)
