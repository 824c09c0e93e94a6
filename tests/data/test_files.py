"""A user's own files: what is read, what is held out, and one sentence for everything that is wrong."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from genft import DataError
from genft.data import TaskData, read, read_table, task_from_path


def load(path: Path, **options: object) -> TaskData:
    return read(task_from_path(path, **options))  # type: ignore[arg-type]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_with_quotes_newlines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufefftext,label\n"one, ""two""\nthree",x\nfour,y\n')
    table = read_table(path)
    assert table.columns == ("text", "label")
    assert table.column("text") == ['one, "two"\nthree', "four"]
    assert table.where(1).endswith("a.csv: line 4")


def test_tsv(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "a.tsv", "text\tlabel\na, b\tx\n")).column("text") == ["a, b"]


def test_json_lines_with_a_line_separator_inside_a_text(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b", "label": 1}, {"text": "c", "label": True}]
    path = write(tmp_path / "a.jsonl", "\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n")
    table = read_table(path)
    assert table.column("text") == ["a\u2028b", "c"]
    assert table.column("label") == ["1", "true"]
    assert table.where(1).endswith("line 3")


def test_a_json_list(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "a.json", '[{"text": "a"}, {"text": "b"}]')).column("text") == ["a", "b"]


def test_other_encodings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\ncafé,x\n".encode("latin-1"))
    assert read_table(path, "latin-1").column("text") == ["café"]


FILES = [
    ("a.csv", "", r"a\.csv: is empty"),
    ("a.csv", " \n\n", r"a\.csv: is empty"),
    ("a.csv", "text,label\n", r"a\.csv: has a header but no rows"),
    ("a.csv", "txt,label\na,x\n", r"a\.csv: column: 'text' is missing; allowed: txt, label; nearest: 'txt'"),
    ("a.csv", "text,label\na,x\nb,y,z\n", r"a\.csv: line 3: 3 values, but the header has 2"),
    ("a.csv", "text,text\na,x\n", r"a\.csv: line 1: two columns have the same name"),
    ("a.csv", 'text,label\n"b",y\n"a,x\n', r"a\.csv: line 3: "),
    ("a.csv", "text,label\n" + "a,x\n" * 12, r"column 'label': every row has the label 'x'"),
    ("a.csv", "text,label\na,x\nb,\n", r"a\.csv: line 3: no value in the column 'label'"),
    ("a.csv", "text,label\na,x\nb,y\n", r"2 rows; at least 10 are needed to hold out test and validation"),
    ("a.csv", b"text,label\na,x\ncaf\xe9,y\n", r"a\.csv: line 3: byte 0xe9 is not valid utf-8; .*--encoding"),
    (
        "a.csv",
        "text,label\n" + "".join(f"a,{i}.5\n" for i in range(30)),
        r"the labels are 30 different numbers in 30 rows; .*--regression",
    ),
    ("a.jsonl", '{"text": "a"}\n{"text":\n', r"a\.jsonl: line 2: is not valid JSON"),
    ("a.jsonl", "[1]\n", r"a\.jsonl: line 1: is not an object"),
    ("a.jsonl", '{"text": "a", "label": null}\n', r"line 1: no value in the column 'label'"),
    ("a.jsonl", '{"text": "a", "label": "x"}\n{"label": "x"}\n', r"line 2: no value in the column 'text'"),
    ("a.jsonl", "[" * 100_000, r"a\.jsonl: line 1: "),
    ("a.json", '[{"text": "a"},\n 3]', r"a\.json: row 2: is not an object"),
    ("a.txt", "text", r"a\.txt: the ending: '\.txt' is not known; allowed: \.csv, \.tsv"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_one_sentence_for_everything_that_is_wrong(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(write(tmp_path / name, content))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "reviews.csv", "")
    with pytest.raises(DataError, match=r"does not exist; nearest: 'reviews\.csv'"):
        task_from_path(tmp_path / "revews.csv")


def test_missing_splits_are_held_out_by_class_and_always_the_same(reviews: Path) -> None:
    data = load(reviews)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 44, "validation": 4, "test": 12}
    assert set(Counter(data.splits["test"].labels).values()) == {6}
    assert data.task.classes == ("bad", "good")
    assert "classes from the column 'label': bad, good" in data.notes
    everything = [inputs for split in data.splits.values() for inputs in split.inputs]
    assert len(set(everything)) == 60
    assert load(reviews).fingerprint == data.fingerprint


def test_given_splits_are_used_and_their_labels_checked(tmp_path: Path, reviews: Path) -> None:
    test = write(tmp_path / "test.csv", "text,label\na w1,good\n")
    data = load(reviews, test=test)
    assert len(data.splits["test"]) == 1
    assert len(data.splits["train"]) == 54
    write(test, "text,label\na,good\nb,godo\n")
    with pytest.raises(
        DataError, match=r"test\.csv: line 3: label: 'godo' is not one of the classes; .*nearest: 'good'"
    ):
        load(reviews, test=test)


def test_examples_in_two_splits_are_counted(tmp_path: Path, reviews: Path) -> None:
    first = reviews.read_text().splitlines()[:2]
    data = load(reviews, test=write(tmp_path / "test.csv", "\n".join(first)), validation=reviews)
    assert "1 of 1 test examples are also in train: its score is optimistic" in data.notes


def test_two_columns_and_a_regression(reviews: Path) -> None:
    data = load(reviews, text_columns=["text", "label"], label_column="grade", regression=True)
    assert data.task.metric == "pearson"
    assert all(len(pair) == 2 for pair in data.splits["train"].inputs)
    assert all(0 <= value <= 1.1 for value in data.splits["train"].labels)


@pytest.mark.parametrize("bad", ["high", "nan", "inf"])
def test_a_regression_needs_numbers(tmp_path: Path, bad: str) -> None:
    path = write(tmp_path / "a.csv", f"text,label\na,1\nb,{bad}\n")
    with pytest.raises(DataError, match=rf"line 3: '{bad}' is not a number"):
        load(path, regression=True)


def test_integer_classes_are_in_numeric_order(tmp_path: Path) -> None:
    rows = "".join(f"t{i},{k}\n" for i in range(5) for k in (10, 9, 2))
    assert load(write(tmp_path / "a.csv", "text,label\n" + rows)).task.classes == ("2", "9", "10")


def test_image_folders(images: Path) -> None:
    data = load(images)
    assert data.task.kind == "image"
    assert data.task.classes == ("bright", "dark")
    assert sum(map(len, data.splits.values())) == 24
    path, label = Path(data.splits["test"].inputs[0][0]), data.splits["test"].labels[0]
    assert path.parent.name == data.task.classes[int(label)]


def test_image_folders_with_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / f"{split}.png")
    data = load(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "validation": 2, "test": 2}
    (tmp_path / "test" / "c").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "test" / "c" / "x.png")
    with pytest.raises(DataError, match="class: 'c' is not in training; allowed: a, b"):
        load(tmp_path)


def test_image_folders_need_two_classes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "x.png")
    with pytest.raises(DataError, match="found 1 folders of images; at least two classes, with one folder each"):
        load(tmp_path)
