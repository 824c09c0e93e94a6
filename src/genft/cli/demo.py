"""``genft demo``: the main job, small enough for two cores and five minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genft.cli.screen import RunBar, print_json, screen

TASK, MODEL = "bbc-news", "minilm-l6"
METHODS = ("genft", "vectorfit", "lora", "bitfit", "linear")
#: Measured on two cores of an x86 server, library start included.
SECONDS_PER_RUN = 52


def demo(
    out: Annotated[Path, typer.Option(help="Where results and adapters go.")] = Path("genft-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of head, factors and order; the data stay the same.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Run even what is finished.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The results as JSON on stdout.")] = False,
) -> None:
    """Fine-tune MiniLM-L6 on BBC News with several methods, and compare them. No network, under five minutes.

    Every method gets the same 100 training documents, the same number of steps, and a process of its own, so that
    its peak memory is its own. The epoch is chosen on 100 other documents; the accuracy is of 1,000 more.

    Needs `pip install 'genft[demo]'`. Finished runs are reused: a second call only shows the table.
    """
    from genft.data import load_task
    from genft.methods import METHODS as REGISTERED
    from genft.presets import load_preset
    from genft.report.terminal import LEGEND, comparison, duration
    from genft.runs.spec import build_spec
    from genft.runs.store import Store
    from genft.sweeps.processes import be_quiet, run_in_process
    from genft.training.run import prepare

    be_quiet()
    console = screen(json)
    store = Store(out).open()
    task, preset = load_task(TASK), load_preset("demo")
    plans = [
        prepare(build_spec(task, MODEL, preset, method=method, seed=seed).spec)
        for method in METHODS
        if method in REGISTERED
    ]
    finished = {p.key: r for p in plans if not again and (r := store.get(p.key)) is not None}
    left = [p for p in plans if p.key not in finished]
    first = plans[0]
    console.print(
        f"[bold]{task.title.partition(':')[0]} with MiniLM-L6[/]: {', '.join(p.spec.method for p in plans)}; "
        f"{len(first.roles.train)} training documents of {len(first.data.task.classes)} classes, "
        f"{first.steps} steps each, accuracy on {len(first.roles.report):,} test documents."
    )
    for plan in plans:
        if plan.key in finished:
            console.print(f"  {plan.spec.method:<10} finished before, reused")
    if left:
        console.print(f"{len(left)} runs, about {duration(SECONDS_PER_RUN * len(left))} on two CPU cores.\n")
    for plan in left:
        with RunBar(console, f"{plan.spec.method:<10}", task.metric) as bar:
            result = run_in_process(plan.spec, out, bar.watch, again=again)
        finished[plan.key] = result
        console.print(f"  {plan.spec.method:<10} accuracy {result.scores.value:.3f} in {duration(result.cost.seconds)}")
    results = [finished[p.key] for p in plans]
    console.print()
    console.print(comparison(results))
    console.print(f"\n[dim]{LEGEND}[/]")
    console.print("BBC News is nearly saturated: where intervals overlap, this does not tell the methods apart.\n")
    best = max((r for r in results if r.method == "genft"), key=lambda r: r.scores.value)
    console.print(f"The genft adapter lies in {out / best.adapter}", soft_wrap=True)
    console.print(
        f"Use it: genft predict {out / best.adapter} --input FILE; in Python: see its README.md",
        soft_wrap=True,
    )
    if json:
        print_json([r.model_dump(mode="json", exclude={"predictions", "targets"}) for r in results])


def register(app: typer.Typer) -> None:
    app.command()(demo)
