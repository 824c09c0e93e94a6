"""The boards of a store: which of its results share a table, and under which names.

A result that cannot be read is left out, named and counted; it never aborts a report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genft.errors import ConfigError, DataError, not_one_of
from genft.families.metrics import METRICS
from genft.report.boards import Board, settings_of
from genft.report.significance import ComparedBoard, compare
from genft.runs.measured import Failure, Result
from genft.runs.spec import LIMITS
from genft.runs.store import Store, is_constant


@dataclass(frozen=True)
class Report:
    """The results in a store, compared.

    Attributes:
        boards: each with the differences from one of its methods.
        notes: a sentence per result that is left out, and per run that failed.
    """

    boards: tuple[ComparedBoard, ...]
    notes: tuple[str, ...]


def read_report(
    store: Store,
    *,
    methods: Collection[str] = (),
    everything: bool = False,
    together: bool = False,
    against: str | None = None,
    only: str | None = None,
) -> Report:
    """The boards of a store with their differences, and what is missing from them.

    Args:
        methods, everything, together, only: as for :func:`read_boards`.
        against: the method to compare with, on the boards that have it; by default the best of each board.

    Raises:
        ConfigError: a method that has no result.
        DataError: no results at all.
    """
    boards, notes = read_boards(store, methods=methods, everything=everything, together=together, only=only)
    if against is not None and not any(against in board.labels for board in boards):
        known = dict.fromkeys(label for board in boards for label in board.labels)
        raise ConfigError(not_one_of("--against", against, known))
    compared = [ComparedBoard(b, compare(b, against if against in b.labels else None)) for b in boards]
    return Report(tuple(compared), (*notes, *failure_notes(store)))


def failure_notes(store: Store) -> list[str]:
    """A sentence per run that ended with an error."""
    notes = []
    for path in sorted(store.failures.glob("*.json")):
        try:
            failure = store.failure(path.stem)
        except DataError as e:
            notes.append(f"left out: {e}")
        else:
            notes += [_failed(failure)] if failure else []
    return notes


def _failed(failure: Failure) -> str:
    reason = (failure.error.splitlines() or ["no reason was recorded"])[0]
    return f"failed: {failure.task} {failure.method} seed {failure.seed}: {reason}"


def read_boards(
    store: Store,
    *,
    methods: Collection[str] = (),
    everything: bool = False,
    together: bool = False,
    only: str | None = None,
) -> tuple[list[Board], list[str]]:
    """(the boards of a store, each in the order of its bench, or of method names; a sentence per result left out).

    Args:
        methods: only these columns, by label or by name of the method; empty for all.
        everything: also results that no bench compares: a grid's candidates, single runs.
        together: benches with different training share boards; if two have the same column and task, the runs of the
            later one count.
        only: use only the comparison with this name: :attr:`genft.sweeps.matrix.Matrix.name` of a bench.

    Raises:
        ConfigError: a method that has no result.
        DataError: no results at all.
    """
    rows, notes = _labelled(store, everything)
    total = len(rows) + len(notes)
    tables: dict[tuple[Any, ...], list[tuple[str, Result]]] = defaultdict(list)
    for matrix, label, result in _latest(rows) if together else rows:
        if only in (None, matrix):
            tables[(matrix, *_comparable(result))].append((label, result))
    if not tables:
        reasons = f" ({len(notes)} cannot be read; the first: {notes[0]})" if notes else ""
        raise DataError(
            f"{store.out}: holds no results{reasons}; `genft train` and `genft bench` write them with --out"
        )
    known = {name for table in tables.values() for label, run in table for name in (label, run.method)}
    if unknown := [name for name in methods if name not in known]:
        raise ConfigError(not_one_of("--methods", unknown[0], sorted(known), what="has no result"))
    boards = []
    for (_, model, _, suite, protocol, limits), table in tables.items():
        wanted = [(label, run) for label, run in table if not methods or {label, run.method} & set(methods)]
        if wanted:
            runs, left_out = _placed(wanted)
            notes += left_out
            labels = tuple(dict.fromkeys(label for label, _ in wanted))
            constant = frozenset(run.key for cell in runs.values() for run in cell if is_constant(run))
            boards.append(Board(model, suite, protocol, limits, labels, runs, constant))
    if notes:
        notes.insert(0, f"{len(notes)} of {total} results are left out")
    return boards, notes


# ---------------------------------------------------------------- reading


def _labelled(store: Store, everything: bool) -> tuple[list[tuple[str, str, Result]], list[str]]:
    """(comparison, column, result) of every compared run; of every result if there is no bench or ``everything``."""
    compared = [] if everything else store.compared()
    keys = dict.fromkeys(run.key for run in compared) if compared else store.keys()
    results, notes = _readable(store, keys)
    if not compared:
        return [("", label, run) for label, run in _distinguished(list(results.values()))], notes
    return [(run.matrix, run.label, results[run.key]) for run in compared if run.key in results], notes


def _readable(store: Store, keys: Iterable[str]) -> tuple[dict[str, Result], list[str]]:
    """(the results that can be read and scored, by key; a sentence per one that cannot)."""
    results, notes = {}, []
    for key in keys:
        try:
            result = store.get(key)
            if result is not None:
                _check(result, store.path(key))
                results[key] = result
        except DataError as e:
            notes.append(f"left out: {e}")
    return results, notes


def _check(result: Result, path: Path) -> None:
    """Refuse a result that a board cannot hold."""
    if result.scores.metric not in METRICS:
        raise DataError(not_one_of(f"{path}: metric", result.scores.metric, METRICS))
    for part in ("task", "settings", "training"):
        if not isinstance(result.spec.get(part, {}), dict):
            raise DataError(f"{path}: spec.{part} is not a table of names and values")


# ---------------------------------------------------------------- arranging results in tables, rows and columns


def _comparable(run: Result) -> tuple[Any, ...]:
    """What must be equal for two runs to share a table."""
    suite = run.spec.get("task", {}).get("suite", "")
    return run.model, run.provenance.model_fingerprint, suite, run.protocol, _limits(run)


def _limits(run: Result) -> tuple[int | None, ...]:
    return tuple(run.spec.get(name) for name in LIMITS)


def _row(run: Result) -> tuple[str, str, str]:
    """What must be equal for two runs to share a row."""
    return run.task, run.provenance.data_fingerprint, run.scores.metric


def _latest(rows: Sequence[tuple[str, str, Result]]) -> list[tuple[str, str, Result]]:
    """Merge all comparisons into one; where several have runs for the same cell of a board, keep those of the last."""
    last = {(_comparable(run), label, _row(run)): matrix for matrix, label, run in rows}
    return [("", label, run) for matrix, label, run in rows if last[_comparable(run), label, _row(run)] == matrix]


def _distinguished(results: Sequence[Result]) -> Iterable[tuple[str, Result]]:
    """Label the results; a method that ran with several settings on one task and seed gets a column for each."""
    methods: dict[str, list[Result]] = defaultdict(list)
    for run in sorted(results, key=lambda run: (run.method, run.task, run.seed)):
        methods[run.method].append(run)
    for method, runs in methods.items():
        places: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for run in runs:
            places[(_comparable(run), _row(run), run.seed)].append(settings_of(run))
        names = {name for place in places.values() for settings in place for name in settings}
        differ = sorted(name for name in names if any(len({repr(s.get(name)) for s in p}) > 1 for p in places.values()))
        labels = {}
        for run in runs:
            settings = settings_of(run)
            parts = [f"{name}={settings[name]}" for name in differ if settings.get(name) is not None]
            labels[run.key] = f"{method}[{','.join(parts)}]" if parts else method
        yield from ((labels[run.key], run) for run in sorted(runs, key=lambda run: labels[run.key]))


def _placed(rows: Sequence[tuple[str, Result]]) -> tuple[dict[tuple[str, str], tuple[Result, ...]], list[str]]:
    """(the runs by (task, label), ordered by seed; a sentence per run that another one of the same seed replaces)."""
    names = _row_names([run for _, run in rows])
    cells: dict[tuple[str, str], dict[int, Result]] = defaultdict(dict)
    left_out = []
    for label, run in rows:
        of_seed = cells[names[run.key], label]
        other = of_seed.get(run.seed, run)
        older, newer = sorted((other, run), key=lambda r: r.provenance.started)
        of_seed[run.seed] = newer
        if older.key != newer.key:
            left_out.append(f"left out: {older.key} is {label} on {run.task} with seed {run.seed}, as {newer.key} is")
    return {key: tuple(run for _, run in sorted(of_seed.items())) for key, of_seed in cells.items()}, left_out


def _row_names(runs: Sequence[Result]) -> dict[str, str]:
    """The row of every run by its key: the task, and in brackets what tells it from the task's other rows.

    Runs on other data, with another metric, or whose examples became the model's input otherwise (another tokenizer,
    other pixels) are other rows. Results of a genft that did not record the latter belong to the only row there is.
    """
    by_task: dict[str, list[Result]] = defaultdict(list)
    for run in runs:
        by_task[run.task].append(run)
    names = {}
    for task, of_task in by_task.items():
        data = _shortened({run.provenance.data_fingerprint for run in of_task})
        inputs = _shortened({run.provenance.input_fingerprint for run in of_task} - {None})
        metrics = {run.scores.metric for run in of_task}
        for run in of_task:
            made = inputs.get(run.provenance.input_fingerprint, "not recorded")
            notes = [f"data {data[run.provenance.data_fingerprint]}"] if len(data) > 1 else []
            notes += [f"inputs {made}"] if len(inputs) > 1 else []
            notes += [run.scores.metric] if len(metrics) > 1 else []
            names[run.key] = f"{task} ({', '.join(notes)})" if notes else task
    return names


def _shortened(hashes: Collection[str | None]) -> dict[str | None, str]:
    """Every hash with its first digits: at least four, and as many as tell it from the others."""
    known = [text for text in hashes if text is not None]
    digits = 4
    while len({text[:digits] for text in known}) < len(known):
        digits += 1
    return {text: text[:digits] for text in known}
