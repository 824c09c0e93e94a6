"""GLUE (arXiv 1804.07461): the official TSV files, or the Hub's ``nyu-mll/glue``."""

from __future__ import annotations

from pathlib import Path

from genft.data.layout import Rows, finish, hub_folder, task_folder
from genft.data.limits import decode_utf8, read_data_file
from genft.data.task import Fault, Task, TaskData, refuse
from genft.errors import DataError, not_one_of

_REPO = "nyu-mll/glue"
#: The text columns and the label column of tasks whose official files name them differently from the Hub.
_COLUMNS = {
    "mrpc": (("#1 String", "#2 String"), "Quality"),
    "stsb": (("sentence1", "sentence2"), "score"),
    "qqp": (("question1", "question2"), "is_duplicate"),
    "mnli": (("sentence1", "sentence2"), "gold_label"),
}
_COLA_HEADER = ["source", "label", "mark", "sentence"]  # its files have no header
_FILES = {"train": "train.tsv", "validation": "dev.tsv"}
_MNLI_FILES = {"train": "train.tsv", "validation": "dev_matched.tsv", "mismatched": "dev_mismatched.tsv"}
_HUB_SPLITS = {"validation_matched": "validation", "validation_mismatched": "mismatched"}
_SCORES = (0.0, 5.0)  # the range of STS-B


def read_glue(task: Task, fault: Fault = refuse) -> TaskData:
    """The splits that exist: train, validation, and MNLI's mismatched. The official test sets have no labels."""
    files = _MNLI_FILES if task.name == "mnli" else _FILES
    splits: dict[str, Rows] = {}
    notes: list[str] = []
    missing: list[Path] = []
    if task.root is None:
        splits = _from_hub(task, list(files.values()))
    else:
        folder = task_folder(task, list(files.values()), _REPO)
        for name, file in files.items():
            if (folder / file).is_file():
                splits[name], dropped = _read_tsv(task, folder / file)
                notes += dropped
            else:
                missing.append(folder / file)
    for rows in splits.values():
        rows.labels = [_class_of(label, task) for label in rows.labels]
    data = finish(task, splits, fault, notes, missing)
    if task.regression:
        low, high = _SCORES
        for name, split in data.splits.items():
            for label, place in zip(split.labels, data.places[name], strict=True):
                if not low <= label <= high:
                    fault(f"{place}: the score {label:g} is not between {low:g} and {high:g}")
    return data


def _class_of(label: str, task: Task) -> str:
    """The class of a label, which the files give as a name or as a number."""
    numbers = {str(k): name for k, name in enumerate(task.classes)}
    return numbers.get(label, label)


def _read_tsv(task: Task, path: Path) -> tuple[Rows, list[str]]:
    """(the rows, notes). Quotes are part of the data, and a line ends only at a newline."""
    lines = decode_utf8(path, read_data_file(path)).split("\n")
    first = 1 if task.name == "cola" else 2
    header = _COLA_HEADER if task.name == "cola" else lines.pop(0).rstrip("\r").split("\t")
    texts, label = _COLUMNS.get(task.name, (task.text_columns, task.label_column))
    for column in (*texts, label):
        if column not in header:
            raise DataError(not_one_of(f"{path}: column", column, header, what="is missing"))
    wanted, answer = [header.index(column) for column in texts], header.index(label)
    rows, short = Rows(), []
    for number, line in enumerate(lines, first):
        values = line.rstrip("\r").split("\t")
        if len(values) >= len(header):
            rows.add(tuple(values[k] for k in wanted), values[answer], f"{path}: line {number}")
        elif line.strip():
            short.append(number)
    if not short:
        return rows, []
    # as in the Hub's copy: a few rows of QQP are split across two lines
    return rows, [f"{path}: {len(short):,} lines with too few columns were dropped; the first is line {short[0]}"]


def _from_hub(task: Task, files: list[str]) -> dict[str, Rows]:
    import pandas as pd

    folder = hub_folder(task, files, _REPO, [f"{task.name}/*"])
    splits: dict[str, Rows] = {}
    for path in sorted((folder / task.name).glob("*.parquet")):
        split = path.name.partition("-")[0]
        if split.startswith("test"):
            continue
        rows = splits.setdefault(_HUB_SPLITS.get(split, split), Rows())
        table = pd.read_parquet(path)
        columns = [table[column] for column in (*task.text_columns, "label")]
        for k, (*texts, label) in enumerate(zip(*columns, strict=True), 1):
            rows.add(tuple(texts), str(label), f"{path}: row {k}")
    return splits
