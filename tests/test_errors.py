"""The form of messages."""

import pytest

from genft.errors import first_line, nearest, not_one_of, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("café 東京 \U0001f98a", "café 東京 \U0001f98a"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("two\r\nlines\ttab", r"two\r\nlines\ttab"),
        ("\u202eleft \u2028 \ud800", r"\u202eleft \u2028 \ud800"),
    ],
)
def test_control_characters_are_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(text).isprintable()


def test_the_nearest_name() -> None:
    assert nearest("Qurey", ["key", "query"]) == "query"
    assert nearest("zzz", ["key", "query"]) is None
    assert not_one_of("a", "qurey", ["key", "query"]) == (
        "a: 'qurey' is not known; allowed: key, query; nearest: 'query'"
    )


def test_an_error_without_text() -> None:
    assert first_line(ValueError()) == "no reason given"
    assert first_line(ValueError("one\ntwo")) == "one"
