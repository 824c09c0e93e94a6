"""What a reader of a board must know before trusting a number: missing runs, mixed seeds, collapsed trainings."""

from __future__ import annotations

import math
from collections import defaultdict

from genft.report.boards import Board, settings_of


def doubts(board: Board) -> list[str]:
    """Everything doubtful about a board, one sentence each."""
    return [*missing(board), *not_finite(board), *constant(board), *separated(board), *mixed(board)]


def missing(board: Board) -> list[str]:
    """A sentence per column that lacks a task, or one of the board's seeds on a task."""
    sentences = []
    for label in board.labels:
        lacking = [task for task in board.tasks if (task, label) not in board.runs]
        fewer = [
            f"{task} ({len(board.runs[task, label])} of {len(board.seeds)} seeds)"
            for task in board.tasks
            if (task, label) in board.runs and len(board.runs[task, label]) < len(board.seeds)
        ]
        if lacking or fewer:
            sentences.append(f"{label} is missing: {', '.join([*lacking, *fewer])}")
    return sentences


def not_finite(board: Board) -> list[str]:
    """A sentence per cell whose score is NaN or infinite in some seed."""
    sentences = []
    for (task, label), runs in board.runs.items():
        if seeds := [run.seed for run in runs if not math.isfinite(run.scores.value)]:
            sentences.append(f"{label} on {task} has no finite score ({_seeds(seeds)}), so no rank and no mean")
    return sentences


def constant(board: Board) -> list[str]:
    """A sentence per cell with a collapsed training run: every example gets the same prediction."""
    sentences = []
    for (task, label), runs in board.runs.items():
        if seeds := [run.seed for run in runs if run.key in board.constant]:
            sentences.append(
                f"{label} on {task} makes the same prediction for every example ({_seeds(seeds)}): training collapsed, "
                "often because the learning rate is too high or too low"
            )
    return sentences


def separated(board: Board) -> list[str]:
    """A sentence per task that has several rows, because its results are not of the same examples or inputs."""
    rows: dict[str, list[str]] = defaultdict(list)
    for name in board.tasks:
        rows[board.first(name).task].append(name)
    sentences = []
    for task, names in rows.items():
        of_task = [board.first(name).provenance for name in names]
        if len({provenance.data_fingerprint for provenance in of_task}) > 1:
            sentences.append(f"{task} has a row for each of several data sets: {', '.join(names)}")
        if len({provenance.input_fingerprint for provenance in of_task}) > 1:
            sentences.append(
                f"{task} has a row for each tokenizer or image preprocessor (or the images' pixels) that its results "
                f"were made with: {', '.join(names)}"
            )
    return sentences


def mixed(board: Board) -> list[str]:
    """A sentence per cell whose seeds ran with different settings (benches with different grids, say) or versions."""
    sentences = []
    for (task, label), runs in board.runs.items():
        first, *others = map(settings_of, runs)
        names = sorted({k for other in others for k in first.keys() | other if first.get(k) != other.get(k)})
        if names:
            sentences.append(
                f"{label} on {task} mixes seeds with different {', '.join(names)}: "
                "run one genft bench with all seeds to use the same settings"
            )
        packages = sorted({name for run in runs for name in run.provenance.versions})
        versions = {name: sorted({run.provenance.versions.get(name, "none") for run in runs}) for name in packages}
        if different := [f"{name} ({', '.join(numbers)})" for name, numbers in versions.items() if len(numbers) > 1]:
            sentences.append(f"{label} on {task} mixes seeds made by different versions of {', '.join(different)}")
        unknown = [run.seed for run in runs if run.provenance.input_fingerprint is None]
        if unknown and len(unknown) < len(runs):
            sentences.append(
                f"{label} on {task} mixes seeds that recorded their tokenizer or image preprocessor with seeds that "
                f"did not ({_seeds(unknown)})"
            )
    return sentences


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
