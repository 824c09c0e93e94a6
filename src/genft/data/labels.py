"""Cleans and checks the labels of a file, and converts them to class numbers or values."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from genft.data.tables import Table, tell
from genft.data.task import Fault, refuse
from genft.errors import DataError, not_one_of

#: How programs write a missing value; pandas reads each of these as one.
_MISSING = frozenset((
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
))  # fmt: skip


def read_labels(
    table: Table, column: str, classes: Sequence[str], regression: bool, fault: Fault
) -> tuple[list[str | None], list[str]]:
    """(the labels, stripped, or None for a row without one; sentences about what was inferred).

    Args:
        table: the rows.
        column: the name of the label column.
        classes: the classes, if known; a label that equals one of them is used unchanged.
        regression: whether the labels are numbers.
        fault: called for every row without a label, or with one that looks like a missing value.
    """
    labels = table.values(column, option="--label-column", may_be_empty=False, fault=fault)
    missing: list[str] = []
    padded: list[int] = []
    for k, label in enumerate(labels):
        if label is None or label in classes:
            continue
        if label != label.strip():
            padded.append(k)
            labels[k] = label = label.strip()
        if label in _MISSING and label not in classes and not regression:
            missing.append(
                f"{table.where(k)}: the label {label!r} looks like a missing value; remove the row, or list the "
                "classes in a task file (classes = [...]) if it is one"
            )
            labels[k] = None
    tell(missing, fault)
    notes = []
    if padded:
        first = table.rows[padded[0]][column]
        rows = "1 row has" if len(padded) == 1 else f"{len(padded):,} rows have"
        notes.append(
            f"{rows} spaces around the label, which are ignored: {first!r} is {first.strip()!r} "
            f"(first: {table.where(padded[0])})"
        )
    return labels, notes


def similar_classes(classes: Sequence[str]) -> list[str]:
    """One sentence per group of classes that look alike: they differ only in case or in invisible characters."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(_look(name), []).append(name)
    return [
        f"the classes {', '.join(map(ascii, names))} differ only in case or in invisible characters"
        for names in alike.values()
        if len(names) > 1
    ]


def _look(name: str) -> str:
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return " ".join(visible.casefold().split())


def number_labels(
    labels: Sequence[str],
    rows: Sequence[str],
    classes: Sequence[str] | None,
    regression: bool,
    fault: Fault = refuse,
) -> list[float]:
    """The class numbers, or values, of the ``labels`` in a file.

    Args:
        labels: the labels as written.
        rows: the place of each label, for messages: ``"reviews.csv: line 12"``.
        classes: the classes in order; not used in a regression.
        regression: whether the labels are numbers.
        fault: called for every row whose label is not a class, or not a finite number; its value is NaN.
    """
    if regression:
        values = []
        for label, row in zip(labels, rows, strict=True):
            value = _number(label)
            if math.isnan(value):
                fault(f"{row}: {label!r} is not a number, which a regression needs")
            values.append(value)
        return values
    number = {c: float(i) for i, c in enumerate(classes or ())}
    for label, row in zip(labels, rows, strict=True):
        if label not in number:
            fault(f"{row}: " + not_one_of("label", label, number, what="is not one of the classes"))
    return [number.get(label, math.nan) for label in labels]


def list_in(cell: str) -> list[Any] | None:
    """The list that a cell contains as JSON or as Python writes it (pandas does so in CSV files), or None."""
    if not cell.lstrip().startswith("["):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, list) else None
    return None


def infer_classes(labels: Sequence[str], where: str) -> tuple[str, ...]:
    """The classes of a training file, in order (by value if all are integers, otherwise alphabetical).

    Raises:
        DataError: fewer than two classes, or labels that look like measurements.
    """
    counts = Counter(labels)
    if len(counts) < 2:
        raise DataError(f"{where}: every row has the label {labels[0]!r}; at least two classes are needed")
    if several := _several_in_one(list(counts)):
        first = "" if list_in(several) is not None or ";" in several or "|" in several else "with semicolons, "
        raise DataError(
            f"{where}: labels such as {several!r} look like several labels in one, but a row has only one class; "
            f"{first}--family multilabel reads them as several, and a task file with a list of classes as one each"
        )
    if len(counts) > 20 and len(counts) > len(labels) / 2 and all(_is_number(label) for label in counts):
        raise DataError(
            f"{where}: the labels are {len(counts)} different numbers in {len(labels)} rows; "
            "to predict a number, use --regression"
        )
    if all(re.fullmatch(r"-?[0-9]{1,18}", label) for label in counts):
        return tuple(sorted(counts, key=int))
    return tuple(sorted(counts))


def _several_in_one(labels: Sequence[str]) -> str | None:
    """A list, or a label that joins several by ``;``, ``|`` or ``,`` and whose parts all occur elsewhere, or None."""
    for label in labels:
        if list_in(label) is not None:
            return label
    for separator in ";|,":
        joined = [label for label in labels if separator in label]
        parts = Counter(part.strip() for label in labels for part in label.split(separator))
        if joined and all(parts[part.strip()] > 1 for label in joined for part in label.split(separator)):
            return joined[0]
    return None


def _is_number(text: str) -> bool:
    return not math.isnan(_number(text))


def _number(text: str) -> float:
    """The finite number in ``text``, or NaN; Python's underscore notation (1_000) is not accepted."""
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    return value if math.isfinite(value) else math.nan
