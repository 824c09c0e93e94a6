"""``genft train``: train one method on one task, with progress."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from genft.cli.checks import DataCheckOptions, check_first
from genft.cli.declare import Options, option, takes_options
from genft.cli.device import DeviceOptions
from genft.cli.options import AgainOptions, OutputOptions, TrackerOptions
from genft.cli.progress import RunBar
from genft.cli.request import RunOptions, build_request
from genft.cli.screen import print_json, screen
from genft.hub import check_push, push_adapter
from genft.report.style import size
from genft.report.terminal import LEGEND, comparison
from genft.runs.measured import Result
from genft.runs.quiet import be_quiet
from genft.runs.store import Store
from genft.training import ranks
from genft.training.callbacks import Inferred
from genft.training.prepared import PreparedRun, prepare
from genft.training.run import run_once
from genft.training.trackers import check_trackers


class PushOptions(Options):
    panel = "Output"
    push_to_hub: str | None = option(
        "Upload the adapter with its card to this repository of the Hugging Face Hub, which is made private if it does "
        "not exist. genft_run.toml stays here, since it names your files.",
        None,
        metavar="OWNER/NAME",
    )
    public: bool = option("A new repository is public.", False)
    licence: str | None = option("The adapter's licence on its card, such as apache-2.0.", None, shown_default="none")


@takes_options
def train(
    run: RunOptions,
    checks: DataCheckOptions,
    output: OutputOptions,
    repeat: AgainOptions,
    trackers: TrackerOptions,
    device: DeviceOptions,
    push: PushOptions,
) -> None:
    """Train one method on one task, and save the adapter.

    An interrupted run resumes where it stopped; a finished one is not repeated. On several GPUs:
    torchrun --nproc-per-node N -m genft train ...

        genft train bbc-news --model minilm-l6 --method genft

        genft train reviews.csv --text-column review --label-column stars --model minilm-l6
    """
    be_quiet()
    device.use()
    if push.push_to_hub:
        check_push(push.push_to_hub)
    console = screen(output.as_json) if ranks.is_first() else Console(quiet=True)
    report_to = check_trackers(trackers.report_to)
    request = build_request(run)
    store = Store(output.out)
    with ranks.first_goes_first():
        if ranks.is_first():
            store.open()
        prepared = prepare(request.spec, method=request.method)
    result = ranks.share(None if repeat.again else prepared.stored(store))
    if result is not None:
        console.print("This run is already finished; here is its result (--again repeats the run).\n")
    else:
        _announce(console, prepared)
        if not checks.no_check:
            for note in check_first(console, prepared.data):
                _line(console, "", note)
        with _Narrator(console, prepared) as bar:
            result = run_once(prepared, store, bar.watch, report_to, again=repeat.again)
    _conclude(console, result, store.out)
    if push.push_to_hub and ranks.is_first():
        place = push_adapter(
            store.out / result.adapter, push.push_to_hub, private=not push.public, licence=push.licence
        )
        console.print(f"Pushed to {place} ({'public' if push.public else 'private, if it is new'})", soft_wrap=True)
    if output.as_json and ranks.is_first():
        print_json(result.model_dump(mode="json", exclude={"predictions", "targets"}))


class _Narrator(RunBar):
    """The bar of one run; above it, a line for everything that was inferred and one per epoch."""

    def __init__(self, console: Console, run: PreparedRun) -> None:
        super().__init__(console, run.spec.method, run.family.selects.name)
        self.console = console

    def inferred(self, inferred: Inferred) -> None:
        for name, text in _inferred_lines(inferred):
            _line(self.console, name, text)
        self.console.print()

    def epoch(self, metrics: dict[str, float]) -> None:
        self.console.print(
            f"epoch {metrics['epoch']:>3.0f}   {self.metric} {metrics[self.metric]:.4f}   loss {metrics['loss']:.4f}"
        )


def _announce(console: Console, run: PreparedRun) -> None:
    for name, text in _announced_lines(run):
        _line(console, name, text)


def _announced_lines(run: PreparedRun) -> Iterator[tuple[str, str]]:
    task, training = run.data.task, run.spec.training
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in run.data.splits.items())
    yield "task", f"{task.name}: {run.family.answers}; {sizes}"
    yield from (("", note) for note in run.data.notes)
    yield "protocol", f"{run.protocol.name}: {run.protocol.text}"
    yield from (("", note) for note in run.roles.notes)
    yield "model", f"{run.spec.model}, {run.source.origin}"
    head = training.head_learning_rate
    rates = f"learning rate {training.learning_rate:g}" + (f" (head {head:g})" if head else "")
    steps = "" if run.family.splits_inputs else f" of {run.steps // training.epochs} steps"
    yield "training", f"{training.epochs} epochs{steps}, batch {training.batch_size}, {rates}"


def _inferred_lines(inferred: Inferred) -> Iterator[tuple[str, str]]:
    if inferred.targets:
        yield "adapts", ", ".join(f"{name} ×{n}" for name, n in inferred.targets.items())
    share = 100 * (inferred.counts.adapter + inferred.counts.head) / inferred.counts.total
    head = f" and {inferred.counts.head:,} of the head ({', '.join(inferred.head)})" if inferred.head else ""
    yield "trains", f"{inferred.counts.adapter:,} parameters{head}: {share:.2g} % of the model"
    yield from (("", note) for note in inferred.notes)
    yield from (("", f"{name} = {value}, from the model and the steps") for name, value in inferred.settings.items())
    yield "device", inferred.device


def _line(console: Console, name: str, text: str) -> None:
    row = Table.grid(padding=(0, 2))
    row.add_column(width=9, style="dim")
    row.add_column()
    row.add_row(name, Text(text))
    console.print(Padding(row, 0))


def _conclude(console: Console, result: Result, out: Path) -> None:
    adapter, scores, history = out / result.adapter, result.scores, result.history
    low, high = scores.interval
    console.print()
    console.print(comparison([result]))
    console.print(f"\n[dim]{LEGEND}[/]\n")
    limited = " (limited data: not comparable with full runs)" if result.limited else ""
    console.print(
        f"{scores.metric} [bold]{scores.value:.4f}[/] (95 % interval {low:.4f} to {high:.4f}) on "
        f"{result.examples['report']:,} examples; epoch {history.best_epoch} of {len(history.epochs)} "
        f"selected by protocol {result.protocol}{limited}"
    )
    if not adapter.is_dir():
        deleted = f"The adapter was deleted: {adapter} does not exist. --again repeats the run."
        console.print(deleted, soft_wrap=True, markup=False)
        return
    console.print(f"Adapter ({size(result.cost.adapter_bytes)}) saved to {adapter}", soft_wrap=True, markup=False)
    console.print(f"Use it: genft predict {adapter} --input FILE", soft_wrap=True, markup=False)
