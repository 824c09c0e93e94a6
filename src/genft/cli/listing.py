"""``genft list``: what there is."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from genft.cli.screen import print_json, screen


class What(str, Enum):
    methods = "methods"
    tasks = "tasks"
    models = "models"


def list_(
    what: Annotated[What, typer.Argument(help="What to list.")],
    name: Annotated[str | None, typer.Argument(help="After 'methods': the settings of this one, for --set.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """List the methods, the tasks or the packaged models; `genft list methods NAME` lists a method's settings."""
    if what is What.methods and name:
        _settings(name, json)
    else:
        {What.methods: _methods, What.tasks: _tasks, What.models: _models}[what](json)


def _methods(json: bool) -> None:
    from genft.methods import METHODS
    from genft.results.tables import table

    if json:
        print_json([{k: getattr(m, k) for k in ("name", "family", "paper", "trains")} for m in METHODS.values()])
        return
    shown = table("method", "family", "trains", "paper")
    for info in METHODS.values():
        shown.add_row(f"[bold]{info.name}[/]", info.family, info.trains, info.paper)
    screen(False).print(shown)
    screen(False).print("[dim]weight, block: ours, as peft tuners; peft: peft's own; baseline: no adapter[/]")


def _settings(name: str, json: bool) -> None:
    import dataclasses

    from genft.methods import get_method
    from genft.results.tables import table
    from genft.training.spec import default_settings, plain, setting_types, type_name

    info = get_method(name)
    defaults, types = {**default_settings(info), **info.defaults}, setting_types(info)
    help_of = {f.name: f.metadata.get("help", "") for f in dataclasses.fields(info.config)} if info.config else {}
    rows = {key: (type_name(types[key]), plain(defaults.get(key)), help_of[key]) for key in types}
    if json:
        print_json({k: {"type": t, "default": d, "help": h} for k, (t, d, h) in rows.items()})
        return
    if not rows:
        screen(False).print(f"{name} has no settings: it trains {info.trains}")
        return
    shown = table("setting", "default", "meaning")
    for key, (_, default, help_text) in rows.items():
        shown.add_row(f"[bold]{key}[/]", str(default), _plain(help_text))
    screen(False).print(shown)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


def _tasks(json: bool) -> None:
    from genft.data import list_tasks
    from genft.results.tables import table

    tasks = list_tasks()
    if json:
        print_json([task.model_dump(mode="json") for task in tasks])
        return
    shown = table("task", "", "classes", "metric", "licence", right=("classes",))
    for task in tasks:
        shown.add_row(f"[bold]{task.name}[/]", task.title, str(len(task.classes)), task.metric, task.licence)
    console = screen(False)
    console.print(shown)
    console.print(
        "Your own data: a .csv, .tsv, .jsonl or .json file with a row per example (--text-column, --label-column), "
        "or a folder with one folder of images per class."
    )


def _models(json: bool) -> None:
    from genft.models import PACKAGED
    from genft.results.tables import table

    if json:
        print_json(
            [
                {"name": m.name, "title": m.title, "hub": m.hub, "installed": m.find() is not None}
                for m in PACKAGED.values()
            ]
        )
        return
    shown = table("packaged model", "", "installed")
    for model in PACKAGED.values():
        shown.add_row(f"[bold]{model.name}[/]", model.title, "yes" if model.find() else model.install)
    console = screen(False)
    console.print(shown)
    console.print("Any other model, as --model:")
    console.print("  OWNER/NAME           on the Hugging Face Hub: text or image, a transformers model")
    console.print("  timm/NAME or NAME    a timm model, from the Hub")
    console.print("  path/to/folder       config.json and safetensors weights on this machine")


def register(app: typer.Typer) -> None:
    app.command("list")(list_)
