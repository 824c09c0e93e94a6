"""``genft list tasks``."""

from __future__ import annotations

from genft.cli.screen import print_json, screen
from genft.data import list_tasks
from genft.report.style import table


def show(as_json: bool) -> None:
    tasks = list_tasks()
    if as_json:
        print_json([task.model_dump(mode="json") for task in tasks])
        return
    shown = table("task", "", "classes", "metric", "licence", right=("classes",))
    for task in tasks:
        classes = len(task.classes) or task.class_count
        shown.add_row(f"[bold]{task.name}[/]", task.title, str(classes or "–"), task.metric, task.licence)
    console = screen()
    console.print(shown)
    console.print(
        "\nYour own data: a .csv, .tsv, .jsonl or .json file with a row per example (--text-column, --label-column), "
        "or a folder with one folder of images per class."
    )
