"""A user's own data: a CSV, TSV or JSON-lines file with named columns, or a folder of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from genft.data.columns import find_columns
from genft.data.hub_sets import hub_files, is_hub_name
from genft.data.image_folders import class_folders, split_folders
from genft.data.labels import infer_classes, read_labels, similar_classes
from genft.data.layout import Rows, finish
from genft.data.own_files import hold_out_missing, listed
from genft.data.prompting import Prompting, fields
from genft.data.prompts import Recognised, check_columns, recognise
from genft.data.tables import TABLES, columns_of, read_table
from genft.data.task import Fault, SplitName, Task, TaskData, refuse
from genft.errors import DataError, nearest, not_one_of
from genft.records import check


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


def usual_values(reader: str, label_column: str, *, regression: bool) -> dict[str, Any]:
    """The metric of a user's own data, and the length of its texts if that differs from other tasks'."""
    if reader == "questions":
        return {"metric": "squad_f1", "max_length": 384}
    if reader == "several":
        return {"metric": "micro_f1"}
    if reader == "tagged":
        return {"metric": "entity_f1"}
    if reader == "prompts":
        return {"metric": "answer_loss" if label_column else "perplexity", "max_length": 512}
    return {"metric": "pearson" if regression else "accuracy"}


def task_from_path(
    path: Path,
    *,
    family: str | None = None,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    validation: Path | None = None,
    test: Path | None = None,
    regression: bool = False,
    encoding: str = "utf-8",
    prompting: Mapping[str, Any] | None = None,
) -> Task:
    """The task that a user's own file or image folder describes, or a data set of the Hub.

    Args:
        path: the file or folder; or the data set's name, ``owner/name`` or ``owner/name:config``.
        text_columns, label_column: its columns; those that are not given are found by their usual names.
        family: the kind of task; None: generation if the columns leave no doubt, otherwise classification.
        prompting: values of :class:`~genft.data.prompting.Prompting` that the user set.

    Raises:
        DataError: ``path`` does not exist (the message gives the nearest name), or genft cannot read this kind of file.
        ConfigError: options that do not suit the family.
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
    task = Task(
        name=hub.partition("/")[2].replace(":", "-") or path.resolve().stem,
        hub=hub,
        kind=kind,
        family=family or "classification",
        reader="image-folder" if kind == "image" else "files",
        files=files,
        text_columns=found.texts,
        label_column=found.label,
        regression=regression,
        encoding=encoding,
        **usual_values("files", found.label, regression=regression),
    )
    if kind == "image" or family not in (None, "generation"):
        return task
    described = bool(text_columns or label_column or regression)
    prompted = _prompt_task(task, text_columns, label_column, prompting or {}, certain=family is None)
    return prompted if prompted and (family or not described) else task


def _prompt_task(
    task: Task,
    text_columns: Sequence[str],
    label_column: str | None,
    prompting: Mapping[str, Any],
    *,
    certain: bool,
) -> Task | None:
    """``task`` as one that generates text, with the columns that the file has or the user named.

    Args:
        certain: whether to return None if its columns may mean something else.

    Raises:
        DataError: the columns are not recognised, and the user named none.
        ConfigError: a value of ``prompting`` cannot be used.
    """
    path = task.files["train"]
    columns = columns_of(path, task.encoding)
    recognised = recognise(columns)
    if certain and (recognised is None or not recognised.certain):
        return None
    template = str(prompting.get("template", ""))
    asked = tuple(text_columns) or fields(template)
    if recognised is None and not asked:
        raise DataError(
            f"{path}: the columns {', '.join(columns)} are none of the usual names of prompts and answers; name them "
            "with --text-column and --label-column, or write the prompt with --template"
        )
    known = recognised if recognised and asked in ((), recognised.prompt) else Recognised(asked, "", Prompting(), True)
    answer = (
        label_column or known.answer or (recognised.answer if recognised and recognised.answer not in asked else "")
    )
    how = check(Prompting, {**known.prompting.model_dump(), **prompting}, "prompting")
    check_columns(how, columns, path)
    return task.model_copy(
        update={
            "family": "generation",
            "reader": "prompts",
            "text_columns": known.prompt,
            "label_column": answer,
            "prompting": how,
            **usual_values("prompts", answer, regression=False),
            "training": {"epochs": 3, "batch_size": 8, "eval_batch_size": 8},
        }
    )
