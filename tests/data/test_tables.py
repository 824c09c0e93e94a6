"""Tables of one's own: what is inferred about a file is told, and no file can take the memory or wait for ever."""

import json
import os
from pathlib import Path

import pytest

from genft import DataError
from genft.data import limits, read, tables, task_from_path
from genft.data.tables import read_table


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="")
    return path


def dialogue(k: int) -> str:
    label = ("pos", "neg")[k % 2]
    return f'"I like number {k}.\tpos\nIt is fine {k}.\tneg\nShe said no {k}."\t{label}\n'


def test_quotation_marks_in_tabs_are_text_where_every_line_is_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "dialogue.tsv", "text\tlabel\n" + "".join(map(dialogue, range(20))))
    table = read_table(path)
    assert len(table.rows) == 60
    assert table.rows[0] == {"text": '"I like number 0.', "label": "pos"}
    assert table.where(2).endswith("line 4")
    (note,) = table.notes
    assert "60 rows (treated as quotes, they would join lines into 20 rows, first at line 2)" in note


def test_a_quotation_mark_that_is_never_closed_is_text_between_tabs(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.tsv", 'text\tlabel\n"so\tx\nno\ty\n'))
    assert table.column("text") == ['"so', "no"]
    assert "quotation marks are treated as part of the texts" in table.notes[0]


def test_stray_quotation_marks_between_commas(tmp_path: Path) -> None:
    """Joined lines would swallow two rows of three with their labels; as rows they have the classes of the others."""
    rows = "".join(map(dialogue, range(20))).replace("\t", ",")
    table = read_table(write(tmp_path / "a.csv", f"text,label\n{rows}"))
    assert table.column("label")[:4] == ["pos", "neg", "pos", "pos"]
    assert "60 rows (treated as quotes, they would join lines into 20 rows, first at line 2)" in table.notes[0]


def test_text_that_fits_by_chance_stays_one_text(tmp_path: Path) -> None:
    letters = "".join(f'"Dear {k},\nyours, {k}",{"xy"[k % 2]}\n'.replace("yours, ", "yours ") for k in range(20))
    table = read_table(write(tmp_path / "a.csv", f"text,label\n{letters}"))
    assert (len(table.rows), set(table.column("label"))) == (20, {"x", "y"})
    assert "if quotes were ignored, every line would be a complete row" in table.notes[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"Hi" he said,b', "line 3: a value that begins with a quotation mark goes on after the mark that closes it"),
        ('"Hi he said,b', "line 3: a quotation mark opens a value here that is never closed"),
        ('"Hi, he said,b\nso,"b', "line 3: .*goes on after the mark"),
        ('"Hi,b\nso",b,a', "line 3: 3 values, but the header has 2; a quotation mark joins 2 lines into this row"),
    ],
)
def test_stray_quotation_marks_among_quoted_values_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / "a.csv", f'text,label\n"so, well","a"\n{line}\n'))


def test_stray_quotation_marks_alone_are_text(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.csv", 'text,label\nso,a\n"Hi" he said,b\n"no,a\n'))
    assert table.column("text") == ["so", '"Hi" he said', '"no']
    assert table.notes == (f"{tmp_path / 'a.csv'}: quotation marks are treated as part of the texts, one row per line",)


def test_rows_with_line_breaks_are_counted(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.csv", 'text,label\n"one\ntwo\nthree",x\nfour,y\n"five\nsix",x\n'))
    assert len(table.rows) == 3
    (note,) = table.notes
    assert "2 of 3 rows contain quoted line breaks; the longest begins at line 2 and has 3 lines" in note


@pytest.mark.parametrize(
    ("name", "separator", "word"),
    [("a.csv", ";", "semicolons"), ("a.csv", "\t", "tabs"), ("a.tsv", ",", "commas"), ("a.csv", "|", "vertical bars")],
)
def test_another_separator_is_found_and_told(tmp_path: Path, name: str, separator: str, word: str) -> None:
    table = read_table(write(tmp_path / name, f"text{separator}label\nrow{separator}a\n"))
    assert table.rows == [{"text": "row", "label": "a"}]
    assert table.notes == (f"{tmp_path / name}: values are separated by {word}",)
    with pytest.raises(DataError, match=r"line 2: 3 values.*but the header has 2"):
        read_table(write(tmp_path / name, f"text{separator}label\nrow{separator}a{separator}b\n"))


def test_one_column_needs_no_separator(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.csv", "text\nso; this\nis one\n"))
    assert (table.columns, table.notes) == (("text",), ())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            '{"text": "a", "label": ["x", "y"]}',
            r"line 1: the column 'label' contains a list; it needs one value per row",
        ),
        ('{"text": {"a": 1}, "label": "x"}', r"line 1: the column 'text' contains an object"),
        ('{"text": "a", "label": "x", "label": "y"}', r"line 1: the name 'label' has two values"),
        ('{"text": "a", "label": NaN}', r"line 1: the label 'NaN' looks like a missing value"),
        ('{"text": "a", "label": "  "}', r"line 1: no value in the column 'label'"),
    ],
)
def test_values_that_are_no_text_are_refused(tmp_path: Path, row: str, message: str) -> None:
    rest = "".join(json.dumps({"text": f"t{k}", "label": "xy"[k % 2]}) + "\n" for k in range(20))
    with pytest.raises(DataError, match=message):
        read(task_from_path(write(tmp_path / "a.jsonl", f"{row}\n{rest}")))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["pipe.csv", "pipe.jsonl"])
def test_a_pipe_is_refused_without_waiting(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is a pipe or a device, not a regular file"):
        read(task_from_path(tmp_path / name))


@pytest.mark.timeout(20)
def test_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="is a pipe or a device, not a regular file"):
        read_table(tmp_path / "zero.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_an_endless_text_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    text = "x" * 1_000_001
    rows = f"text,label\na,b\n{text},c\n" if name == "a.csv" else f'{{"text": "a"}}\n{{}}\n{{"text": "{text}"}}\n'
    with pytest.raises(DataError, match=r"line 3: the column 'text' has 1,000,001 characters; at most 1,000,000"):
        read_table(write(tmp_path / name, rows))


def test_a_file_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: 800)
    with pytest.raises(DataError, match=r"has 120 bytes; free memory allows at most 100"):
        read_table(write(tmp_path / "a.csv", "t" * 120))


def test_an_encoding_that_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encoding: .* is not known"):
        tables.read_table(write(tmp_path / "a.csv", "text\na\n"), "a\0b")
