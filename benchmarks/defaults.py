"""The settings and learning rates that were tried to find a default, by their score on the selection split.

    python benchmarks/defaults.py runs/gpu runs/cpu --tasks sst2,stsb,dtd10,eurosat --seed 0

One row per method and settings; each cell has the scores × 100 at the row's learning rates, and
the last column the mean over the tasks at the best single rate. The reporting split is never read, unless all runs are
written to a file with ``--csv``.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from genft.runs.measured import Result
from genft.runs.store import Store
from genft.sweeps.schedule import selecting_score


def tried(run: Result) -> str:
    settings = run.spec["settings"]
    if "init_a" in settings:  # a preset of GenFT's paper sets everything
        return f"{run.method}, {settings.get('form', 'paper')} form, preset of its paper"
    return f"{run.method} {', '.join(f'{k} = {v}' for k, v in settings.items())}".strip()


def record(run: Result) -> dict[str, Any]:
    return {
        "task": run.task,
        "tried": tried(run),
        "learning_rate": run.spec["training"]["learning_rate"],
        "seed": run.seed,
        "epochs": run.spec["training"]["epochs"],
        "trained": run.counts.adapter,
        "metric": run.scores.metric,
        "selection": f"{selecting_score(run):.4f}",
        "reported": f"{run.scores.value:.4f}",
        "constant": run.scores.constant,
        "device": run.provenance.device,
        "key": run.key,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folders", type=Path, nargs="+")
    options.add_argument("--tasks", required=True)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--csv", type=Path, help="write every run of every seed to this file, instead of the table")
    given = options.parse_args()
    tasks = given.tasks.split(",")
    runs = {run.key: run for folder in given.folders for run in Store(folder) if run.task in tasks}

    if given.csv:
        rows = sorted(map(record, runs.values()), key=lambda row: [str(value) for value in row.values()])
        with given.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return

    scores: dict[str, dict[float, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    trained: dict[str, set[int]] = defaultdict(set)
    for run in runs.values():
        if run.seed == given.seed:
            scores[tried(run)][run.spec["training"]["learning_rate"]][run.task] = 100 * selecting_score(run)
            trained[tried(run)].add(run.counts.adapter)

    def best(name: str) -> tuple[float, float]:
        """(the highest mean over all tasks, its rate); (0, 0) if no rate has all tasks."""
        means = [(fmean(row.values()), rate) for rate, row in scores[name].items() if len(row) == len(tasks)]
        return max(means, default=(0.0, 0.0))

    print(f"| tried | trained | rates | {' | '.join(tasks)} | mean, rate |")
    print(f"|---|---:|---|{'---|' * len(tasks)}---:|")
    for name in sorted(scores, key=lambda name: (-best(name)[0], name)):
        rates = sorted(scores[name])
        cells = [", ".join(f"{scores[name][r][t]:.1f}" if t in scores[name][r] else "–" for r in rates) for t in tasks]
        mean, rate = best(name)
        counts = " / ".join(f"{n:,}" for n in sorted(trained[name]))
        print(
            f"| {name} | {counts} | {', '.join(f'{r:g}' for r in rates)} | {' | '.join(cells)} | "
            f"{f'{mean:.1f}, {rate:g}' if rate else ''} |"
        )


if __name__ == "__main__":
    main()
