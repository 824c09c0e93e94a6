"""``genft study``: the paper's studies on any task and model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from genft.cli.bench import Bars, numbers, read_tasks, tell_failures
from genft.cli.options import (
    DataRoot,
    LimitEval,
    LimitSelect,
    LimitTrain,
    ProtocolName,
    TaskWords,
    run_alone,
    takes_training,
)
from genft.cli.screen import print_json, screen

if TYPE_CHECKING:
    from genft.sweeps.studies import Measured, Study

_STUDY, _DATA, _OUTPUT = "What is studied", "Data", "Output"


@takes_training
def study(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="ablation, ratio-scaling, shared-dim or rank.")],
    tasks: TaskWords,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A packaged model (genft list models), a folder, a Hub id, or a timm name.",
            rich_help_panel=_STUDY,
        ),
    ],
    training: dict[str, Any],
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=VALUES",
            help="Other values of an axis: w0_ratio=0.03,0.1 or scaling, shared_dim, rank. As often as needed.",
            rich_help_panel=_STUDY,
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Separated by commas.", rich_help_panel=_STUDY)] = "0,1,2",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of GenFT in all runs.", rich_help_panel=_STUDY),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Hyper-parameters by name, or your own .toml.", rich_help_panel=_STUDY)
    ] = "default",
    data: DataRoot = None,
    protocol: ProtocolName = None,
    limit_train: LimitTrain = None,
    limit_eval: LimitEval = None,
    limit_select: LimitSelect = None,
    out: Annotated[Path, typer.Option(help="Where results go.", rich_help_panel=_OUTPUT)] = Path("runs"),
    figures: Annotated[
        Path | None, typer.Option(help="Where figures go. \\[default: figures in --out]", rich_help_panel=_OUTPUT)
    ] = None,
    format: Annotated[str, typer.Option(help="png, svg or pdf.", rich_help_panel=_OUTPUT)] = "png",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time.", rich_help_panel=_OUTPUT)] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the runs.", rich_help_panel=_OUTPUT)] = False,
    json: Annotated[bool, typer.Option("--json", help="The table as JSON on stdout.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """Repeat a study of GenFT's paper: Table 4, Figures 2, 3 and 4, on any task and model.

    A bench underneath: interrupted, it goes on with the same command, and runs that another study or bench has finished
    in the same --out are not repeated.

        genft study ablation glue --model roberta-base --seeds 0,1,2

        genft study ratio-scaling cola mrpc -m minilm-l6 --grid w0_ratio=0.03,0.1,1 --grid scaling=0.1,1
    """
    from genft.data import Task
    from genft.figures.style import check_format
    from genft.methods import get_method
    from genft.presets import load_preset
    from genft.runs.spec import parse_settings
    from genft.runs.store import Store
    from genft.sweeps.matrix import Schedule
    from genft.sweeps.processes import be_quiet
    from genft.sweeps.studies import get_study, measure, study_matrices

    run_alone("study")
    be_quiet()
    console = screen(json)
    chosen, said_grid = get_study(name), _grid(grid or ())
    chosen.grid(said_grid)
    check_format(format)
    store = Store(out) if dry_run else Store(out).open()
    said = {"protocol": protocol, "limit_train": limit_train, "limit_eval": limit_eval, "limit_select": limit_select}
    settings = parse_settings(get_method("genft"), set_ or ())
    found = read_tasks(console, tasks, data)
    read: list[Task] = [task for task, _ in found]
    matrices = study_matrices(
        chosen,
        read,
        said_grid,
        settings,
        seeds=numbers("--seeds", seeds, int),
        model=model,
        preset=load_preset(preset),
        training=training,
        said={k: v for k, v in said.items() if v is not None},
    )
    schedules = [Schedule(matrix, store, {task.name: data for task, data in found}) for matrix, _ in matrices]
    _announce(console, chosen, schedules, model)
    if dry_run:
        return
    measured: list[Measured] = []
    for schedule, (_, variants) in zip(schedules, matrices, strict=True):
        with Bars(console, schedule) as bars:
            for plan, event in schedule.run(jobs):
                bars.show(plan, event)
        measured += measure(schedule, variants)
    for schedule in schedules:
        tell_failures(console, schedule)
    paths = _draw(chosen, measured, figures or out / "figures", format)
    if json:
        print_json({"study": name, "measured": [_data(m) for m in measured], "figures": [str(p) for p in paths]})
    else:
        _show(console, chosen, measured)
    for path in paths:
        console.print(f"Figure: {path}", soft_wrap=True, markup=False)
    if any(schedule.failures for schedule in schedules):
        raise typer.Exit(1)


def _grid(pairs: list[str] | tuple[()]) -> dict[str, tuple[float, ...]]:
    from genft.errors import ConfigError

    found = {}
    for pair in pairs:
        axis, equals, values = pair.partition("=")
        if not equals or not values.strip():
            raise ConfigError(f"--grid {pair}: must be AXIS=VALUES, such as w0_ratio=0.03,0.1")
        found[axis.strip().replace("-", "_")] = numbers(f"--grid {axis}", values, float)
    return found


def _announce(console: Console, chosen: Study, schedules: list[Any], model: str) -> None:
    planned, done = sum(s.planned for s in schedules), sum(len(s.outcomes) for s in schedules)
    console.print(f"[bold]{chosen.name}[/]: {chosen.text}")
    for schedule in schedules:
        (plan,) = schedule.one_per_task()
        console.print(
            f"{plan.data.task.name}: {len(schedule.matrix.entries)} variants, seeds "
            f"{', '.join(map(str, schedule.matrix.seeds))}, protocol {plan.spec.protocol}, {plan.data.task.metric}"
        )
    console.print(f"{planned} runs on {model}, of which {done} are finished\n", soft_wrap=True, markup=False)


def _draw(chosen: Study, measured: list[Measured], folder: Path, format: str) -> list[Path]:
    from genft.figures.style import save, style

    paths = []
    with style():
        import matplotlib.pyplot as plt

        for ending, figure in chosen.draw(measured):
            paths.append(folder / f"{chosen.name}{ending}.{format}")
            save(figure, paths[-1])
            plt.close(figure)
    return paths


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


def _show(console: Console, chosen: Study, measured: list[Measured]) -> None:
    import math

    from genft.report.terminal import count, table

    axes = list(chosen.axes)
    names = ["variant"] if chosen.name in ("ablation", "rank") else []
    printed = any(m.printed is not None for m in measured)
    right = [*axes, "score", "± seed", "adapter", *(["published"] if printed else [])]
    shown = table("task", *names, *right, right=right)
    for n, m in enumerate(measured):
        if n and measured[n - 1].task != m.task:
            shown.add_section()
        shown.add_row(
            m.task if n == 0 or measured[n - 1].task != m.task else "",
            *([m.variant.name] if names else []),
            *(f"{m.variant.place[axis]:g}" for axis in axes),
            "failed" if not m.results else f"{m.mean:.4f}",
            "" if math.isnan(m.deviation) else f"{m.deviation:.4f}",
            "" if m.parameters is None else count(m.parameters),
            *(["" if m.printed is None else f"{m.printed:.4f}"] if printed else []),
        )
    console.print(shown)
    metrics = ", ".join(dict.fromkeys(m.metric for m in measured))
    console.print(
        f"[dim]score: mean {metrics} over seeds on the protocol's reporting split; ± seed: standard deviation of one "
        "seed; adapter: trained parameters. The best of a grid is chosen on what is reported: "
        "to find settings for use, take `genft search`.[/]"
    )


def register(app: typer.Typer) -> None:
    app.command()(study)
