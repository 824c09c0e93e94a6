"""Detection of duplicate examples: texts are compared by their words, images by the bytes of their files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from genft.data.images import digests
from genft.data.preprocessing import Kind
from genft.data.task import Split, draw

#: With fewer different examples than this, copies are not held together: too few groups would be left to draw from.
FEWEST = 10
_WORD = re.compile(r"\w+")


def contents(kind: Kind, split: Split) -> list[str]:
    """A key per example that is equal for copies; texts that differ only in case, spaces or punctuation are copies."""
    if kind == "image":
        return digests([path for (path,) in split.inputs])
    return ["\t".join(map(_words, texts)) for texts in split.inputs]


def keys_together(kind: Kind, split: Split) -> list[str]:
    """A key per example that is equal for those that are not to be separated: what its reader says, else copies."""
    return list(split.together) if len(set(split.together)) >= FEWEST else contents(kind, split)


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold())) or text.strip()


def draw_together(
    labels: Sequence[Any], content: Sequence[str], size: int, seed: int, stratify: bool
) -> tuple[list[int], list[int]]:
    """(the remaining rows, about ``size`` drawn rows), with all rows of equal content on the same side.

    Args:
        labels, content: the class number or value of each row, and its key from :func:`contents`.
        size: how many rows to draw; without copies, exactly this many are drawn.
        seed: the random seed.
        stratify: whether to stratify by class.
    """
    copies: dict[str, list[int]] = {}
    for row, text in enumerate(content):
        copies.setdefault(text, []).append(row)
    groups = list(copies.values())
    share = min(max(1, round(size * len(groups) / len(labels))), len(groups) - 1)
    keep, out = draw([labels[group[0]] for group in groups], share, seed, stratify)
    return sorted(row for g in keep for row in groups[g]), sorted(row for g in out for row in groups[g])


def about_copies(number: int) -> str:
    """The beginning of a sentence on what was done with ``number`` copies."""
    counted = "1 example is a copy" if number == 1 else f"{number:,} examples are copies"
    return f"{counted} of another; copies are kept"
