"""The tables of a benchmark: a file per split, as they lie on disk or on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genft.data.layout import hub_folder, task_folder
from genft.data.tables import TABLES, Table, read_table
from genft.data.task import SplitName, Task


@dataclass(frozen=True)
class Files:
    """Where a benchmark lies.

    Attributes:
        repo, patterns: the Hub's copy and its files.
        names: the names of each split's file, without ending.
        ending: the usual ending of these files, for messages.
    """

    repo: str
    patterns: tuple[str, ...]
    names: dict[SplitName, tuple[str, ...]]
    ending: str = ".jsonl"


def suite_tables(task: Task, files: Files) -> dict[SplitName, Table]:
    """The table of every split that exists.

    Raises:
        GenFTError: the folder or its files are missing, or a file cannot be used.
    """
    expected = [f"{name}{ending}" for names in files.names.values() for name in names for ending in TABLES]
    if task.root is None:
        usual = [f"{names[0]}{files.ending}" for names in files.names.values()]
        folder = hub_folder(task, usual, files.repo, files.patterns)
        return {split: table for split, names in files.names.items() if (table := _from_hub(folder, files, names))}
    folder = task_folder(task, expected, files.repo)
    paths = {
        split: next((p for name in names for ending in TABLES if (p := folder / f"{name}{ending}").is_file()), None)
        for split, names in files.names.items()
    }
    return {split: read_table(path, task.encoding) for split, path in paths.items() if path}


def _from_hub(folder: Path, files: Files, names: Sequence[str]) -> Table | None:
    """The table of a split in the Hub's copy: files such as ``train-00000-of-00001.parquet``, or one other file."""
    paths = sorted({path for pattern in files.patterns for path in folder.glob(pattern)})
    wanted = [path for path in paths if path.name.partition("-0")[0].partition(".")[0] in names or path.stem in names]
    if not wanted:
        return None
    if len(wanted) == 1:
        return read_table(wanted[0])
    return read_table(wanted[0].with_name(f"{wanted[0].name.partition('-0')[0]}-0*{wanted[0].suffix}"))
