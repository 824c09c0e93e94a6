"""A user's own files as splits: each is read as a table, and what is missing is held out from training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from genft.data.copies import FEWEST, about_copies, draw_together, keys_together
from genft.data.examples import Examples, ReadTable, as_data
from genft.data.labels import similar_classes
from genft.data.tables import read_table
from genft.data.task import SPLITS, Fault, Split, Task, TaskData
from genft.errors import DataError

# The split does not depend on the run's seed; otherwise runs with different seeds would use different rows.
_SPLIT_SEED = 0


def read_own_files(
    task: Task,
    read: ReadTable,
    fault: Fault,
    *,
    about: str,
    classes: Callable[[Sequence[Any]], tuple[str, ...]] | None = None,
    together: str = "",
) -> TaskData:
    """The data of a task whose examples may have any kind of label.

    Args:
        task: names a file per split.
        read: reads one table.
        fault: called with a sentence for every row that cannot be used.
        about: a sentence about the columns.
        classes: the classes of the training labels, if they are names that the training file decides.
        together: what examples share that must not be separated (:attr:`Split.together`), for a note.
    """
    examples: dict[str, Examples] = {}
    known = task
    for name in [name for name in SPLITS if name in task.files]:
        examples[name] = read(read_table(task.files[name], task.encoding), known, fault)
        if classes and not known.classes:
            known = known.model_copy(update={"classes": classes(examples[name].split.labels)})
    data = hold_out_missing(as_data(known, examples, [about]), by_class=False, together=together)
    inferred = known.classes if classes and not task.classes else ()
    told = [f"classes from the column {task.label_column!r}: {listed(inferred, 25)}"] if inferred else []
    return TaskData(known, data.splits, [*data.notes, *told, *similar_classes(known.classes)], data.places)


def hold_out_missing(data: TaskData, *, by_class: bool, together: str = "") -> TaskData:
    """Hold out the missing splits: a fifth of the rows for test, then a tenth of the rest for validation.

    Copies, and what the reader says belongs together, stay together, so that no held-out example is also trained on.

    Args:
        data: with a training split.
        by_class: whether examples have one class each, by which they are drawn evenly.
        together: what the examples share that the reader keeps together, for a note.
    """
    task, notes = data.task, list(data.notes)
    splits: dict[str, Split] = dict(data.splits)
    places: dict[str, Sequence[str]] = dict(data.places)
    missing = [
        (name, one_in, share)
        for name, one_in, share in (("test", 5, "a fifth"), ("validation", 10, "a tenth"))
        if name not in splits
    ]
    rows = len(splits["train"])
    if missing and rows < FEWEST:
        raise DataError(
            f"{task.files['train']}: {rows} rows; at least {FEWEST} are needed to hold out "
            f"{' and '.join(name for name, *_ in missing)} rows from them"
        )
    content = keys_together(task.kind, splits["train"]) if missing else []
    if missing and len(set(content)) < rows:
        by_reader = content == list(splits["train"].together)
        notes.append(f"{together} are kept in the same split" if by_reader else _about_copies(rows, len(set(content))))
    if len(set(content)) < FEWEST:
        content = list(map(str, range(rows)))
    for name, one_in, share in missing:
        train, origin = splits["train"], places["train"]
        size = max(1, len(train) // one_in)
        keep, out = draw_together(train.labels, content, size, _SPLIT_SEED, by_class)
        splits["train"], splits[name] = train.take(keep), train.take(out)
        places["train"], places[name] = [origin[k] for k in keep], [origin[k] for k in out]
        content = [content[k] for k in keep]
        notes.append(f"{name}: {share} of the training rows, held out with a fixed seed")
    if by_class and len(set(splits["train"].labels)) < 2:
        raise DataError(f"{task.files['train']}: the training rows have only one class")
    return TaskData(task, {name: splits[name] for name in SPLITS}, notes, places)


def _about_copies(rows: int, different: int) -> str:
    if different < FEWEST:
        return (
            f"only {different} of {rows:,} examples are distinct: copies occur in several splits, scores are optimistic"
        )
    return f"{about_copies(rows - different)} in the same split"


def listed(names: Sequence[str], most: int = 12) -> str:
    """The names, or the first of them and how many there are."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
