"""Finds the columns of texts and labels in a user's own table, where their names leave no doubt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

#: Usual names of one text, of pairs of texts, and of labels.
TEXTS = ("text", "sentence", "review", "content", "comment", "message", "tweet", "document", "body")
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
)
LABELS = ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "stars", "rating")
VALUES = ("score", "value", "similarity")


class Columns(NamedTuple):
    """The columns of an example's texts, and of its label."""

    texts: tuple[str, ...]
    label: str


def find_columns(
    columns: Sequence[str], texts: Sequence[str] = (), label: str | None = None, *, regression: bool = False
) -> Columns:
    """The columns that the user named, and for those not named, the only ones with a usual name.

    A table of two columns whose text is known has its label in the other one. Where there is a choice, the names are
    ``text`` and ``label``, so that reading says which columns there are.
    """
    by_name = {name.strip().lower(): name for name in columns}
    if label is None:
        label = by_name.get("label") or _only(by_name, VALUES + LABELS if regression else LABELS, texts)
    found = tuple(texts) or _texts(by_name, label)
    if label is None and len(columns) == len(found) + 1 and set(found) < set(columns):
        label = next(name for name in columns if name not in found)
    return Columns(found or ("text",), label or "label")


def _texts(by_name: dict[str, str], label: str | None) -> tuple[str, ...]:
    if "text" in by_name:
        return (by_name["text"],)
    pairs = [pair for pair in PAIRS if set(pair) <= by_name.keys()]
    if len(pairs) == 1:
        return tuple(by_name[name] for name in pairs[0])
    only = _only(by_name, TEXTS, (label,) if label else ())
    return (only,) if only and not pairs else ()


def _only(by_name: dict[str, str], usual: Iterable[str], taken: Iterable[str]) -> str | None:
    """The column with one of these names, if there is exactly one that is not ``taken``."""
    found = [by_name[name] for name in usual if name in by_name and by_name[name] not in taken]
    return found[0] if len(found) == 1 else None
