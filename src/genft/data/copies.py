"""Examples that are the same for a reader: texts by their words, images by their files."""

from __future__ import annotations

import re
from collections.abc import Sequence

from genft.data.images import digests
from genft.data.preprocessing import Kind
from genft.data.task import Split, draw

_WORD = re.compile(r"\w+")


def contents(kind: Kind, split: Split) -> list[str]:
    """Per example what it is: equal for copies. Case, spaces and punctuation make no other text."""
    if kind == "image":
        return digests([path for (path,) in split.inputs])
    return ["\t".join(map(_words, texts)) for texts in split.inputs]


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold())) or text.strip()


def draw_together(
    labels: Sequence[float], content: Sequence[str], size: int, seed: int, stratify: bool
) -> tuple[list[int], list[int]]:
    """(the remaining rows, about ``size`` drawn ones): all rows of equal content are on one side.

    Args:
        labels, content: per row its class number or value, and what it holds.
        size: how many rows to draw; without copies exactly as many are drawn.
        seed: of the drawing.
        stratify: whether to draw by class.
    """
    copies: dict[str, list[int]] = {}
    for row, text in enumerate(content):
        copies.setdefault(text, []).append(row)
    groups = list(copies.values())
    share = min(max(1, round(size * len(groups) / len(labels))), len(groups) - 1)
    keep, out = draw([labels[group[0]] for group in groups], share, seed, stratify)
    return sorted(row for g in keep for row in groups[g]), sorted(row for g in out for row in groups[g])
