"""A user's own images: one folder per class, either directly or inside folders for train, validation and test."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genft.data.images import PICTURES, image_suffixes, plugin_for
from genft.data.task import SplitName, squash
from genft.errors import DataError

#: Common names for the folder of a split; case, spaces and punctuation are ignored.
_SPLIT_NAMES: dict[SplitName, frozenset[str]] = {
    "train": frozenset(("train", "training", "trn", "trainset", "trainingset", "traindata", "trainingdata")),
    "validation": frozenset(
        ("val", "valid", "validation", "dev", "development", "valset", "validset", "validationset", "devset")
    ),
    "test": frozenset(("test", "testing", "tst", "testset", "testingset", "testdata")),
}
#: Names that operating systems and programs leave behind, in addition to those that begin with a dot.
_SYSTEM = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found", "__pycache__"))


@dataclass
class Scan:
    """The files in a folder and its subfolders.

    Attributes:
        images: the files that are read, sorted by name.
        hidden: the number of files that are hidden or in hidden or system folders.
        others: the number of files that are not read, by ending.
    """

    images: list[Path] = field(default_factory=list)
    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def notes(self, where: str) -> list[str]:
        """One sentence for each kind of file that is left out."""
        sentences = []
        if self.hidden:
            sentences.append(f"{where}: {_counted(self.hidden, 'hidden or system file')} left out")
        if self.others:
            sentences.append(
                f"{where}: {_counted(self.others.total(), 'file')} left out: {listed_endings(self.others)}"
            )
        return sentences


def listed_endings(others: Counter[str]) -> str:
    """``"8 × .heic, which needs pip install pillow-heif"``."""
    packages = sorted({package for ending in others if (package := plugin_for(ending))})
    listed = ", ".join(f"{n:,} × {ending or 'without an ending'}" for ending, n in others.most_common(5))
    more = f" and {len(others) - 5} more endings" if len(others) > 5 else ""
    return f"{listed}{more}" + (f" (pip install {' '.join(packages)} to read them)" if packages else "")


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def list_images(folder: Path) -> list[Path]:
    """The image files in ``folder`` and its subfolders, sorted by name, without hidden ones."""
    return scan(folder).images


def scan(folder: Path) -> Scan:
    """All files in ``folder`` and its subfolders; each folder is visited once, even if links lead to it.

    Raises:
        DataError: a folder cannot be read.
    """
    readable, found = image_suffixes(), Scan()
    for path, hidden in _walk(folder, False, set()):
        ending = path.suffix.lower()
        if hidden:
            found.hidden += 1
        elif ending in readable:
            found.images.append(path)
        else:
            found.others[ending] += 1
    found.images.sort()
    return found


def _walk(folder: Path, hidden: bool, seen: set[str]) -> Iterator[tuple[Path, bool]]:
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in _entries(folder):
        path, is_hidden = Path(entry.path), hidden or _is_hidden(entry.name)
        if entry.is_dir():
            yield from _walk(path, is_hidden, seen)
        else:
            yield path, is_hidden


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as e:
        raise DataError(f"{folder}: cannot be read ({e.strerror})") from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


@dataclass
class ClassFolders:
    """The content of a folder that should contain one folder per class.

    Attributes:
        scans: maps each folder with images to its files.
        empty: maps each folder without images to the reason.
        unreadable: those of ``empty`` that have pictures in formats that cannot be read.
        hidden: the number of files in hidden or system folders.
        loose: the number of images outside class folders.
    """

    scans: dict[Path, Scan] = field(default_factory=dict)
    empty: dict[Path, str] = field(default_factory=dict)
    unreadable: list[Path] = field(default_factory=list)
    hidden: int = 0
    loose: int = 0

    def notes(self, folder: Path) -> list[str]:
        """One sentence for each kind of file that is left out."""
        files = Scan(hidden=self.hidden + sum(s.hidden for s in self.scans.values()))
        for s in self.scans.values():
            files.others += s.others
        sentences = files.notes(str(folder))
        if self.loose:
            sentences.append(f"{folder}: {_counted(self.loose, 'image')} outside class folders left out")
        sentences += [
            f"{path}: the folder is left out: {why}" for path, why in self.empty.items() if path not in self.unreadable
        ]
        return sentences


def class_folders(folder: Path) -> ClassFolders:
    """The content of ``folder`` by class.

    Raises:
        DataError: it cannot be read.
    """
    found = ClassFolders()
    for entry in _entries(folder):
        path = Path(entry.path)
        if not entry.is_dir():
            found.hidden += _is_hidden(entry.name)
            found.loose += not _is_hidden(entry.name) and path.suffix.lower() in image_suffixes()
            continue
        files = scan(path)
        if _is_hidden(entry.name):
            found.hidden += len(files.images) + files.hidden + files.others.total()
        elif files.images:
            found.scans[path] = files
        else:
            found.empty[path] = "none of its files is an image that can be read: " + listed_endings(files.others)
            if not files.others:
                found.empty[path] = "it has no files"
            if files.others.keys() & PICTURES:
                found.unreadable.append(path)
    return found


def is_image_folder(root: Path) -> bool:
    """Whether folders in ``root`` (or in its folder for training) directly hold images, as class folders do."""
    try:
        folders, _ = split_folders(root)
    except DataError:
        return True  # reading it reports what is wrong
    return any(
        path.parent == folder
        for folder, found in class_folders(folders["train"]).scans.items()
        for path in found.images
    )


def split_folders(root: Path) -> tuple[dict[SplitName, Path], list[str]]:
    """(the folder of each split, sentences about what is left out); ``root`` is the training split if there are none.

    Raises:
        DataError: two folders are named for the same split, or there are other splits but no training folder.
    """
    by_split: dict[SplitName, list[Path]] = {}
    others: list[Path] = []
    for entry in _entries(root):
        path = Path(entry.path)
        split = next((name for name, names in _SPLIT_NAMES.items() if squash(entry.name) in names), None)
        if not entry.is_dir() or _is_hidden(entry.name):
            continue
        if split:
            by_split.setdefault(split, []).append(path)
        else:
            others.append(path)
    for split, paths in by_split.items():
        if len(paths) > 1 and "train" in by_split:
            raise DataError(
                f"{root}: {' and '.join(p.name for p in paths)} are both named for the {split} split; keep one"
            )
    if "train" not in by_split:
        _refuse_splits_without_training(root, [path for paths in by_split.values() for path in paths])
        return {"train": root}, []
    notes = []
    left_out = [(path.name, len(list_images(path))) for path in others]
    if images := sum(n for _, n in left_out):
        names = ", ".join(name for name, n in left_out if n)
        notes.append(f"{root}: {_counted(images, 'image')} outside the split folders left out: {names}")
    return {split: paths[0] for split, paths in by_split.items()}, notes


def _refuse_splits_without_training(root: Path, paths: Sequence[Path]) -> None:
    """A folder named like a split is a class if it contains images directly, a split if it contains class folders."""
    for path in paths:
        if len(class_folders(path).scans) > 1:
            raise DataError(f"{root}: has a folder {path.name}, but no training folder (train)")
