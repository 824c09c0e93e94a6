"""The families by name."""

from __future__ import annotations

from genft.data.task import Task
from genft.errors import ConfigError, not_one_of
from genft.families.classification import Classification
from genft.families.family import Family
from genft.families.generation.family import Generation
from genft.families.multilabel import MultiLabel
from genft.families.spans.family import Spans
from genft.families.tokens.family import Tokens

FAMILIES: dict[str, type[Family]] = {
    family.name: family for family in (Classification, Generation, Spans, Tokens, MultiLabel)
}


def get_family(task: Task) -> Family:
    """The family of ``task``, which defines how it is learned.

    Raises:
        ConfigError: no family has the name in ``task.family``.
    """
    if task.family not in FAMILIES:
        raise ConfigError(not_one_of(f"task {task.name!r}: family", task.family, FAMILIES))
    return FAMILIES[task.family](task)
