"""A matrix of many tiny runs: how much longer it takes than the runs themselves.

    python benchmarks/matrix.py --runs 1000 --jobs 2

A linear head (by default on MiniLM-L6) for 16 news texts, one epoch, one seed per run. "Processes" are measured from
start to end; what exceeds them is planning, the store and waiting between runs. The second comparison is with the
seconds that the runs measure themselves, which leave out starting a process and fingerprinting the model and the data.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import common
from genft.data import find_tasks, read
from genft.errors import GenFTError
from genft.presets import Preset
from genft.runs.measured import Result
from genft.runs.store import Store
from genft.sweeps import processes
from genft.sweeps.matrix import Matrix, parse_entries
from genft.sweeps.schedule import Schedule


class Timed(processes.RunProcess):
    """Adds up how long the processes live."""

    alive = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()
        super().__init__(*args, **kwargs)

    def end(self) -> None:
        super().end()
        Timed.alive += time.perf_counter() - self.began


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=1000)
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--model", default="minilm-l6")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    processes.RunProcess = Timed  # type: ignore[misc]
    (task,) = find_tasks("bbc-news", None)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        matrix = Matrix(
            tasks=(task,),
            entries=parse_entries("linear"),
            seeds=tuple(range(given.runs)),
            model=given.model,
            preset=Preset(name="none", source=""),
            grid=(),
            training={"epochs": 1},
            run={"limit_train": 16, "limit_eval": 8},
        )
        schedule = Schedule(matrix, Store(Path(folder)).open(), {task.name: read(task)})
        planned = time.perf_counter() - began
        own = 0.0
        for _, message in schedule.run(given.jobs):
            if isinstance(message, GenFTError):
                raise message
            own += message.cost.seconds if isinstance(message, Result) else 0.0
        places = given.jobs * (time.perf_counter() - began)
    row = {
        "runs": given.runs,
        "jobs": given.jobs,
        "planning s": planned,
        "all s": places / given.jobs,
        "a process s": Timed.alive / given.runs,
        "a run s": own / given.runs,
        "beyond the processes %": 100 * (places / Timed.alive - 1),
        "beyond their own seconds %": 100 * (places / own - 1),
    }
    common.report("matrix", [row], given)


if __name__ == "__main__":
    main()
