"""The settings and learning rates that were tried to find a default, ranked by their score on the selection split.

    python benchmarks/defaults.py runs/text runs/images --tasks sst2,stsb,dtd10,eurosat --seed 0

One row per method, settings and learning rate, the best mean first; rows that lack a task come last. The reporting
split is never read.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from genft.runs.measured import Result
from genft.runs.store import Store
from genft.sweeps.schedule import selecting_score


def tried(run: Result) -> tuple[str, float]:
    settings = ", ".join(f"{k} = {v}" for k, v in run.spec["settings"].items())
    return f"{run.method} {settings}".strip(), run.spec["training"]["learning_rate"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folders", type=Path, nargs="+")
    options.add_argument("--tasks", required=True)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--methods", default="genft,vectorfit,lora")
    given = options.parse_args()
    tasks, methods = given.tasks.split(","), given.methods.split(",")

    rows: dict[tuple[str, float], dict[str, Result]] = defaultdict(dict)
    for folder in given.folders:
        for run in Store(folder):
            if run.seed == given.seed and run.task in tasks and run.method in methods:
                rows[tried(run)][run.task] = run

    def mean(row: dict[str, Result]) -> float:
        return fmean(map(selecting_score, row.values())) if len(row) == len(tasks) else -1.0

    print(f"| tried | rate | trained | {' | '.join(tasks)} | mean |")
    print(f"|---|---:|---:|{'---:|' * len(tasks)}---:|")
    for (name, rate), row in sorted(rows.items(), key=lambda item: (-mean(item[1]), item[0])):
        trained = " / ".join(f"{n:,}" for n in dict.fromkeys(run.counts.adapter for run in row.values()))
        scores = [f"{100 * selecting_score(row[task]):.1f}" if task in row else "" for task in tasks]
        whole = f"{100 * mean(row):.1f}" if len(row) == len(tasks) else ""
        print(f"| {name} | {rate:g} | {trained} | {' | '.join(scores)} | {whole} |")


if __name__ == "__main__":
    main()
