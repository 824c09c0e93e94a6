"""``genft study``: repeat the paper's studies on any task and model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from genft.api.settings import parse_settings
from genft.cli.checks import DataCheckOptions, check_tasks_first
from genft.cli.declare import Given, Options, argument, option, takes_options
from genft.cli.options import (
    FigureOptions,
    ModelOptions,
    OutputOptions,
    RoleOptions,
    SettingOptions,
    SweepOptions,
    TasksOptions,
)
from genft.cli.progress import SweepBars, print_failures
from genft.cli.request import numbers, read_tasks, run_alone
from genft.cli.screen import print_json, screen
from genft.errors import ConfigError
from genft.figures.studies import draw_study
from genft.figures.style import check_format
from genft.methods import get_method
from genft.presets import load_preset
from genft.report.style import count, table
from genft.runs.quiet import be_quiet
from genft.runs.settings import Training
from genft.runs.store import Store
from genft.sweeps.schedule import Schedule
from genft.sweeps.studies import Measured, Study, Variant, get_study, measure, study_matrices


class StudyOptions(Options):
    panel = "Study"
    study: str = argument("ablation, ratio-scaling, shared-dim or rank.", metavar="STUDY")
    grid: tuple[str, ...] = option(
        "Other values for an axis (w0_ratio, scaling, shared_dim or rank), such as w0_ratio=0.03,0.1; may be repeated.",
        (),
        metavar="AXIS=VALUES",
    )


class StudyFigureOptions(FigureOptions):
    figures: Path | None = option("The folder for figures.", None, shown_default="figures in --out")


@takes_options
def study(
    chosen: StudyOptions,
    tasks: TasksOptions,
    model: ModelOptions,
    setting: SettingOptions,
    roles: RoleOptions,
    checks: DataCheckOptions,
    training: Given[Training],
    sweep: SweepOptions,
    output: OutputOptions,
    drawing: StudyFigureOptions,
) -> None:
    """Repeat a study of GenFT's paper on any task and model.

    The studies are Table 4 and Figures 2, 3 and 4. A study runs like a bench: if it is interrupted, run the same
    command again to resume. Runs that another study or bench has finished in the same --out are not repeated.

        genft study ablation glue --model roberta-base --seeds 0,1,2

        genft study ratio-scaling cola mrpc -m minilm-l6 --grid w0_ratio=0.03,0.1,1 --grid scaling=0.1,1
    """
    run_alone("study")
    be_quiet()
    console = screen(output.as_json)
    repeated, grid = get_study(chosen.study), _grid(chosen.grid)
    repeated.grid(grid)
    check_format(drawing.format)
    store = Store(output.out) if sweep.dry_run else Store(output.out).open()
    settings = parse_settings(get_method("genft"), setting.settings, Training.model_fields)
    data = read_tasks(console, tasks.tasks, tasks.data, roles)
    matrices = study_matrices(
        repeated,
        [task for task, _ in data],
        grid,
        settings,
        seeds=numbers("--seeds", sweep.seeds, int),
        model=model.model,
        preset=load_preset(model.preset or "study"),
        training=training.values,
        run=roles.given,
    )
    by_name = {task.name: task_data for task, task_data in data}
    schedules = [Schedule(matrix, store, by_name) for matrix, _ in matrices]
    _announce(console, repeated, schedules, model.model)
    if sweep.dry_run:
        return
    if not checks.no_check:
        check_tasks_first(console, [run for schedule in schedules for run in schedule.waiting])
    measured = _run(console, schedules, [variants for _, variants in matrices], sweep.jobs)
    paths = draw_study(repeated.name, measured, drawing.figures or output.out / "figures", drawing.format)
    if output.as_json:
        print_json({"study": repeated.name, "measured": [*map(_data, measured)], "figures": [*map(str, paths)]})
    else:
        _show(console, repeated, measured)
    for path in paths:
        console.print(f"Figure: {path}", soft_wrap=True, markup=False)
    if any(schedule.failures for schedule in schedules):
        raise typer.Exit(1)


def _grid(pairs: Sequence[str]) -> dict[str, tuple[float, ...]]:
    grid = {}
    for pair in pairs:
        axis, equals, values = pair.partition("=")
        if not equals or not values.strip():
            raise ConfigError(f"--grid {pair}: must be AXIS=VALUES, such as w0_ratio=0.03,0.1")
        grid[axis.strip().replace("-", "_")] = numbers(f"--grid {axis}", values, float)
    return grid


def _announce(console: Console, repeated: Study, schedules: Sequence[Schedule], model: str) -> None:
    planned, done = sum(s.planned for s in schedules), sum(len(s.outcomes) for s in schedules)
    console.print(f"[bold]{repeated.name}[/]: {repeated.text}")
    for schedule in schedules:
        (run,) = schedule.one_per_task()
        console.print(
            f"{run.data.task.name}: {len(schedule.matrix.entries)} variants, seeds "
            f"{', '.join(map(str, schedule.matrix.seeds))}, protocol {run.spec.protocol}, {run.data.task.metric}"
        )
    console.print(f"{planned} runs on {model}, {done} finished\n", soft_wrap=True, markup=False)


def _run(
    console: Console, schedules: Sequence[Schedule], variants: Sequence[Sequence[Variant]], jobs: int
) -> list[Measured]:
    """Execute the schedules, print their failures, and return what they measured."""
    measured: list[Measured] = []
    for schedule, of_task in zip(schedules, variants, strict=True):
        with SweepBars(console, schedule) as bars:
            for run, event in schedule.run(jobs):
                bars.show(run, event)
        measured += measure(schedule, of_task)
    for schedule in schedules:
        print_failures(console, schedule)
    return measured


def _data(m: Measured) -> dict[str, Any]:
    return {
        "task": m.task,
        "variant": m.variant.name,
        **m.variant.place,
        "metric": m.metric,
        "scores": {r.seed: r.scores.value for r in m.results},
        "parameters": m.parameters,
        "published": m.printed,
    }


def _show(console: Console, repeated: Study, measured: Sequence[Measured]) -> None:
    axes = list(repeated.axes)
    names = ["variant"] if repeated.name in ("ablation", "rank") else []
    printed = any(m.printed is not None for m in measured)
    right = [*axes, "score", "± seed", "adapter", *(["published"] if printed else [])]
    shown = table("task", *names, *right, right=right)
    for n, m in enumerate(measured):
        is_first = n == 0 or measured[n - 1].task != m.task
        if n and is_first:
            shown.add_section()
        shown.add_row(
            m.task if is_first else "",
            *([m.variant.name] if names else []),
            *(f"{m.variant.place[axis]:g}" for axis in axes),
            f"{m.mean:.4f}" if m.results else "failed",
            "" if math.isnan(m.deviation) else f"{m.deviation:.4f}",
            "" if m.parameters is None else count(m.parameters),
            *(["" if m.printed is None else f"{m.printed:.4f}"] if printed else []),
        )
    console.print(shown)
    metrics = ", ".join(dict.fromkeys(m.metric for m in measured))
    console.print(
        f"[dim]score: mean {metrics} over seeds on the protocol's reporting split; ± seed: standard deviation of one "
        "seed; adapter: trained parameters. The best of a grid is chosen on the reported data: "
        "to find settings for use, run `genft search`.[/]"
    )
