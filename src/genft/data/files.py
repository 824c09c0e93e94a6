"""A user's own data: a CSV, TSV or JSON-lines file with named columns, or a folder of images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genft.data.task import SPLITS, Split, SplitName, Task, TaskData, hold_out, infer_classes, number_labels
from genft.errors import ConfigError, DataError, nearest, not_one_of

TABLES = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".json": None}
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
# One fixed split, whatever the seed of a run: otherwise runs with several seeds use different rows.
_SPLIT_SEED = 0
_FEWEST_ROWS = 10


@dataclass(frozen=True)
class Table:
    """The rows of a file, with named columns; ``places[k]`` is where row k begins: ``"line 12"``."""

    path: Path
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    places: list[str]

    def where(self, row: int) -> str:
        return f"{self.path}: {self.places[row]}"

    def column(self, name: str, *, option: str | None = None, may_be_empty: bool = True) -> list[str]:
        """The column's values as text.

        Args:
            name: the column.
            option: what names the column on the command line, for the message.
            may_be_empty: whether a row may have an empty text in it.

        Raises:
            DataError: no such column (with the nearest), or a row without a value in it.
        """
        if name not in self.columns:
            missing = not_one_of(f"{self.path}: column", name, self.columns, what="is missing")
            raise DataError(missing + (f"; name the column with {option}" if option else ""))
        values = []
        for k, row in enumerate(self.rows):
            value = row.get(name)
            if value is None or (value == "" and not may_be_empty):
                raise DataError(f"{self.where(k)}: no value in the column {name!r}")
            values.append(value if isinstance(value, str) else json.dumps(value))
        return values


def read_table(path: Path, encoding: str = "utf-8") -> Table:
    """Read a .csv or .tsv (with a header line), a .jsonl (an object per line) or a .json (a list of objects).

    Raises:
        DataError: what is wrong, with its file and line.
    """
    if path.suffix.lower() not in TABLES:
        raise DataError(not_one_of(f"{path}: the ending", path.suffix, TABLES))
    text = _decode(path, encoding)
    if not text.strip():
        raise DataError(f"{path}: is empty")
    delimiter = TABLES[path.suffix.lower()]
    places, rows = [], []
    for place, row in _delimited(path, text, delimiter) if delimiter else _json_rows(path, text):
        places.append(place)
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: has a header but no rows")
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Table(path, columns, rows, places)


def _decode(path: Path, encoding: str) -> str:
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from None
    try:
        return raw.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise DataError(
            f"{path}: line {line}: byte 0x{raw[e.start]:02x} is not valid {encoding}; "
            "name the file's encoding with --encoding (often latin-1 or utf-16)"
        ) from None
    except LookupError:
        raise ConfigError(f"encoding: {encoding!r} is not known; for example utf-8, latin-1, utf-16") from None


def _delimited(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    place = "line 1"
    try:
        header = next(reader)
        if len(set(header)) < len(header):
            raise DataError(f"{path}: line 1: two columns have the same name: {', '.join(header)}")
        place = f"line {reader.line_num + 1}"
        for values in reader:
            if values and len(values) != len(header):
                raise DataError(f"{path}: {place}: {len(values)} values, but the header has {len(header)}")
            if values:
                yield place, dict(zip(header, values, strict=True))
            place = f"line {reader.line_num + 1}"
    except csv.Error as e:
        raise DataError(f"{path}: {place}: {e}") from None


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix.lower() == ".json":
        rows = _json(path, text)
        numbered = [(f"row {n}", row) for n, row in enumerate(rows if isinstance(rows, list) else [rows], 1)]
    else:
        lines = enumerate(text.split("\n"), 1)  # not splitlines(): a text may hold U+2028
        numbered = [(f"line {n}", _json(path, line, n)) for n, line in lines if line.strip()]
    for place, row in numbered:
        if not isinstance(row, dict):
            raise DataError(f"{path}: {place}: is not an object with named values")
        yield place, row


def _json(path: Path, text: str, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise DataError(f"{path}: line {line + e.lineno - 1}: is not valid JSON: {e.msg}") from None
    except RecursionError:
        raise DataError(f"{path}: line {line}: is nested too deeply") from None


def read_files(task: Task) -> TaskData:
    """The rows of ``task.files``; a validation or test split that is not given is held out of the training rows."""
    tables = {name: read_table(path, task.encoding) for name, path in task.files.items()}
    labels = {
        name: table.column(task.label_column, option="--label-column", may_be_empty=False)
        for name, table in tables.items()
    }
    texts = {
        name: list(zip(*(table.column(c, option="--text-column") for c in task.text_columns), strict=True))
        for name, table in tables.items()
    }
    notes = []
    classes = task.classes
    if not task.regression and not classes:
        classes = infer_classes(labels["train"], f"{tables['train'].path}: column {task.label_column!r}")
        notes.append(f"classes from the column {task.label_column!r}: {_listed(classes)}")
    splits: dict[str, Split] = {}
    for name, table in tables.items():
        rows = [table.where(k) for k in range(len(table.rows))]
        numbers = number_labels(labels[name], rows, classes, task.regression)
        splits[name] = Split(tuple(texts[name]), tuple(numbers))
    return _complete(task.model_copy(update={"classes": classes}), splits, notes)


def read_image_folder(task: Task) -> TaskData:
    """Images under ``<folder>/<class>/`` or ``<folder>/{train,val,test}/<class>/``; classes from the folders."""
    root = task.files["train"]
    split_folders = {split: root / name for name, split in _SPLIT_FOLDERS.items() if (root / name).is_dir()}
    folders = split_folders if "train" in split_folders else {"train": root}
    folders |= {name: folder for name, folder in task.files.items() if name != "train"}
    classes = task.classes or tuple(sorted(p.name for p in _class_folders(folders["train"])))
    if len(classes) < 2:
        raise DataError(
            f"{folders['train']}: {len(classes)} folders of images; one folder per class and at least two "
            "classes are needed"
        )
    splits: dict[str, Split] = {}
    for name, folder in folders.items():
        paths: list[tuple[str, ...]] = []
        numbers: list[float] = []
        for class_folder in _class_folders(folder):
            if class_folder.name not in classes:
                raise DataError(
                    f"{class_folder}: " + not_one_of("class", class_folder.name, classes, what="is not in training")
                )
            images = list_images(class_folder)
            paths += [(str(p),) for p in images]
            numbers += [float(classes.index(class_folder.name))] * len(images)
        if not paths:
            raise DataError(f"{folder}: has no images")
        splits[name] = Split(tuple(paths), tuple(numbers))
    notes = [f"classes from the folders: {_listed(classes)}"]
    return _complete(task.model_copy(update={"classes": classes}), splits, notes)


def list_images(folder: Path) -> list[Path]:
    """The image files in ``folder`` and below, by name."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)


def _class_folders(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and list_images(p)]


def _complete(task: Task, splits: dict[str, Split], notes: list[str]) -> TaskData:
    """Hold out the splits that are not given: a fifth of the rows for test, then a tenth of the rest for validation."""
    missing = [
        (name, one_in, share)
        for name, one_in, share in (("test", 5, "a fifth"), ("validation", 10, "a tenth"))
        if name not in splits
    ]
    if missing and len(splits["train"]) < _FEWEST_ROWS:
        raise DataError(
            f"{task.files['train']}: {len(splits['train'])} rows; at least {_FEWEST_ROWS} are needed to hold out "
            f"{' and '.join(name for name, *_ in missing)} rows from them"
        )
    for name, one_in, share in missing:
        size = max(1, len(splits["train"]) // one_in)
        splits["train"], splits[name] = hold_out(splits["train"], size, _SPLIT_SEED, not task.regression)
        notes.append(f"{name}: {share} of the training rows, held out with a fixed seed")
    if not task.regression and len(set(splits["train"].labels)) < 2:
        raise DataError(f"{task.files['train']}: the training rows have only one class")
    return TaskData(task, {name: splits[name] for name in SPLITS}, notes)


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


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
    """The task that a user's own file or image folder describes.

    Raises:
        DataError: nothing is at ``path`` (with the nearest name that is), or genft cannot read this kind of file.
    """
    for given in filter(None, (path, validation, test)):
        if not given.exists():
            beside = [p.name for p in given.parent.iterdir()] if given.parent.is_dir() else []
            close = nearest(given.name, beside)
            raise DataError(f"{given}: does not exist" + (f"; nearest: {close!r}" if close else ""))
    kind: Literal["text", "image"] = "image" if path.is_dir() else "text"
    if kind == "text" and path.suffix.lower() not in TABLES:
        raise DataError(not_one_of(f"{path}: the ending", path.suffix, TABLES))
    files: dict[SplitName, Path] = {"train": path}
    files |= {"validation": validation} if validation else {}
    files |= {"test": test} if test else {}
    return Task(
        name=path.resolve().stem,
        kind=kind,
        reader="image-folder" if kind == "image" else "files",
        files=files,
        text_columns=tuple(text_columns) or ("text",),
        label_column=label_column or "label",
        regression=regression,
        metric="pearson" if regression else "accuracy",
        encoding=encoding,
    )
