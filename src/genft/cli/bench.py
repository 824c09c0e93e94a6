"""``genft bench``: compare methods × tasks × seeds, with a plan up front and resumable runs."""

from __future__ import annotations

import typer
from rich.console import Console

from genft.cli.checks import DataCheckOptions, check_tasks_first
from genft.cli.declare import Given, Options, option, takes_options
from genft.cli.device import DeviceOptions
from genft.cli.options import (
    ConfigOptions,
    ModelOptions,
    OutputOptions,
    RoleOptions,
    SweepOptions,
    TasksOptions,
    TrackerOptions,
)
from genft.cli.progress import SweepBars, print_failures
from genft.cli.request import numbers, read_tasks, run_alone
from genft.cli.screen import print_json, screen
from genft.data import find_tasks
from genft.errors import ConfigError
from genft.presets import load_preset
from genft.report.collect import read_report
from genft.report.formats import as_rich
from genft.report.style import count, duration, table
from genft.runs.measured import Result
from genft.runs.quiet import be_quiet
from genft.runs.settings import Training
from genft.runs.store import Store
from genft.sweeps.cluster import Cluster
from genft.sweeps.matrix import Matrix, parse_entries, spell_out
from genft.sweeps.schedule import Schedule
from genft.training.trackers import check_trackers


class ComparedOptions(Options):
    panel = "Model and method"
    methods: str = option(
        "Methods, separated by commas; settings go in brackets: vectorfit[avf=false]. 'paper' stands for every method "
        "of the paper's table on vtab1k, fgvc or glue.",
        "genft,vectorfit,lora,bitfit,linear",
    )
    learning_rates: str | None = option(
        "A grid of learning rates. Each method's rate on each task is chosen on the selection split of the first seed; "
        "if the best rate is at an edge, the grid is extended.",
        None,
    )


class RayOptions(Options):
    panel = "Runs"
    ray: str | None = option(
        "Send the runs to a Ray cluster: local (this machine, the default), auto (the cluster that this machine "
        "belongs to), or HOST:PORT.",
        None,
        metavar="[ADDRESS]",
    )
    ray_cpus: int | None = option("CPUs per run on the cluster.", None, shown_default="1", ge=1)
    ray_gpus: float | None = option("GPUs per run on the cluster.", None, shown_default="0", ge=0)

    def cluster(self, jobs: int) -> Cluster | None:
        """The cluster that the options describe, or None to run on this machine without Ray."""
        if self.ray is None:
            if self.ray_cpus or self.ray_gpus:
                raise ConfigError("--ray-cpus, --ray-gpus: request resources on a Ray cluster; add --ray")
            return None
        if jobs > 1:
            raise ConfigError("--jobs: cannot be used with --ray; Ray starts as many runs as the cluster has room for")
        return Cluster(self.ray, self.ray_cpus or 1, self.ray_gpus or 0)


@takes_options
def bench(
    tasks: TasksOptions,
    model: ModelOptions,
    compared: ComparedOptions,
    roles: RoleOptions,
    checks: DataCheckOptions,
    training: Given[Training],
    sweep: SweepOptions,
    ray: RayOptions,
    output: OutputOptions,
    trackers: TrackerOptions,
    device: DeviceOptions,
    config: ConfigOptions,
) -> None:
    """Compare methods on tasks, over seeds.

    Shows a plan, executes every unfinished run in its own process, and shows the tables. If it is interrupted, run the
    same command again to resume: nothing is repeated. Several benches may share one output folder.

        genft bench glue --methods genft,lora --seeds 0,1,2 --model minilm-l6 --data ~/data
    """
    run_alone("bench")
    be_quiet()
    device.use()
    console = screen(output.as_json)
    report_to = check_trackers(trackers.report_to)
    cluster = ray.cluster(sweep.jobs)
    store = Store(output.out) if sweep.dry_run else Store(output.out).open()
    suites = {task.suite for word in tasks.tasks for task in find_tasks(word, tasks.data)}
    methods, absent = spell_out(compared.methods, suites)
    entries = parse_entries(methods)
    seeds = numbers("--seeds", sweep.seeds, int)
    rates = sorted(numbers("--learning-rates", compared.learning_rates, float)) if compared.learning_rates else ()
    data = read_tasks(console, tasks.tasks, tasks.data, roles)
    matrix = Matrix(
        tasks=tuple(task for task, _ in data),
        entries=entries,
        seeds=seeds,
        model=model.model,
        preset=load_preset(model.preset or "default"),
        grid=tuple(rates),
        training=training.values,
        run=roles.given,
    )
    if absent:
        console.print(f"[yellow]left out[/] {', '.join(absent)}: in the paper's table, but not in genft")
    schedule = Schedule(matrix, store, {task.name: task_data for task, task_data in data})
    _announce(console, schedule)
    if sweep.dry_run:
        return
    if not checks.no_check:
        check_tasks_first(console, schedule.waiting)
    with SweepBars(console, schedule) as bars:
        for run, event in schedule.run(sweep.jobs, report_to, cluster):
            bars.show(run, event)
    results = _conclude(console, schedule)
    if output.as_json:
        print_json([r.model_dump(mode="json", exclude={"predictions", "targets"}) for r in results])
    if schedule.failures:
        raise typer.Exit(1)


def _announce(console: Console, schedule: Schedule) -> None:
    matrix = schedule.matrix
    shown = table("task", "metric", "train", "select", "report", "protocol", right=("train", "select", "report"))
    protocols = {}
    for run in schedule.one_per_task():
        roles, protocol = run.roles, run.protocol
        protocols[protocol.name] = protocol.text
        sizes = (count(len(split)) for split in (roles.train, roles.select, roles.report))
        shown.add_row(f"[bold]{run.data.task.name}[/]", run.data.task.metric, *sizes, protocol.name)
    console.print(shown)
    for name, text in protocols.items():
        console.print(f"[dim]{name}: {text}[/]")
    limits = [f"{name.replace('_', ' ')} {n:,}" for name, n in matrix.run.items() if name.startswith("limit")]
    if limits:
        console.print(f"[yellow]limited data ({', '.join(limits)}): not comparable with full runs[/]")
    console.print(f"\nmodel     {matrix.model}", soft_wrap=True, markup=False)
    console.print(f"methods   {', '.join(entry.label for entry in matrix.entries)}", soft_wrap=True, markup=False)
    console.print(f"seeds     {', '.join(map(str, matrix.seeds))}")
    if matrix.grid:
        rates = ", ".join(f"{rate:g}" for rate in matrix.grid)
        console.print(f"rates     {rates}: chosen on the selection split of seed {matrix.seeds[0]}")
    seconds = schedule.seconds_left()
    time = "time unknown until the first run is done" if seconds is None else f"about {duration(seconds)} left"
    console.print(f"runs      {schedule.planned}, {len(schedule.outcomes)} finished; {time}\n")


def _conclude(console: Console, schedule: Schedule) -> list[Result]:
    """Show the failures and the tables of this bench; return the results that were compared."""
    print_failures(console, schedule)
    results = [r for _, run in schedule.compared if isinstance(r := schedule.outcomes[run.key], Result)]
    if results:
        console.print()
        console.print(as_rich(read_report(schedule.store, only=schedule.matrix.name)))
    console.print(f"To show the tables again: genft report {schedule.store.out}", soft_wrap=True, markup=False)
    return results
