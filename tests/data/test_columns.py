"""Columns that are found by their names, and those that are not because there is a choice."""

from __future__ import annotations

import pytest

from genft.data.columns import find_columns


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("text", "label"), (("text",), "label")),
        (("Review", "Stars"), (("Review",), "Stars")),
        (("id", "sentence1", "sentence2", "label"), (("sentence1", "sentence2"), "label")),
        (("question", "sentence", "label"), (("question", "sentence"), "label")),
        (("review", "urgent"), (("review",), "urgent")),  # two columns, one of them known
        (("review", "comment", "label"), (("text",), "label")),  # a choice of texts
        (("text", "category", "topic"), (("text",), "label")),  # a choice of labels
        (("a", "b"), (("text",), "label")),
        (("id", "review", "urgent"), (("review",), "label")),
    ],
)
def test_columns(columns: tuple[str, ...], found: tuple[tuple[str, ...], str]) -> None:
    assert find_columns(columns) == found


def test_named_columns_win() -> None:
    assert find_columns(("title", "text", "label", "topic"), ("title",), "topic") == (("title",), "topic")
    assert find_columns(("title", "grade"), ("title",)) == (("title",), "grade")


def test_values_of_a_regression() -> None:
    assert find_columns(("text", "score"), regression=True).label == "score"
    assert find_columns(("sentence1", "sentence2", "score", "id"), regression=True) == (
        ("sentence1", "sentence2"),
        "score",
    )
