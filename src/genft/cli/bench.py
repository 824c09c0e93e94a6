"""``genft bench``: methods × tasks × seeds, planned, resumable, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from typer.core import TyperCommand

from genft.cli.options import (
    DataRoot,
    LimitEval,
    LimitSelect,
    LimitTrain,
    ProtocolName,
    ReportTo,
    TaskWords,
    run_alone,
    takes_training,
)
from genft.cli.screen import print_json, screen

if TYPE_CHECKING:
    from genft.data import Task, TaskData
    from genft.runs.store import Result
    from genft.sweeps.matrix import Schedule
    from genft.training.run import Plan

_MATRIX, _DATA, _MACHINES, _OUTPUT = "What is compared", "Data", "Machines", "Output"


class _BenchCommand(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for n, word in enumerate(args):
            if word == "--ray" and not _is_address(args[n + 1 : n + 2]):
                args = [*args[: n + 1], "local", *args[n + 1 :]]  # an option without its value, which typer has not
                break
        return super().parse_args(ctx, args)


def _is_address(words: list[str]) -> bool:
    return bool(words) and (words[0] in ("local", "auto") or ":" in words[0])


@takes_training
def bench(
    tasks: TaskWords,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A packaged model (genft list models), a folder, a Hub id, or a timm name.",
            rich_help_panel=_MATRIX,
        ),
    ],
    training: dict[str, Any],
    methods: Annotated[
        str,
        typer.Option(help="By commas; settings in brackets: vectorfit\\[avf=false].", rich_help_panel=_MATRIX),
    ] = "genft,vectorfit,lora,bitfit,linear",
    seeds: Annotated[str, typer.Option(help="Separated by commas.", rich_help_panel=_MATRIX)] = "0,1,2",
    preset: Annotated[
        str, typer.Option(help="Hyper-parameters by name, or your own .toml.", rich_help_panel=_MATRIX)
    ] = "default",
    learning_rates: Annotated[
        str | None,
        typer.Option(
            help="A grid: the rate is chosen per method and task on the selecting split of the first seed; "
            "where the best is at an edge, the grid is extended.",
            rich_help_panel=_MATRIX,
        ),
    ] = None,
    data: DataRoot = None,
    protocol: ProtocolName = None,
    limit_train: LimitTrain = None,
    limit_eval: LimitEval = None,
    limit_select: LimitSelect = None,
    out: Annotated[Path, typer.Option(help="Where results go.", rich_help_panel=_OUTPUT)] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time.", rich_help_panel=_MACHINES)] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Send the runs to a Ray cluster: local, which is this machine and the default, auto for the one that "
            "this machine belongs to, or HOST:PORT where it belongs to several.",
            rich_help_panel=_MACHINES,
        ),
    ] = None,
    ray_cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs of a run on it. \\[default: 1]", rich_help_panel=_MACHINES)
    ] = None,
    ray_gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs of a run on it. \\[default: 0]", rich_help_panel=_MACHINES)
    ] = None,
    report_to: ReportTo = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.", rich_help_panel=_OUTPUT)] = False,
    json: Annotated[
        bool, typer.Option("--json", help="The results as JSON on stdout.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Compare methods on tasks, over seeds.

    Prints a plan, runs what is not finished, each run in a process of its own, and shows the table. An interrupted
    bench goes on with the same command and repeats nothing; several may share one output folder.

        genft bench glue --methods genft,lora --seeds 0,1,2 --model minilm-l6 --data ~/data
    """
    from genft.errors import ConfigError
    from genft.presets import load_preset
    from genft.runs.store import Store
    from genft.sweeps.cluster import Cluster
    from genft.sweeps.matrix import Matrix, Schedule, parse_entries
    from genft.sweeps.processes import be_quiet
    from genft.training.trackers import check_trackers

    run_alone("bench")
    be_quiet()
    console = screen(json)
    trackers = check_trackers(report_to or ())
    if ray is not None and jobs > 1:
        raise ConfigError("--jobs: cannot be used with --ray; Ray starts as many runs as the cluster has room for")
    if ray is None and (ray_cpus or ray_gpus):
        raise ConfigError("--ray-cpus, --ray-gpus: say what a run asks for on a Ray cluster; add --ray")
    cluster = None if ray is None else Cluster(ray, ray_cpus or 1, ray_gpus or 0)
    store = Store(out) if dry_run else Store(out).open()
    entries = parse_entries(methods)
    said = {"protocol": protocol, "limit_train": limit_train, "limit_eval": limit_eval, "limit_select": limit_select}
    found = read_tasks(console, tasks, data)
    matrix = Matrix(
        tasks=tuple(task for task, _ in found),
        entries=entries,
        seeds=numbers("--seeds", seeds, int),
        model=model,
        preset=load_preset(preset),
        grid=() if learning_rates is None else tuple(sorted(numbers("--learning-rates", learning_rates, float))),
        training=training,
        said={k: v for k, v in said.items() if v is not None},
    )
    schedule = Schedule(matrix, store, {task.name: read for task, read in found})
    _announce(console, schedule)
    if dry_run:
        return
    with Bars(console, schedule) as bars:
        for plan, event in schedule.run(jobs, trackers, cluster):
            bars.show(plan, event)
    results = conclude(console, schedule)
    if json:
        print_json([r.model_dump(mode="json", exclude={"predictions", "targets"}) for r in results])
    if schedule.failures:
        raise typer.Exit(1)


def numbers(option: str, text: str, kind: type[Any]) -> tuple[Any, ...]:
    """``text``, a list of numbers separated by commas; ``option`` is for the message."""
    import math

    from genft.errors import ConfigError

    try:
        found = tuple(dict.fromkeys(kind(part) for part in text.split(",") if part.strip()))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)):
        example = "0,1,2" if kind is int else "1e-3,3e-3,1e-2"
        raise ConfigError(f"{option}: {text!r} is not a list of numbers such as {example}")
    if any(n < 0 for n in found) or (kind is float and 0.0 in found):
        raise ConfigError(f"{option}: {text!r} has a number that is too small")
    return found


def read_tasks(console: Console, words: list[str], root: Path | None) -> list[tuple[Task, TaskData]]:
    """The tasks that ``words`` name, with their data. Of a whole suite, tasks without data are left out and named."""
    from genft.data import find_tasks, read
    from genft.errors import ConfigError, DataError, GenFTError

    found: dict[str, tuple[Task, TaskData]] = {}
    missing = []
    with console.status("Reading the data"):
        for word in words:
            tasks = find_tasks(word, root)
            for task in tasks:
                if task.name in found and found[task.name][0] != task:
                    raise ConfigError(f"{word}: has another task that is called {task.name!r}")
                try:
                    found[task.name] = task, read(task)
                except GenFTError as e:
                    if len(tasks) == 1:
                        raise
                    missing.append((task.name, str(e).splitlines()[0]))
    if not found:
        raise DataError("none of the tasks has data: " + "; ".join(f"{name}: {why}" for name, why in missing[:1]))
    for name, why in missing:
        console.print(f"[yellow]left out[/] {escape(f'{name}: {why}')}", soft_wrap=True)
    return list(found.values())


def _announce(console: Console, schedule: Schedule) -> None:
    from genft.report.terminal import count, duration, table
    from genft.runs.protocols import get_protocol

    matrix = schedule.matrix
    shown = table("task", "metric", "train", "select", "report", "protocol", right=("train", "select", "report"))
    protocols = {}
    for plan in schedule.one_per_task():
        roles, protocol = plan.roles, get_protocol(plan.spec.protocol)
        protocols[protocol.name] = protocol.text
        sizes = (count(len(split)) for split in (roles.train, roles.select, roles.report))
        shown.add_row(f"[bold]{plan.data.task.name}[/]", plan.data.task.metric, *sizes, protocol.name)
    console.print(shown)
    for name, text in protocols.items():
        console.print(f"[dim]{name}: {text}[/]")
    limits = [f"{name.replace('_', ' ')} {n:,}" for name, n in matrix.said.items() if name.startswith("limit")]
    if limits:
        console.print(f"[yellow]limited data ({', '.join(limits)}): not comparable with full runs[/]")
    console.print(f"\nmodel     {matrix.model}", soft_wrap=True, markup=False)
    console.print(f"methods   {', '.join(entry.label for entry in matrix.entries)}", soft_wrap=True, markup=False)
    console.print(f"seeds     {', '.join(map(str, matrix.seeds))}")
    if matrix.grid:
        rates = ", ".join(f"{rate:g}" for rate in matrix.grid)
        console.print(f"rates     {rates}: chosen on the selecting split of seed {matrix.seeds[0]}")
    left = schedule.seconds_left()
    time = "time unknown before the first is done" if left is None else f"about {duration(left)} left"
    console.print(f"runs      {schedule.planned}, of which {len(schedule.outcomes)} are finished; {time}\n")


class Bars:
    """One bar for the whole, one for every run at work, and a line for every run that is finished."""

    def __init__(self, console: Console, schedule: Schedule) -> None:
        self.console, self.schedule = console, schedule
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.all: TaskID = self.progress.add_task("all runs", total=schedule.planned, note="")
        self.bars: dict[str, TaskID] = {}
        self._count()

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, plan: Plan, event: Any) -> None:
        from genft.errors import GenFTError
        from genft.runs.store import Result
        from genft.training.callbacks import Progress as Report

        name = escape(self.schedule.label(plan))
        bar = self.bars.get(plan.key)
        if bar is None:
            bar = self.bars[plan.key] = self.progress.add_task(f"{name}  loading", total=None, note="")
        if isinstance(event, (Result, GenFTError)):
            self.progress.remove_task(self.bars.pop(plan.key))
            self._line(plan, name, event)
            self._count()
        elif isinstance(event, Report):
            if event.phase == "train":
                self.progress.update(bar, completed=event.step, total=event.steps)
            self.progress.update(bar, description=f"{name}  {event.phase}")
            if event.epoch is not None:
                metric = plan.data.task.metric
                self.progress.update(bar, note=f"{metric} {event.epoch[metric]:.3f}")

    def _line(self, plan: Plan, name: str, outcome: Any) -> None:
        from genft.errors import GenFTError
        from genft.report.terminal import duration

        rate = f"  rate {plan.spec.training.learning_rate:g}" if self.schedule.matrix.grid else ""
        if isinstance(outcome, GenFTError):
            what = f"[red]failed[/]: {escape(str(outcome).splitlines()[0])}"
        else:
            what = f"{outcome.scores.metric} {outcome.scores.value:.4f} in {duration(outcome.cost.seconds)}"
        self.console.print(f"{len(self.schedule.outcomes):>4}  {name}{rate}  {what}", soft_wrap=True)

    def _count(self) -> None:
        from genft.report.terminal import duration

        left = self.schedule.seconds_left()
        note = "" if left is None else f"about {duration(left)} left"
        self.progress.update(self.all, completed=len(self.schedule.outcomes), total=self.schedule.planned, note=note)


def conclude(console: Console, schedule: Schedule) -> list[Result]:
    """Show the table, and what failed; returns the results that were compared."""
    from genft.runs.store import Result

    tell_failures(console, schedule)
    results = [r for _, plan in schedule.compared if isinstance(r := schedule.outcomes[plan.key], Result)]
    console.print(f"\nThe tables: genft report {schedule.store.out}", soft_wrap=True, markup=False)
    return results


def tell_failures(console: Console, schedule: Schedule) -> None:
    for plan, error in schedule.failures:
        name = escape(schedule.label(plan))
        console.print(f"[red]failed[/] {name}: {escape(str(error))} (the same command tries it again)", soft_wrap=True)


def register(app: typer.Typer) -> None:
    app.command(cls=_BenchCommand)(bench)
