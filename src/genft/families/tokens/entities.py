"""Entities in the tags of a sentence, counted as conlleval (Tjong Kim Sang and Buchholz, 2000) counts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from genft.data.tagged import OUTSIDE, is_entity


class Entity(NamedTuple):
    """Words ``first`` to ``last``, both included."""

    kind: str
    first: int
    last: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags in BIO mark; as in conlleval, an I- that continues nothing begins an entity."""
    found: list[Entity] = []
    for k, tag in enumerate(tags):
        if not is_entity(tag):
            continue
        kind = tag[2:]
        before = tags[k - 1] if k else OUTSIDE
        if tag[0] == "I" and is_entity(before) and before[2:] == kind:
            found[-1] = found[-1]._replace(last=k)
        else:
            found.append(Entity(kind, k, k))
    return found


def entity_counts(predicted: Sequence[str], true: Sequence[str]) -> tuple[int, int, int]:
    """(entities that are right, found, true); right are those of the same type and words."""
    of_predicted, of_true = set(entities(predicted)), set(entities(true))
    return len(of_predicted & of_true), len(of_predicted), len(of_true)


def tag_counts(predicted: Sequence[str], true: Sequence[str]) -> tuple[int, int, int]:
    """(words whose tag is right, words, words)."""
    return sum(a == b for a, b in zip(predicted, true, strict=True)), len(true), len(true)
