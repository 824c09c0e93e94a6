"""A user's own data: a CSV, TSV or JSON-lines file with named columns, or a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from genft.data.columns import find_columns
from genft.data.hub_sets import hub_files, is_hub_name
from genft.data.image_folders import class_folders, split_folders
from genft.data.labels import infer_classes, read_labels, similar_classes
from genft.data.layout import Rows, finish
from genft.data.own_files import hold_out_missing, listed
from genft.data.tables import TABLES, columns_of, read_table
from genft.data.task import Fault, SplitName, Task, TaskData, refuse
from genft.errors import DataError, nearest, not_one_of


def read_files(task: Task, fault: Fault = refuse) -> TaskData:
    """The rows of ``task.files``; a missing validation or test split is held out from training."""
    tables = {name: read_table(path, task.encoding) for name, path in task.files.items()}
    notes = [note for table in tables.values() for note in table.notes]
    if (task.text_columns, task.label_column) != (("text",), "label"):
        named = " and ".join(map(repr, task.text_columns))
        notes.insert(0, f"columns: {named} for the text, {task.label_column!r} for the label")
    splits: dict[str, Rows] = {}
    for name, table in tables.items():
        labels, about_labels = read_labels(table, task.label_column, task.classes, task.regression, fault)
        columns = [table.values(c, option="--text-column", fault=fault) for c in task.text_columns]
        notes += about_labels
        rows = splits[name] = Rows()
        for k, (label, *texts) in enumerate(zip(labels, *columns, strict=True)):
            if label is not None and None not in texts:
                rows.add(tuple(text or "" for text in texts), label, table.where(k))
        notes += _without_text(rows)
    classes = task.classes
    if not task.regression and not classes:
        train = tables["train"]
        if not splits["train"].labels:
            raise DataError(f"{train.path}: no row has a label in the column {task.label_column!r}")
        classes = infer_classes(splits["train"].labels, f"{train.path}: column {task.label_column!r}")
        notes.append(f"classes from the column {task.label_column!r}: {listed(classes)}")
        notes += similar_classes(classes)
    data = finish(task.model_copy(update={"classes": classes}), splits, fault, notes)
    return hold_out_missing(data, by_class=bool(classes))


def _without_text(rows: Rows) -> list[str]:
    empty = [k for k, texts in enumerate(rows.inputs) if all(t.strip().lower() in ("", "nan") for t in texts)]
    if not empty:
        return []
    counted = "1 row has" if len(empty) == 1 else f"{len(empty):,} rows have"
    return [f"{counted} no text (first: {rows.places[empty[0]]})"]


def read_image_folder(task: Task, fault: Fault = refuse) -> TaskData:
    """Images under ``<folder>/<class>/`` or ``<folder>/{train,val,test}/<class>/``; classes from the folders."""
    folders, notes = split_folders(task.files["train"])
    folders |= {name: folder for name, folder in task.files.items() if name != "train"}
    by_split = {name: class_folders(folder) for name, folder in folders.items()}
    classes = task.classes or tuple(path.name for path in by_split["train"].scans)
    splits: dict[str, Rows] = {}
    for name, of_split in by_split.items():
        notes += of_split.notes(folders[name])
        for path in of_split.unreadable:
            fault(f"{path}: {of_split.empty[path]}; convert them to PNG or JPEG, or move the folder away")
        rows = splits[name] = Rows()
        for path, scanned in of_split.scans.items():
            if path.name not in classes:
                fault(f"{path}: " + not_one_of("class", path.name, classes, what="is not in training"))
                continue
            for image in scanned.images:
                if image.is_file():
                    rows.add((str(image),), path.name, str(image))
                else:
                    problem = "a link to a file that does not exist" if image.is_symlink() else "not a regular file"
                    fault(f"{image}: is {problem}")
        if not rows.inputs and name != "train":
            raise DataError(f"{folders[name]}: has no images in class folders")
    if len(classes) < 2:
        raise DataError(
            f"{folders['train']}: found {len(classes)} folders of images; at least two classes, with one folder "
            "each, are needed"
        )
    notes += [f"classes from the folders: {listed(classes)}", *similar_classes(classes)]
    data = finish(task.model_copy(update={"classes": classes}), splits, fault, notes)
    return hold_out_missing(data, by_class=True)


def usual_metric(*, regression: bool) -> str:
    """The metric of classes, or of numbers."""
    return "pearson" if regression else "accuracy"


def task_from_path(
    path: Path,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    validation: Path | None = None,
    test: Path | None = None,
    regression: bool = False,
    encoding: str = "utf-8",
) -> Task:
    """The classification that a user's own file or image folder describes, or a data set of the Hub;
    :func:`genft.families.own_data.own_task` knows the other kinds of tasks.

    Args:
        path: the file or folder; or the data set's name, ``owner/name`` or ``owner/name:config``.
        text_columns, label_column: its columns; those that are not given are found by their usual names.

    Raises:
        DataError: ``path`` does not exist (the message gives the nearest name), or genft cannot read this kind of file.
    """
    hub = str(path) if is_hub_name(str(path)) else ""
    files: dict[SplitName, Path] = hub_files(hub) if hub else {"train": path}
    path = files["train"]
    for file in (f for f in (None if hub else path, validation, test) if f is not None):
        if not file.exists():
            siblings = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
            close = nearest(file.name, siblings)
            raise DataError(f"{file}: does not exist" + (f"; nearest: {close!r}" if close else ""))
    kind: Literal["text", "image"] = "image" if path.is_dir() else "text"
    if kind == "text" and path.suffix.lower() not in TABLES:
        raise DataError(not_one_of(f"{path}: the ending", path.suffix, TABLES))
    files |= {"validation": validation} if validation else {}
    files |= {"test": test} if test else {}
    columns = columns_of(path, encoding) if kind == "text" else ()
    found = find_columns(columns, text_columns, label_column, regression=regression)
    return Task(
        name=hub.partition("/")[2].replace(":", "-") or path.resolve().stem,
        hub=hub,
        kind=kind,
        reader="image-folder" if kind == "image" else "files",
        files=files,
        text_columns=found.texts,
        label_column=found.label,
        regression=regression,
        encoding=encoding,
        metric=usual_metric(regression=regression),
    )
