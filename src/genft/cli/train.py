"""``genft train``: one method on one task, told as it goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from genft.cli.options import ReportTo, takes_a_run
from genft.cli.screen import RunBar, print_json, screen
from genft.runs.spec import Request

if TYPE_CHECKING:
    from genft.runs.store import Result
    from genft.training.callbacks import Inferred
    from genft.training.run import Plan


@takes_a_run
def train(
    request: Request,
    out: Annotated[Path, typer.Option(help="Where results and adapters go.", rich_help_panel="Output")] = Path("runs"),
    again: Annotated[
        bool, typer.Option("--again", help="Run even if this result exists.", rich_help_panel="Output")
    ] = False,
    report_to: ReportTo = None,
    json: Annotated[
        bool, typer.Option("--json", help="The result as JSON on stdout.", rich_help_panel="Output")
    ] = False,
) -> None:
    """Train one method on one task, and save the adapter.

    An interrupted run goes on where it stopped; a finished one is not repeated. On several GPUs:
    torchrun --nproc-per-node N -m genft train ...

        genft train bbc-news --model minilm-l6 --method genft

        genft train reviews.csv --text-column review --label-column stars --model minilm-l6
    """
    from genft.runs.store import Store
    from genft.sweeps.processes import be_quiet
    from genft.training import ranks
    from genft.training.run import prepare, run_once
    from genft.training.trackers import check_trackers

    be_quiet()
    console = screen(json) if ranks.is_first() else Console(quiet=True)
    trackers = check_trackers(report_to or ())
    store = Store(out)
    with ranks.first_goes_first():
        if ranks.is_first():
            store.open()
        plan = prepare(request.spec)
    result = ranks.share(None if again else store.get(plan.key))
    if result is not None:
        console.print("This run is finished already; its result is shown again (--again repeats it).\n")
    else:
        _announce(console, plan)
        with _Narrator(console, plan) as bar:
            result = run_once(plan, store, bar.watch, trackers, again=again)
    _conclude(console, result, store.out)
    if json and ranks.is_first():
        print_json(result.model_dump(mode="json", exclude={"predictions", "targets"}))


class _Narrator(RunBar):
    """The bar of one run, with a line for what was inferred and one per epoch above it."""

    def __init__(self, console: Console, plan: Plan) -> None:
        super().__init__(console, plan.spec.method, plan.data.task.metric)
        self.console = console

    def inferred(self, found: Inferred) -> None:
        for name, text in _inferred_lines(found):
            _line(self.console, name, text)
        self.console.print()

    def epoch(self, metrics: dict[str, float]) -> None:
        self.console.print(
            f"epoch {metrics['epoch']:>3.0f}   {self.metric} {metrics[self.metric]:.4f}   loss {metrics['loss']:.4f}"
        )


def _announce(console: Console, plan: Plan) -> None:
    from genft.runs.protocols import get_protocol

    data, training = plan.data, plan.spec.training
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    answer = "a number" if data.task.regression else f"{len(data.task.classes)} classes"
    _line(console, "task", f"{data.task.name}: {answer}; {sizes}")
    for note in data.notes:
        _line(console, "", note)
    _line(console, "protocol", f"{plan.spec.protocol}: {get_protocol(plan.spec.protocol).text}")
    _line(console, "model", f"{plan.spec.model}, {plan.source.origin}")
    head = training.head_learning_rate
    rates = f"learning rate {training.learning_rate:g}" + (f" (head {head:g})" if head else "")
    _line(
        console,
        "training",
        f"{training.epochs} epochs of {plan.steps // training.epochs} steps, batch {training.batch_size}, {rates}",
    )


def _inferred_lines(found: Inferred) -> list[tuple[str, str]]:
    targets = ", ".join(f"{name} ×{n}" for name, n in found.targets.items())
    share = 100 * (found.adapter_parameters + found.head_parameters) / found.total_parameters
    lines = [("adapts", targets)] if targets else []
    lines.append(
        (
            "trains",
            f"{found.adapter_parameters:,} parameters and {found.head_parameters:,} of the head "
            f"({', '.join(found.head)}): {share:.2g} % of the model",
        )
    )
    notes = [*found.notes, *(f"{k} = {v}, from the model and the steps" for k, v in found.settings.items())]
    return [*lines, *(("", note) for note in notes), ("device", found.device)]


def _line(console: Console, name: str, text: str) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 2))
    row.add_column(width=9, style="dim")
    row.add_column()
    row.add_row(name, Text(text))
    console.print(Padding(row, 0))


def _conclude(console: Console, result: Result, out: Path) -> None:
    from genft.report.terminal import LEGEND, comparison, size

    adapter = out / result.adapter
    low, high = result.scores.interval
    console.print()
    console.print(comparison([result]))
    console.print(f"\n[dim]{LEGEND}[/]\n")
    limited = " (limited data: not comparable with full runs)" if result.limited else ""
    console.print(
        f"{result.scores.metric} [bold]{result.scores.value:.4f}[/] (95 % interval {low:.4f} to {high:.4f}) on "
        f"{result.examples['report']:,} examples; epoch {result.history.best_epoch} of {len(result.history.epochs)} "
        f"selected by protocol {result.protocol}{limited}"
    )
    console.print(f"Adapter ({size(result.cost.adapter_bytes)}): {adapter}", soft_wrap=True, markup=False)
    console.print(f"Use it: genft predict {adapter} --input FILE", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    app.command()(train)
