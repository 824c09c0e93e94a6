"""``genft explain``: what a run would be, value by value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genft.api.settings import plain
from genft.cli.options import takes_a_run
from genft.cli.screen import print_json, screen
from genft.runs.request import Request, Sourced

if TYPE_CHECKING:
    from genft.training.callbacks import Inferred
    from genft.training.prepared import PreparedRun


@takes_a_run
def explain(
    request: Request,
    json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.", rich_help_panel="Output")] = False,
) -> None:
    """Show every value of the run that `genft train` would do, and where each came from. Trains nothing."""
    from genft.report.terminal import table
    from genft.sweeps.processes import be_quiet
    from genft.training.prepared import prepare
    from genft.training.session import Session

    be_quiet()
    plan = prepare(request.spec)
    found = Session(plan).inferred
    sections = _sections(request, plan, found)
    if json:
        print_json(
            {
                section: {name: {"value": value, "from": source} for name, (value, source) in values.items()}
                for section, values in sections.items()
            }
        )
        return
    console = screen(False)
    for section, values in sections.items():
        shown = table(section, "value", "from")
        for name, (value, source) in values.items():
            shown.add_row(name, _shown(value), source if source == "default" else f"[bold]{source}[/]")
        console.print(shown)


def _sections(request: Request, plan: PreparedRun, found: Inferred) -> dict[str, dict[str, tuple[Any, str]]]:
    task, spec = plan.data.task, plan.spec
    own = task.reader in ("files", "image-folder")
    of_task = "command line" if own else f"task {task.name}"
    run: dict[str, tuple[Any, str]] = {
        "task": (task.name, "command line"),
        "classes": (list(task.classes), of_task if spec.task.classes else "inferred from the training data"),
        **{f"{name} examples": (len(split), "counted") for name, split in plan.data.splits.items()},
        "metric": (task.metric, of_task),
        **_jsonable({k: v for k, v in request.run.items() if v.value is not None}),
        "model files": (plan.source.origin, "found"),
        "key of the result": (plan.key, "hash of all of this"),
    }
    preprocessing = {
        name: (value, "model and task")
        for name, value in found.preprocessing.model_dump(mode="json").items()
        if value is not None and (name in ("kind", "max_length") or found.preprocessing.kind == "image")
    }
    inferred: dict[str, tuple[Any, str]] = {
        "adapted modules": ([f"{name} ×{n}" for name, n in found.targets.items()], "found in the model"),
        **{name: (value, "the model and the steps") for name, value in found.settings.items()},
        "trained in full": (list(found.head), "head, and what the checkpoint lacks"),
        "adapter parameters": (found.counts.adapter, "counted"),
        "head parameters": (found.counts.head, "counted"),
        "device": (found.device, "this machine"),
        **preprocessing,
    }
    return {
        "Run": run,
        f"Settings of {spec.method}": _jsonable(request.settings),
        "Training": _jsonable(request.training),
        "Inferred": inferred,
    }


def _jsonable(values: Mapping[str, Sourced]) -> dict[str, tuple[Any, str]]:
    return {name: (plain(found.value), found.source) for name, found in values.items()}


def _shown(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, dict):
        return escape(", ".join(f"{k} ×{v}" if isinstance(v, int) else f"{k}: {v}" for k, v in value.items())) or "-"
    if isinstance(value, list):
        return escape(", ".join(map(str, value))) or "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(str(value))


def register(app: typer.Typer) -> None:
    app.command()(explain)
