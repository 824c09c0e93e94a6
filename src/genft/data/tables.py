"""Reads tables with named columns: .csv and .tsv with a header line, .jsonl and .json with objects, .parquet,
and CoNLL's columns, a sentence per row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from genft.data.conll import CONLL, TAGS, TOKENS, conll_rows
from genft.data.limits import LONGEST_TEXT, read_data_file
from genft.data.parquet import parquet_columns, read_parquet
from genft.data.task import Fault, refuse
from genft.errors import ConfigError, DataError, not_one_of

#: The delimiter by file ending; None for JSON, Parquet and CoNLL's columns.
TABLES = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".json": None, ".parquet": None, **dict.fromkeys(CONLL)}
#: Characters that are read to see the columns of a file.
_PEEKED = 1 << 20
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass(frozen=True)
class Table:
    """The rows of a file, with named columns.

    Attributes:
        places: where each row begins: ``"line 12"``.
        notes: what was inferred about the file.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    places: list[str]
    notes: tuple[str, ...] = ()

    def where(self, row: int) -> str:
        return f"{self.path}: {self.places[row]}"

    def column(self, name: str, *, option: str | None = None, may_be_empty: bool = True) -> list[str]:
        """The column's values as text.

        Args:
            name: the column.
            option: the command-line option that names the column, for the message.
            may_be_empty: whether a row may have an empty text in it.

        Raises:
            DataError: the column is missing (the message gives the nearest name), or a row has no value in it.
        """
        return [value or "" for value in self.values(name, option=option, may_be_empty=may_be_empty)]

    def values(
        self, name: str, *, option: str | None = None, may_be_empty: bool = True, fault: Fault = refuse
    ) -> list[str | None]:
        """Like :meth:`column`, with None for rows without a value; ``fault`` is called for each of them."""
        if name not in self.columns:
            missing = not_one_of(f"{self.path}: column", name, self.columns, what="is missing")
            raise DataError(missing + (f"; name the column with {option}" if option else ""))
        values: list[str | None] = []
        faults: list[str] = []
        for k, row in enumerate(self.rows):
            value = row.get(name)
            if value is None or (isinstance(value, str) and not value.strip() and not may_be_empty):
                faults.append(f"{self.where(k)}: no value in the column {name!r}")
                values.append(None)
            elif isinstance(value, (list, dict)):
                kind = "a list" if isinstance(value, list) else "an object"
                faults.append(f"{self.where(k)}: the column {name!r} contains {kind}; it needs one value per row")
                values.append(None)
            else:
                values.append(value if isinstance(value, str) else json.dumps(value))
        tell(faults, fault)
        return values


def tell(faults: Sequence[str], fault: Fault) -> None:
    """Report every invalid row; if the first one stops the run, its message also gives the number of the others."""
    if fault is refuse and len(faults) > 1:
        more = len(faults) - 1
        faults = [f"{faults[0]} (and in {more:,} more row{'s' if more > 1 else ''})"]
    for sentence in faults:
        fault(sentence)


def read_table(path: Path, encoding: str = "utf-8") -> Table:
    """Read a .csv or .tsv (with a header line), a .jsonl (an object per line), a .json (a list of objects), or a
    .parquet.

    Args:
        path: the file, or a pattern such as ``train-*.parquet`` for one table in several files.
        encoding: of text files.

    Raises:
        DataError: the file cannot be used; the message gives file and line.
    """
    ending = path.suffix.lower()
    if ending not in TABLES:
        raise DataError(not_one_of(f"{path}: the ending", path.suffix, TABLES))
    if "*" in path.name and not path.exists():
        return _joined([read_table(part, encoding) for part in sorted(path.parent.glob(path.name))], path)
    content = _content(path, ending, encoding)
    if not content.rows:
        raise DataError(f"{path}: has a header but no rows")
    for row in content.rows:
        for column, value in row.values.items():
            if isinstance(value, str) and len(value) > LONGEST_TEXT:
                raise DataError(
                    f"{path}: {row.place}: the column {column!r} has {len(value):,} characters; at most "
                    f"{LONGEST_TEXT:,} are read"
                )
    rows = [row.values for row in content.rows]
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Table(path, columns, rows, [row.place for row in content.rows], content.notes)


def _content(path: Path, ending: str, encoding: str) -> _Content:
    if ending == ".parquet":
        return _Content([_Row(f"row {n}", row) for n, row in enumerate(read_parquet(path), 1)])
    text = _decode(path, encoding)
    if not text.strip():
        raise DataError(f"{path}: is empty")
    if ending in CONLL:
        return _Content([_Row(place, row) for place, row in conll_rows(path, text)])
    delimiter = TABLES[ending]
    return _delimited(path, text, delimiter) if delimiter else _Content(list(_json_rows(path, text)))


def _joined(tables: Sequence[Table], path: Path) -> Table:
    """One table from the parts of a split."""
    if not tables:
        raise DataError(f"{path}: no file has such a name")
    return Table(
        path,
        tuple(dict.fromkeys(name for table in tables for name in table.columns)),
        [row for table in tables for row in table.rows],
        [f"{table.path.name}, {place}" for table in tables for place in table.places],
        tuple(note for table in tables for note in table.notes),
    )


def columns_of(path: Path, encoding: str = "utf-8") -> tuple[str, ...]:
    """The columns of a table, from its first rows; empty if they cannot be read, which :func:`read_table` explains."""
    if "*" in path.name:
        path = next(iter(sorted(path.parent.glob(path.name))), path)
    if not path.is_file():  # a pipe would make us wait
        return ()
    if path.suffix.lower() == ".parquet":
        return parquet_columns(path)
    if path.suffix.lower() in CONLL:
        return (TOKENS, TAGS)
    try:
        if TABLES[path.suffix.lower()] is None and path.suffix.lower() == ".json":
            return read_table(path, encoding).columns
        with path.open(encoding="utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding, newline="") as file:
            head = file.read(_PEEKED)
        delimiter = TABLES[path.suffix.lower()]
        if delimiter:
            return tuple(next(csv.reader(io.StringIO(head, newline=""), delimiter=_separator(head, delimiter))))
        first = next(line for line in head.split("\n") if line.strip())
        row = json.loads(first)
        return tuple(row) if isinstance(row, dict) else ()
    except (DataError, ConfigError, OSError, ValueError, LookupError, StopIteration, csv.Error, RecursionError):
        return ()


class _Row(NamedTuple):
    place: str
    values: dict[str, Any]
    lines: int = 1


class _Content(NamedTuple):
    rows: list[_Row]
    notes: tuple[str, ...] = ()


def _decode(path: Path, encoding: str) -> str:
    raw = read_data_file(path)
    try:
        return raw.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise DataError(
            f"{path}: line {line}: byte 0x{raw[e.start]:02x} is not valid {encoding}; "
            "name the file's encoding with --encoding (often latin-1 or utf-16)"
        ) from None
    except (LookupError, ValueError):
        raise ConfigError(f"encoding: {encoding!r} is not known; for example utf-8, latin-1, utf-16") from None


# -------------------------------------------------------------------- separated values


def _delimited(path: Path, text: str, delimiter: str) -> _Content:
    separator = _separator(text, delimiter)
    notes = []
    if separator != delimiter:
        notes.append(f"{path}: values are separated by {_SEPARATORS[separator]}")
    try:
        rows = list(_quoted(path, text, separator))
    except DataError:
        literal = _literal(text, separator)
        if literal is None or (separator != "\t" and _any_enclosed(literal)):
            raise
        return _Content(
            literal, (*notes, f"{path}: quotation marks are treated as part of the texts, one row per line")
        )
    spanning = [row for row in rows if row.lines > 1]
    if not spanning:
        return _Content(rows, tuple(notes))
    literal = _literal(text, separator)
    # text with commas fits by chance, text with tabs does not
    if literal is not None and (separator == "\t" or _same_classes(rows, literal)):
        notes.append(
            f"{path}: quotation marks are treated as part of the texts, because every line is a complete row: "
            f"{len(literal):,} rows (treated as quotes, they would join lines into {len(rows):,} rows, first at "
            f"{spanning[0].place})"
        )
        return _Content(literal, tuple(notes))
    longest = max(spanning, key=lambda row: row.lines)
    notes.append(
        f"{path}: {len(spanning):,} of {len(rows):,} rows contain quoted line breaks; the longest begins at "
        f"{longest.place} and has {longest.lines:,} lines"
        + ("" if literal is None else "; if quotes were ignored, every line would be a complete row")
    )
    return _Content(rows, tuple(notes))


def _any_enclosed(rows: Sequence[_Row]) -> bool:
    """Whether any value has quotation marks around it, so that they are not part of the texts."""
    values = (value for row in rows for value in row.values.values())
    return any(len(value) > 1 and value[0] == value[-1] == '"' for value in values)


def _same_classes(quoted: Sequence[_Row], literal: Sequence[_Row]) -> bool:
    """Whether some column has the same few values if every line is a row: then the lines in between are rows too.

    If they were pieces of a text, each would add a value to every column.
    """
    columns = quoted[0].values.keys() & literal[0].values.keys()

    def values(rows: Sequence[_Row], column: str) -> set[str]:
        return {row.values[column].strip() for row in rows}

    of_quoted = {column: values(quoted, column) for column in columns}
    return any(1 < len(of) <= len(quoted) // 2 and of == values(literal, column) for column, of in of_quoted.items())


def _separator(text: str, delimiter: str) -> str:
    """``delimiter``, unless the header lacks it and another one occurs in both the header and the first row."""
    head = [line for line in text[: 1 << 16].splitlines()[:2] if line]
    if any(delimiter in line for line in head[:1]):
        return delimiter
    return next((s for s in _SEPARATORS if len(head) == 2 and all(s in line for line in head)), delimiter)


def _quoted(path: Path, text: str, separator: str) -> Iterator[_Row]:
    """Rows in which quotation marks enclose values, line breaks included."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        header = next(reader)
        if len(set(header)) < len(header):
            raise DataError(f"{path}: line 1: two columns have the same name: {', '.join(header)}")
        line = reader.line_num + 1
        for values in reader:
            lines = reader.line_num - line + 1
            if values and len(values) != len(header):
                joined = f"; a quotation mark joins {lines:,} lines into this row" if lines > 1 else ""
                raise DataError(f"{path}: line {line}: {_wrong_number(len(values), len(header), separator)}{joined}")
            if values:
                yield _Row(f"line {line}", dict(zip(header, values, strict=True)), lines)
            line = reader.line_num + 1
    except csv.Error as e:
        raise DataError(f"{path}: line {line}: {_about_quotes(str(e))}") from None


def _about_quotes(message: str) -> str:
    """What the csv module means, in terms of the file."""
    if "unexpected end" in message:
        return "a quotation mark opens a value here that is never closed"
    if "expected after" in message:
        return (
            "a value that begins with a quotation mark goes on after the mark that closes it; a mark inside such a "
            'value is written twice ("")'
        )
    return message


def _wrong_number(received: int, expected: int, separator: str) -> str:
    by = "" if separator in ",\t" else f" (separated by {_SEPARATORS[separator]})"
    return f"{received} values{by}, but the header has {expected}"


def _literal(text: str, separator: str) -> list[_Row] | None:
    """Rows in which quotation marks are ordinary characters; None unless every line has one value per column."""
    header, *lines = (line.rstrip("\r").split(separator) for line in text.split("\n"))
    if len(header) < 2 or len(set(header)) < len(header):
        return None
    numbered = [(number, values) for number, values in enumerate(lines, 2) if values != [""]]
    if any(len(values) != len(header) for _, values in numbered):
        return None
    return [_Row(f"line {number}", dict(zip(header, values, strict=True))) for number, values in numbered]


# -------------------------------------------------------------------- JSON


def _json_rows(path: Path, text: str) -> Iterator[_Row]:
    if path.suffix.lower() == ".json":
        rows = _json(path, text)
        numbered = [(f"row {n}", row) for n, row in enumerate(rows if isinstance(rows, list) else [rows], 1)]
    else:
        lines = enumerate(text.split("\n"), 1)  # not splitlines(): a text may hold U+2028
        numbered = [(f"line {n}", _json(path, line, n)) for n, line in lines if line.strip()]
    for place, row in numbered:
        if not isinstance(row, dict):
            raise DataError(f"{path}: {place}: is not an object with named values")
        yield _Row(place, row)


def _json(path: Path, text: str, line: int = 1) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as e:
        raise DataError(f"{path}: line {line + e.lineno - 1}: is not valid JSON: {e.msg}") from None
    except RecursionError:
        raise DataError(f"{path}: line {line}: is nested too deeply") from None
    except ValueError as e:  # a duplicate name, or a number with thousands of digits
        raise DataError(f"{path}: line {line}: {e}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} has two values")
    return row
