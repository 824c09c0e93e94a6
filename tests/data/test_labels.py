"""Labels of one's own files: what is missing, padded, alike or no number is named before training."""

from pathlib import Path

import pytest

from genft import DataError
from genft.data import TaskData, read, task_from_path
from genft.data.check import check_task
from genft.data.labels import infer_classes


def rows(folder: Path, *labels: str) -> Path:
    path = folder / "a.csv"
    lines = "".join(f"row {k},{labels[k % len(labels)]}\n" for k in range(40))
    path.write_text(f"text,label\n{lines}", encoding="utf-8")
    return path


def load(path: Path) -> TaskData:
    return read(task_from_path(path))


def test_labels_that_are_missing_are_refused_with_their_number(tmp_path: Path) -> None:
    path = rows(tmp_path, "a", "b", "nan", "")
    with pytest.raises(DataError, match=r"line 5: no value in the column 'label' \(and in 9 more rows\)"):
        load(path)
    path = rows(tmp_path, "a", "b", "nan", "b")
    with pytest.raises(DataError, match=r"line 4: the label 'nan' looks like a missing value; .*in 9 more rows"):
        load(path)
    checked = check_task(task_from_path(rows(tmp_path, "a", "b", "nan", "")), lambda *_: None)
    assert len(checked.faults) == 20
    assert checked.data is not None
    assert checked.data.task.classes == ("a", "b")
    assert {fault.split(": ")[1] for fault in checked.faults} == {
        f"line {n}" for k in range(4, 41, 4) for n in (k, k + 1)
    }


def test_a_missing_value_is_a_class_where_the_task_lists_it(tmp_path: Path) -> None:
    task = task_from_path(rows(tmp_path, "a", "NA")).model_copy(update={"classes": ("a", "NA")})
    assert set(read(task).splits["train"].labels) == {0.0, 1.0}


def test_blanks_around_labels_are_told_and_make_no_classes(tmp_path: Path) -> None:
    data = load(rows(tmp_path, "a", "a ", " b", "b"))
    assert data.task.classes == ("a", "b")
    (note,) = (note for note in data.notes if "blanks" in note)
    assert note.startswith("20 rows have spaces around the label, which are ignored: 'a ' is 'a' (first: ")
    assert note.endswith("line 3)")


def test_classes_that_look_alike_are_told(tmp_path: Path) -> None:
    notes = load(rows(tmp_path, "good", "Good", "bad", "bad\u200b")).notes
    assert "the classes 'Good', 'good' differ only in case or in invisible characters" in notes
    assert "the classes 'bad', 'bad\\u200b' differ only in case or in invisible characters" in notes


def test_rows_without_text_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + ",a\nnan,b\n" + "".join(f"t{k},{'ab'[k % 2]}\n" for k in range(20)))
    assert f"2 rows have no text (first: {path}: line 2)" in load(path).notes


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("②", "①"), ("①", "②")),
        (("--1", "2"), ("--1", "2")),
        (("10", "9", "-1"), ("-1", "9", "10")),
        (("1", "9" * 5000), ("1", "9" * 5000)),
    ],
)
def test_labels_that_only_look_like_numbers_are_names(labels: tuple[str, ...], classes: tuple[str, ...]) -> None:
    assert infer_classes(labels * 5, "here") == classes


def test_a_regression_reads_numbers_as_files_write_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: '1_000' is not a number"):
        read(task_from_path(rows(tmp_path, "1_000", "2"), regression=True))
