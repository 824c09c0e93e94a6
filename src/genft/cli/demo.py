"""``genft demo``: a method comparison small enough for two cores and five minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from genft import data
from genft.cli.declare import Options, option, takes_options
from genft.cli.options import AgainOptions, OutputOptions
from genft.cli.progress import RunBar
from genft.cli.screen import print_json, screen
from genft.methods import METHODS as REGISTERED
from genft.presets import load_preset
from genft.report.style import duration
from genft.report.terminal import LEGEND, comparison
from genft.runs.measured import Result
from genft.runs.quiet import be_quiet
from genft.runs.request import build_spec
from genft.runs.store import Store
from genft.sweeps.processes import run_in_process
from genft.training.prepared import PreparedRun, prepare

TASK, MODEL = "bbc-news", "minilm-l6"
METHODS = ("genft", "vectorfit", "lora", "bitfit", "linear")
#: Measured on two cores of an x86 server, including the import of the libraries.
SECONDS_PER_RUN = 52


class DemoOutputOptions(OutputOptions):
    out: Path = option("The folder for results and adapters.", Path("genft-demo"))


class DemoOptions(Options):
    panel = "Runs"
    seed: int = option("Seed for the head, the adapters and the order of examples; the data stay the same.", 0, ge=0)


@takes_options
def demo(options: DemoOptions, output: DemoOutputOptions, repeat: AgainOptions) -> None:
    """Compare several methods on BBC News in under five minutes.

    Fine-tunes MiniLM-L6 without network access. Every method gets the same 100 training documents and the same number
    of steps, and runs in its own process, so that peak memory is measured per method. The epoch is chosen on 100 other
    documents; the accuracy is measured on 1,000 more.

    Needs `pip install 'genft[demo]'`. Finished runs are reused: a second call only shows the table.
    """
    be_quiet()
    console = screen(output.as_json)
    store = Store(output.out).open()
    task, preset = data.load_task(TASK), load_preset("demo")
    methods = [REGISTERED[name] for name in METHODS if name in REGISTERED]
    runs = [
        prepare(build_spec(task, MODEL, preset, method=method, seed=options.seed).spec, method=method)
        for method in methods
    ]
    finished = {run.key: r for run in runs if not repeat.again and (r := run.stored(store)) is not None}
    left = [run for run in runs if run.key not in finished]
    _announce(console, runs, left)
    for run in left:
        with RunBar(console, f"{run.spec.method:<10}", task.metric) as bar:
            result = run_in_process(run.spec, output.out, bar.watch, again=repeat.again)
        finished[run.key] = result
        taken = duration(result.cost.seconds)
        console.print(f"  {run.spec.method:<10} accuracy {result.scores.value:.3f} in {taken}")
    results = [finished[run.key] for run in runs]
    _conclude(console, results, output.out)
    if output.as_json:
        print_json([r.model_dump(mode="json", exclude={"predictions", "targets"}) for r in results])


def _announce(console: Console, runs: Sequence[PreparedRun], left: Sequence[PreparedRun]) -> None:
    first = runs[0]
    task = first.data.task
    console.print(
        f"[bold]{task.title.partition(':')[0]} with MiniLM-L6[/]: {', '.join(run.spec.method for run in runs)}; "
        f"{len(first.roles.train)} training documents of {len(task.classes)} classes, "
        f"{first.steps} steps each, accuracy on {len(first.roles.report):,} test documents."
    )
    for run in runs:
        if run not in left:
            console.print(f"  {run.spec.method:<10} already finished, reused")
    if left:
        console.print(f"{len(left)} runs, about {duration(SECONDS_PER_RUN * len(left))} on two CPU cores.\n")


def _conclude(console: Console, results: Sequence[Result], out: Path) -> None:
    console.print()
    console.print(comparison(results))
    console.print(f"\n[dim]{LEGEND}[/]")
    console.print(
        "BBC News is nearly saturated: if two intervals overlap, this comparison does not tell the methods apart.\n"
    )
    best = max((r for r in results if r.method == "genft"), key=lambda r: r.scores.value)
    adapter = out / best.adapter
    console.print(f"GenFT adapter saved to {adapter}", soft_wrap=True, markup=False)
    console.print(
        f"Use it: genft predict {adapter} --input FILE; for Python, see its README.md", soft_wrap=True, markup=False
    )
