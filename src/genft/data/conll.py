"""CoNLL's columns: a token per line, its tag in the last column, a line without a token between sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genft.errors import DataError

#: The endings of such files.
CONLL = (".conll", ".bio", ".iob", ".iob2")
TOKENS, TAGS = "tokens", "tags"
_DOCUMENT = "-DOCSTART-"


def conll_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(its place, its tokens and tags) of every sentence. Columns are separated by tabs, or by spaces if there is none;
    a file with one column has tokens only. Lines that begin a document are left out.

    Raises:
        DataError: a line has another number of columns than the first one.
    """
    expected = first = 0
    rows: list[list[str]] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            values = [v.strip() for v in line.split("\t") if v.strip()] if "\t" in line else line.split()
            if values[0] == _DOCUMENT:
                continue
            expected = expected or len(values)
            if len(values) != expected:
                raise DataError(f"{path}: line {number}: {len(values)} columns, but the lines before have {expected}")
            first = first or number
            rows.append(values)
        elif rows:
            tags = {TAGS: [row[-1] for row in rows]} if expected > 1 else {}
            yield f"line {first}", {TOKENS: [row[0] for row in rows], **tags}
            rows, first = [], 0
