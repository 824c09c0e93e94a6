"""Words with tags: CoNLL's columns, lists in rows, and the schemes in which tags mark entities."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from genft import DataError
from genft.data import read, read_table
from genft.data.own_table import OwnTable
from genft.data.tagged import find_tagged_columns, read_tagged, tag_classes
from genft.data.task import Task
from genft.families.own_data import own_task

TASK = Task(name="t", kind="text", family="tokens", reader="tagged", text_columns=("tokens",), label_column="tags")


def bio(path: Path, task: Task = TASK) -> list[str]:
    return [" ".join(label) for label in read_tagged(read_table(path), task).split.labels]


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def rows(path: Path, *examples: tuple[str, str]) -> Path:
    return write(path, "".join(json.dumps({"tokens": w.split(), "tags": t.split()}) + "\n" for w, t in examples))


def test_columns_of_conll(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.conll",
        "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\nPeter NNP B-NP B-PER\nB. NNP I-NP I-PER\n",
    )
    table = read_table(path)
    assert table.columns == ("tokens", "tags")
    assert table.rows == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["Peter", "B."], "tags": ["B-PER", "I-PER"]},
    ]
    assert table.where(1).endswith("a.conll: line 7")


def test_tabs_win_over_spaces_and_a_blank_line_may_hold_a_tab(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "New York\tB-LOC\n\t\nParis\tB-LOC\n")
    read_ = read_tagged(read_table(path), TASK)
    assert read_.split.inputs == (("New_York",), ("Paris",))
    assert "1 word contains a space, which was replaced by underscores" in read_.notes


@pytest.mark.parametrize("tags", ['["B-PER", "O"]', "['B-PER', 'O']"], ids=["as JSON", "as Python"])
def test_lists_in_the_cells_of_a_csv_file(tmp_path: Path, tags: str) -> None:
    path = write(tmp_path / "a.tsv", f'tokens\ttags\n["Anna", "runs"]\t{tags}\n')
    assert bio(path) == ["B-PER O"]


def test_lists_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"tokens": [["Anna", "runs"]], "tags": [["B-PER", "O"]]}).to_parquet(path)
    assert bio(path) == ["B-PER O"]


def test_columns_that_change_are_refused_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.conll: line 3: 3 columns, but the lines before have 2"):
        read_table(write(tmp_path / "a.conll", "a O\nb O\nc X O\n"))


@pytest.mark.parametrize(
    ("tags", "expected", "scheme"),
    [
        ("B-A I-A O B-B", "B-A I-A O B-B", "in BIO:"),
        ("I-A I-A B-A O", "B-A I-A B-A O", "in IOB1"),
        ("B-A E-A S-A S-B", "B-A I-A B-A B-B", "in BIOES"),
        ("B-A L-A U-A O", "B-A I-A B-A O", "in BIOES"),
        ("B-A I-A S-A O", "B-A I-A B-A O", "in a part of BIOES"),
        ("I-A E-A E-A O", "B-A I-A B-A O", "in a part of BIOES"),
        ("A A O B", "B-A I-A O B-B", "without B- and I-"),
        ("E E O B", "B-E I-E O B-B", "without B- and I-"),
        ("NN VB NN NN", "NN VB NN NN", "one tag per word"),
    ],
)
def test_every_scheme_is_read_as_bio(tmp_path: Path, tags: str, expected: str, scheme: str) -> None:
    path = rows(tmp_path / "a.jsonl", ("w x y z", tags))
    assert bio(path) == [expected]
    assert scheme in read_tagged(read_table(path), TASK).notes[0]


def test_what_contradicts_the_scheme_is_a_fault_with_its_place(tmp_path: Path) -> None:
    path = rows(tmp_path / "a.jsonl", ("a b", "B-A I-A"), ("c d", "B-A O"), ("e f", "O I-A"), ("g", "B-A I-A"))
    faults: list[str] = []
    read_tagged(read_table(path), TASK, faults.append)
    assert faults == [
        f"{path}: line 4: 1 words, but 2 tags",
        f"{path}: line 3: 'I-A' continues no entity, while entities begin with B- elsewhere in this file",
    ]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ("B-A I-A O", "an entity of type 'A' has no end, while entities end with E- or L- in this file"),
        ("O O B-A", "an entity of type 'A' has no end, while entities end with E- or L- in this file"),
        ("B-A S-A O", "an entity of type 'A' has no end, while entities end with E- or L- in this file"),
        ("O I-A E-A", "'I-A' continues no entity, while entities begin with B- elsewhere in this file"),
        ("B-A E-B O", "'E-B' continues no entity, while entities begin with B- elsewhere in this file"),
        ("B-A E-A E-A", "'E-A' continues no entity, while entities begin with B- elsewhere in this file"),
        ("A O O", "'A' has no prefix such as B- or I-, while tags of entities have one in this file"),
    ],
)
def test_a_sentence_that_contradicts_bioes_is_a_fault_with_its_line(tmp_path: Path, tags: str, reason: str) -> None:
    path = rows(tmp_path / "a.jsonl", ("a b c d", "B-A I-A E-A S-B"), ("x y z", tags))
    faults: list[str] = []
    examples = read_tagged(read_table(path), TASK, faults.append)
    assert faults == [f"{path}: line 2: {reason}"]
    assert examples.split.labels == (("B-A", "I-A", "I-A", "B-B"),)


def test_a_tag_without_prefix_is_a_fault_in_bio(tmp_path: Path) -> None:
    path = rows(tmp_path / "a.jsonl", ("a b c", "B-A I-A O"), ("d e", "A O"))
    with pytest.raises(DataError, match=r"a\.jsonl: line 2: 'A' has no prefix such as B- or I-, while tags"):
        bio(path)


def test_every_file_has_a_scheme_of_its_own(tmp_path: Path) -> None:
    train = write(tmp_path / "train.conll", "Anna B-PER\nB. I-PER\nruns O\n\n" * 12)
    test = write(tmp_path / "test.conll", "Anna B-PER\nB. E-PER\nand O\nBo S-PER\n")
    data = read(own_task(train, test=test))
    assert data.task.classes == ("O", "B-PER", "I-PER")
    assert data.splits["test"].labels == (("B-PER", "I-PER", "O", "B-PER"),)
    assert "train.conll: tags of entities in BIO: B- begins one, I- continues it" in data.notes
    assert "test.conll: tags of entities in BIOES (or BILOU); read as BIO" in data.notes


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"tokens": [], "tags": []}, "the column 'tokens' has no list of values"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "the column 'tokens' has no list of values"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "a word is '', which is no text"),
        ({"tokens": ["a"], "tags": [3]}, "the tag 3 is a number without a name"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, row: dict[str, object], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        bio(write(tmp_path / "a.jsonl", json.dumps(row) + "\n"))


def test_classes_have_both_tags_of_every_type() -> None:
    assert tag_classes([["O", "B-X"], ["B-Y", "I-Y"]]) == ("O", "B-X", "I-X", "B-Y", "I-Y")
    assert tag_classes([["VB", "NN"]]) == ("NN", "VB")


def test_a_file_of_ones_own_is_recognised(tmp_path: Path) -> None:
    path = write(tmp_path / "names.conll", "".join(f"Anna{k} B-PER\nruns O\n\n" for k in range(30)))
    task = own_task(path)
    assert (task.family, task.metric, task.text_columns, task.label_column) == (
        "tokens", "entity_f1", ("tokens",), "tags",
    )  # fmt: skip
    data = read(task)
    assert data.task.classes == ("O", "B-PER", "I-PER")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 22, "validation": 2, "test": 6}
    assert "tokens: words from the column 'tokens', their tags from 'tags'" in data.notes


def test_a_tag_that_is_not_in_training(tmp_path: Path) -> None:
    train = write(tmp_path / "train.conll", "Anna B-PER\nruns O\n\n" * 12)
    test = write(tmp_path / "test.conll", "Rome B-LOC\n")
    with pytest.raises(DataError, match=r"test\.conll: line 1: the tag 'B-LOC' is not in training"):
        read(own_task(train, test=test))


def test_the_columns_must_be_known_or_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"w": ["a"], "t": ["O"]}) + "\n")
    assert find_tagged_columns(OwnTable(path)) is None
    with pytest.raises(DataError, match="the columns w, t are not those of words and tags"):
        find_tagged_columns(OwnTable(path, certain=False))
    assert find_tagged_columns(OwnTable(path, texts=("w",), label="t", certain=False)) == ("w", "t")
