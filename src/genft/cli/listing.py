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


_ORDER = ("weight", "block", "peft", "baseline")


def _methods(json: bool) -> None:
    from rich.padding import Padding

    from genft.counts import listed_counts
    from genft.methods import METHODS

    infos = sorted(METHODS.values(), key=lambda info: _ORDER.index(info.family))
    counts = listed_counts()
    if json:
        keys = ("name", "family", "origin", "mergeable", "kinds", "trains", "paper")
        print_json([{k: getattr(m, k) for k in keys} | {"parameters": counts.get(m.name, {})} for m in infos])
        return
    models = list(next(iter(counts.values())))
    console = screen(False)
    console.print(_columns("method", "family", "from", "merges", models), style="bold")
    for info in infos:
        numbers = [_millions(counts.get(info.name, {}).get(model)) for model in models]
        merges = "yes" if info.mergeable else "-"
        console.print(_columns(f"[bold]{info.name}[/]", info.family, info.origin, merges, numbers), highlight=False)
        about = info.trains if info.paper == "-" else f"{info.trains} ({info.paper})"
        console.print(Padding(about, (0, 0, 0, 2)), style="dim")
    console.print(
        "\nweight, block: genft's own, as peft tuners; peft: peft's; baseline: no adapter. merges: folds into the "
        "base weights. Numbers: millions of trained parameters with the default settings, without the head.\n"
        "Any other method of peft: peft:NAME, for example peft:RANDLORA"
    )


def _columns(name: str, family: str, origin: str, merges: str, numbers: list[str]) -> str:
    bold = len("[bold][/]") if name.startswith("[bold]") else 0
    return f"{name:<{17 + bold}}{family:<10}{origin:<14}{merges:<8}" + "".join(f"{n:>14}" for n in numbers)


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.3f}" if count < 10e6 else f"{count / 1e6:.1f}"


def _settings(name: str, json: bool) -> None:
    from genft.api.settings import describe_settings
    from genft.methods import get_method
    from genft.report.terminal import table

    info = get_method(name)
    rows = describe_settings(info)
    if json:
        print_json({key: row._asdict() for key, row in rows.items()})
        return
    if not rows:
        screen(False).print(f"{name} has no settings: it trains {info.trains}")
        return
    shown = table("setting", "default", "meaning")
    for key, row in rows.items():
        allowed = f" ({row.allowed})" if row.allowed else ""
        shown.add_row(f"[bold]{key}[/]", str(row.default), _plain(row.help + allowed))
    screen(False).print(shown)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


def _tasks(json: bool) -> None:
    from genft.data import list_tasks
    from genft.report.terminal import table

    tasks = list_tasks()
    if json:
        print_json([task.model_dump(mode="json") for task in tasks])
        return
    shown = table("task", "", "classes", "metric", "licence", right=("classes",))
    for task in tasks:
        shown.add_row(
            f"[bold]{task.name}[/]",
            task.title,
            str(len(task.classes) or task.class_count or "–"),
            task.metric,
            task.licence,
        )
    console = screen(False)
    console.print(shown)
    console.print(
        "Your own data: a .csv, .tsv, .jsonl or .json file with a row per example (--text-column, --label-column), "
        "or a folder with one folder of images per class."
    )


def _models(json: bool) -> None:
    from genft.models.source import PACKAGED
    from genft.report.terminal import table

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
