"""Tasks. A task is a small TOML file in ``tasks/`` or is derived from a user's own file; it is data, never code.

A task names the reader of its examples, their columns and classes, the metric, and the protocol. The readers are in
this package; each turns a task into :class:`TaskData`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from genft.data.answering import Answering
from genft.data.images import digests
from genft.data.prompting import Prompting
from genft.errors import ConfigError, DataError, not_one_of
from genft.records import Record, check, read_toml

#: Called with a sentence for every invalid row: :func:`refuse` raises it, ``genft data check`` collects all of them.
Fault = Callable[[str], None]

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


def refuse(sentence: str) -> None:
    """Stop reading at the first invalid row."""
    raise DataError(sentence)


class Task(Record):
    """One task. Empty values (``classes``) are inferred from the data and printed."""

    name: str = Field(description="the name that `genft train` takes")
    title: str = Field(default="", description="what it is, in one line")
    kind: Literal["text", "image"]
    family: str = Field(default="classification", description="the kind of learning problem, see genft.families")
    reader: str = Field(description="which reader in genft.data finds the examples")
    suite: str = Field(default="", description="its benchmark: glue, vtab1k, fgvc, or your own")
    group: str = Field(default="", description="its group in the benchmark: natural, specialized or structured in VTAB")
    root: Path | None = Field(default=None, description="the folder given as --data; none: the Hub")
    folders: tuple[str, ...] = Field(default=(), description="possible names of its folder under the root")
    files: dict[SplitName, Path] = Field(default_factory=dict, description="a file or folder per split")
    text_columns: tuple[str, ...] = Field(default=("text",), description="one column, or two for sentence pairs")
    label_column: str = Field(default="label", description="the column with the label")
    hub: str = Field(default="", description="the Hub's name of a user's own data set: owner/name or owner/name:config")
    encoding: str = Field(default="utf-8", description="the encoding of the text files")
    regression: bool = Field(default=False, description="whether the label is a number, not a class")
    classes: tuple[str, ...] = Field(default=(), description="the classes in order; empty: from the training data")
    class_count: int = Field(default=0, ge=0, description="the number of classes if they have numbers, not names")
    metric: str = Field(default="accuracy", description="the metric that selects the epoch and is reported")
    protocol: str = Field(default="holdout", description="which split selects and which reports")
    max_length: int = Field(default=128, ge=2, description="tokens of a text; longer texts are cut off")
    prompting: Prompting = Field(
        default=Prompting(), description="how prompts are written, in tasks that generate text"
    )
    answering: Answering = Field(default=Answering(), description="how answers are found, in tasks of the family spans")
    training: dict[str, Any] = Field(default_factory=dict, description="training values that the benchmark fixes")
    sizes: dict[str, int] = Field(default_factory=dict, description="expected examples per split")
    licence: str = Field(default="", description="licence of the data")
    source: str = Field(default="", description="where the data come from")

    @field_validator("name")
    @classmethod
    def _names_folders(cls, name: str) -> str:
        if any(c in name for c in "/\\\0"):
            raise ValueError(f"{name!r} must not contain a slash, because adapters are saved in folders of this name")
        return name


class _Suite(Record):
    suite: str
    tasks: tuple[Task, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Split:
    """The examples of one split.

    Attributes:
        inputs: the texts of each example (one, or two for pairs), or the path of its image.
        labels: what is learned of each example: its class number, its value in a regression, or its answers.
        together: a key of each example, if examples with the same key belong on the same side when some are held out.
    """

    inputs: tuple[tuple[str, ...], ...]
    labels: tuple[Any, ...]
    together: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    def __add__(self, other: Split) -> Split:
        if not len(self):
            return other
        together = self.together + other.together if self.together and other.together else ()
        return Split(self.inputs + other.inputs, self.labels + other.labels, together)

    def take(self, rows: Iterable[int]) -> Split:
        rows = list(rows)
        together = tuple(self.together[i] for i in rows) if self.together else ()
        return Split(tuple(self.inputs[i] for i in rows), tuple(self.labels[i] for i in rows), together)


@dataclass(frozen=True)
class TaskData:
    """A task with its classes known, and its examples.

    Attributes:
        splits: train, validation and test, if they exist, and any other splits that are scored.
        notes: sentences about what was inferred, dropped or truncated.
        places: by split, the place of each example, ``"test.txt: line 3"``, if its reader records it.
        missing: the files of splits that do not exist.
    """

    task: Task
    splits: Mapping[str, Split]
    notes: Sequence[str] = field(default_factory=tuple)
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    missing: Sequence[Path] = ()

    def place(self, split: str, row: int) -> str:
        """Where an example is, for messages."""
        return self.places[split][row] if split in self.places else f"{self.task.name}: {split} example {row + 1}"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all examples, labels and splits; an image is represented by its file's name and size."""
        digest = hashlib.sha256(repr(self.task.classes).encode())
        for name, split in sorted(self.splits.items()):
            for inputs, label in zip(split.inputs, split.labels, strict=True):
                if self.task.kind == "image":
                    path = Path(inputs[0])
                    inputs = (path.parent.name, path.name, str(path.stat().st_size))
                digest.update(repr((name, inputs, label)).encode())
        return digest.hexdigest()

    @cached_property
    def pixel_fingerprint(self) -> str:
        """A hash of the content of all images, in order; empty for texts, which :attr:`fingerprint` covers."""
        if self.task.kind != "image":
            return ""
        digest = hashlib.sha256()
        for name, split in sorted(self.splits.items()):
            digest.update(repr((name, digests([path for (path,) in split.inputs]))).encode())
        return digest.hexdigest()


def _shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("genft"))) / "tasks"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_task(name: str, root: Path | None = None) -> Task:
    """The task called ``name``, or the task in the TOML file at that path; its files are relative to the TOML file.

    Args:
        name: the name of a shipped task, the name of its folder (``SST-2``), or a path that ends in .toml.
        root: the folder with the data; None means the task's own root, or the Hub if it has none.

    Raises:
        ConfigError: there is no such task; the message gives the nearest name.
    """
    shipped = _shipped()
    path = Path(name) if name.endswith(".toml") else shipped.get(name) or _by_folder(name)
    if path is None:
        raise ConfigError(
            not_one_of("task", name, shipped) + "; for your own data, pass a .csv, .tsv, .jsonl, .json or .toml file "
            "or a folder of images"
        )
    return _placed(check(Task, read_toml(path), str(path)), path.parent, root)


def load_suite(path: Path, root: Path | None = None) -> tuple[Task, ...]:
    """The tasks of a user's own suite: a TOML file with ``suite = "name"`` and one ``[[tasks]]`` table per task.

    Its files and folders are relative to the TOML file, unless ``root`` is given.

    Raises:
        ConfigError: the file is invalid; the message lists every problem.
    """
    suite = check(_Suite, read_toml(path), str(path))
    names = [task.name for task in suite.tasks]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ConfigError(f"{path}: two tasks are called {twice[0]!r}")
    return tuple(
        _placed(task, path.parent, root).model_copy(update={"suite": task.suite or suite.suite}) for task in suite.tasks
    )


def find_tasks(name: str, root: Path | None = None) -> tuple[Task, ...]:
    """The tasks that a command-line argument names: all tasks of a suite, one task, or the tasks in a .toml file."""
    if name.endswith(".toml"):
        path = Path(name)
        return load_suite(path, root) if "tasks" in read_toml(path) else (load_task(name, root),)
    of_suite = tuple(task for task in list_tasks() if task.suite and squash(task.suite) == squash(name))
    return tuple(load_task(task.name, root) for task in of_suite) or (load_task(name, root),)


def squash(name: str) -> str:
    """``name`` without case, spaces and punctuation: ``VTAB-1k`` and ``vtab_1k`` are the same."""
    return "".join(c for c in name.lower() if c.isalnum())


def _by_folder(name: str) -> Path | None:
    """The file of the task whose folder has this name; only case and ``-`` versus ``_`` are ignored."""

    def alike(text: str) -> str:
        return text.lower().replace("-", "_")

    names = {alike(known): task.name for task in list_tasks() for known in (task.name, *task.folders)}
    return _shipped().get(names.get(alike(name), ""))


def _placed(task: Task, parent: Path, root: Path | None) -> Task:
    own = parent / task.root if task.root else None
    files = {split: (root or parent) / file for split, file in task.files.items()}
    return task.model_copy(update={"files": files, "root": root or own})


def list_tasks() -> list[Task]:
    """Every task that comes with genft."""
    return [load_task(name) for name in _shipped()]


def hold_out(split: Split, size: int, seed: int, stratify: bool = True) -> tuple[Split, Split]:
    """(the remaining examples, the ``size`` held-out examples), drawn with a fixed seed and stratified if possible."""

    keep, out = draw(split.labels, size, seed, stratify)
    return split.take(keep), split.take(out)


def draw(labels: Sequence[Any], size: int, seed: int, stratify: bool = True) -> tuple[list[int], list[int]]:
    """(the remaining rows, the ``size`` drawn rows), each in order; stratified if the classes are large enough."""
    from sklearn.model_selection import train_test_split

    if stratify:
        per_class = Counter(labels)
        stratify = min(per_class.values()) >= 2 and len(per_class) <= min(size, len(labels) - size)
    rows = list(range(len(labels)))
    keep, out = train_test_split(rows, test_size=size, random_state=seed, stratify=labels if stratify else None)
    return sorted(keep), sorted(out)
