"""Numbers printed in papers, one per row, each with its source."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from genft.errors import ConfigError, not_one_of

#: The benchmarks that GenFT's paper has a table of methods for.
SUITES = ("glue", "vtab1k", "fgvc")
_LONG = (*SUITES, "ablation")
_WIDE = {"vpetl_vtab1k": "vtab1k", "vpetl_fgvc": "fgvc"}


@dataclass(frozen=True)
class Number:
    """One printed number, in percent; ``task`` is "mean" for a printed mean over the tasks of a benchmark."""

    benchmark: str
    task: str
    method: str
    backbone: str
    metric: str
    value: float
    source: str
    note: str = ""


def read(name: str) -> list[dict[str, str]]:
    """The rows of ``name``.csv in this folder as text, so that printed numbers are neither rounded nor completed."""
    files = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.csv"))}
    if name not in files:
        raise ConfigError(not_one_of("published", name, files))
    with files[name].open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def numbers() -> tuple[Number, ...]:
    """Every printed result under genft's names for tasks and methods: GenFT's paper first, then V-PETL Bench and peft's
    own comparison."""
    papers = tuple(number for name in _LONG for number in _long(name)) + tuple(n for name in _WIDE for n in _wide(name))
    return papers + tuple(_of_peft())


def find(benchmark: str, task: str, method: str) -> tuple[Number, ...]:
    """The printed numbers for a method of genft on a task, one per source; empty if no paper has any."""
    printed = _names("same method").get(method, method)
    return tuple(n for n in numbers() if (n.benchmark, n.task, n.method) == (benchmark, task, printed))


def methods_of(benchmark: str) -> tuple[str, ...]:
    """The methods of the table of GenFT's paper on ``benchmark`` under genft's names, in the table's order; empty if
    there is no such table."""
    if benchmark not in SUITES:
        return ()
    # a row's printed name may stand for another method on one benchmark: GLUE's "Adapter" is Houlsby's
    meant = {r["printed_as"]: r["method"] for r in read("parameters") if r["benchmark"] == benchmark}
    return tuple(dict.fromkeys(meant.get(row["method"], row["method"]) for row in read(benchmark)))


def _long(name: str) -> Iterator[Number]:
    for row in read(name):
        yield Number(
            row["benchmark"],
            row["task"],
            row["method"],
            row["backbone"],
            row["metric"],
            float(row["value"]),
            row["source"],
            row["note"],
        )


def _wide(name: str) -> Iterator[Number]:
    """V-PETL Bench prints a row per method and a column per task."""
    methods, tasks = _names("method"), _names("task")
    for row in read(name):
        for column in row.keys() & tasks.keys():
            key = _WIDE[name], tasks[column], methods[row["Method"]]
            yield Number(*key, "ViT-B/16 IN-21k", "accuracy", float(row[column]), "V-PETL Bench")


def _of_peft() -> Iterator[Number]:
    """peft's comparison on MetaMathQA has a row per experiment; of several with one method, rank 32 or the default is
    the first."""
    rows = read("peft_metamath")
    for row in sorted(rows, key=lambda row: not row["experiment"].endswith(("-rank32", "-default"))):
        method = "dora" if row["experiment"].endswith("-dora") else row["method"]
        yield Number(
            "metamath",
            "metamath",
            method,
            row["model"].rpartition("/")[2],
            "exact_match",
            round(100 * float(row["test accuracy"]), 2),
            "peft's comparison, whose reruns differ by up to 2.5 points",
            row["experiment"],
        )


@functools.cache
def _names(kind: str) -> dict[str, str]:
    return {row["printed"]: row["name"] for row in read("names") if row["kind"] == kind}
