"""Reads Parquet files, in which the Hub keeps its data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genft.errors import DataError, first_line


def parquet_columns(path: Path) -> tuple[str, ...]:
    """The names of the columns; empty if the file cannot be read, which :func:`read_parquet` explains."""
    import pyarrow.parquet as pq

    try:
        return tuple(pq.read_schema(path).names)
    except (OSError, ValueError):
        return ()


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """The rows, in which class numbers are replaced by the names that the Hub stores with them.

    The Hub marks examples without a label by −1; they have no value.

    Raises:
        DataError: the file is damaged.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: is not a Parquet file: {first_line(e)}") from None
    rows: list[dict[str, Any]] = table.to_pylist()
    for column, names in _class_names((table.schema.metadata or {}).get(b"huggingface", b"")).items():
        for row in rows:
            number = row.get(column)
            if isinstance(number, int):
                row[column] = names[number] if 0 <= number < len(names) else None
    return rows


def _class_names(written: bytes) -> dict[str, Sequence[str]]:
    """The names of the classes by column, from what the library ``datasets`` writes into a schema."""
    try:
        features = json.loads(written or b"{}").get("info", {}).get("features", {})
        return {name: f["names"] for name, f in features.items() if isinstance(f, dict) and "names" in f}
    except (ValueError, AttributeError):
        return {}
