"""``genft explain``: every value of a run and where it comes from, without running it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

from genft.api.settings import plain
from genft.cli.declare import Options, option, takes_options
from genft.cli.options import JsonOptions
from genft.cli.request import Origins, RunOptions, build_request, is_file
from genft.cli.screen import print_json, screen
from genft.errors import ConfigError
from genft.files import check_writable, write_atomically
from genft.report.style import table
from genft.runs.options import run_file
from genft.runs.quiet import be_quiet
from genft.runs.request import USER, Request, Sourced
from genft.training.callbacks import Inferred
from genft.training.prepared import PreparedRun, prepare
from genft.training.session import Session

_Values = dict[str, tuple[Any, str]]


class WriteOptions(Options):
    panel = "Output"
    write: Path | None = option(
        "Also write the run as a file for --config of `genft train`, with the origin of every value.",
        None,
        metavar="FILE.toml",
    )


@takes_options
def explain(run: RunOptions, written: WriteOptions, output: JsonOptions) -> None:
    """Show every value of a run and its origin, without training.

    Takes the options of `genft train`, loads the model and attaches the method to it.

        genft explain reviews.csv --text-column review --label-column stars -m minilm-l6
    """
    be_quiet()
    if written.write:
        check_writable(written.write)
    request = build_request(run)
    prepared = prepare(request.spec, method=request.method)
    sections = {
        "Run": _run(run, request, prepared),
        f"Settings of {request.spec.method}": _jsonable(request.settings),
        "Training": _jsonable(request.training),
        "Inferred": _inferred(Session(prepared).inferred),
    }
    if written.write:
        _write(written.write, request)
    if output.as_json:
        print_json(
            {
                section: {name: {"value": value, "from": origin} for name, (value, origin) in values.items()}
                for section, values in sections.items()
            }
        )
        return
    console = screen()
    for section, values in sections.items():
        shown = table(section, "value", "from")
        for name, (value, origin) in values.items():
            shown.add_row(name, _shown(value), origin if origin == "default" else f"[bold]{escape(origin)}[/]")
        console.print(shown)
        console.print()
    if written.write:
        console.print(f"Train it: genft train --config {written.write}", soft_wrap=True, markup=False)


def _write(path: Path, request: Request) -> None:
    sources = {
        name: source
        for values in (request.run, request.settings, request.training)
        for name, (_, source) in values.items()
        if source not in (USER, "default")
    }
    content = run_file(request.spec, request.method, sources)
    if content is None:
        raise ConfigError("--write: a task of your own .toml file cannot be written as options")
    write_atomically(path, content.encode("utf-8"))


def _run(run: RunOptions, request: Request, prepared: PreparedRun) -> _Values:
    task = prepared.data.task
    return {
        "task": (task.name, Origins.of(run).of_value("task", run.task.task)),
        **_task(run, request, prepared),
        **{f"{name} examples": (len(split), "counted") for name, split in prepared.data.splits.items()},
        **_jsonable({name: value for name, value in request.run.items() if value.value is not None}),
        "model files": (prepared.source.origin, "found"),
        "key of the result": (prepared.key, "hash of the run's values"),
    }


def _task(run: RunOptions, request: Request, prepared: PreparedRun) -> _Values:
    """The task's values: its own, those that the user set, and those inferred from the data."""
    task, options, origins = prepared.data.task, run.task, Origins.of(run)

    def given(name: str, otherwise: str) -> str:
        value = getattr(options, name)
        return origins.of_value(name, value) if value else otherwise

    usual = "default" if is_file(options.task) else f"task {task.name}"

    def of_column(name: str, default: bool) -> str:
        found = "the only column with a usual name" if usual == "default" and not default else usual
        return given(name, given("columns", found))

    texts = {
        "text columns": (list(task.text_columns), of_column("text_column", task.text_columns == ("text",))),
        "label column": (task.label_column, of_column("label_column", task.label_column == "label")),
        "longest text": (task.max_length, given("max_length", usual)),
    }
    metric = "default for what is predicted" if usual == "default" else usual
    known = request.spec.task.classes or not task.classes
    return {
        "family": (task.family, usual),
        "predicts": (prepared.family.answers, usual if known else "inferred from the training data"),
        "classes": (list(task.classes), usual if known else "inferred from the training data"),
        **(texts if task.kind == "text" else {}),
        "metric": (task.metric, given("metric", metric)),
        **({} if prepared.family.selects.name == task.metric else {"selects": (prepared.family.selects.name, usual)}),
    }


def _inferred(inferred: Inferred) -> _Values:
    preprocessing = {
        name: (value, "model and task")
        for name, value in inferred.preprocessing.model_dump(mode="json").items()
        if value is not None and (name in ("kind", "max_length") or inferred.preprocessing.kind == "image")
    }
    return {
        "adapted modules": ([f"{name} ×{n}" for name, n in inferred.targets.items()], "found in the model"),
        **{name: (value, "the model and the steps") for name, value in inferred.settings.items()},
        "trained in full": (list(inferred.head), "the head, and what the checkpoint lacks"),
        "adapter parameters": (inferred.counts.adapter, "counted"),
        "head parameters": (inferred.counts.head, "counted"),
        **{f"note {number}": (note, "the model") for number, note in enumerate(inferred.notes, 1)},
        "device": (inferred.device, "this machine"),
        **preprocessing,
    }


def _jsonable(values: Mapping[str, Sourced]) -> _Values:
    return {name: (plain(sourced.value), sourced.source) for name, sourced in values.items()}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return escape(", ".join(f"{k} ×{v}" if isinstance(v, int) else f"{k}: {v}" for k, v in value.items())) or "-"
    if isinstance(value, list):
        return escape(", ".join(map(str, value))) or "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(str(value))
