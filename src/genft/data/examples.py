"""The examples of tables, whatever is learned of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from genft.data.tables import Table
from genft.data.task import Fault, Split, Task, TaskData


class Examples(NamedTuple):
    """The examples of a table.

    Attributes:
        places: where each example is.
        notes: what was inferred or left out, with counts; those of the table too.
    """

    split: Split
    places: Sequence[str]
    notes: Sequence[str]

    def take(self, rows: Iterable[int]) -> Examples:
        rows = list(rows)
        return Examples(self.split.take(rows), [self.places[k] for k in rows], self.notes)


#: Reads one table. It calls the fault for every row that cannot be used.
ReadTable = Callable[[Table, Task, Fault], Examples]


def as_data(task: Task, examples: Mapping[str, Examples], notes: Sequence[str] = ()) -> TaskData:
    """The data of a task from the examples of every split; ``notes`` come first."""
    return TaskData(
        task,
        {name: each.split for name, each in examples.items()},
        [*notes, *(note for each in examples.values() for note in each.notes)],
        {name: each.places for name, each in examples.items()},
    )
