"""``genft evaluate``: score a saved adapter on labelled rows."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from genft.adapters.evaluation import Forgetting, OfClass, by_class, confusion, forgetting, without_adapter
from genft.adapters.evaluation import evaluate as score
from genft.adapters.saved import Trained, load
from genft.adapters.task_file import SavedTask, read_task
from genft.cli.declare import option, takes_options
from genft.cli.device import DeviceOptions
from genft.cli.options import DataRootOptions, JsonOptions, ReadingOptions, SavedOptions
from genft.cli.predict import write_rows
from genft.cli.request import existing_folder, is_file
from genft.cli.screen import print_json, screen
from genft.data import READERS, Split, Task, load_task, read
from genft.data.task import refuse
from genft.errors import ConfigError
from genft.families.family import Family, Judged
from genft.families.own_data import own_task
from genft.report.style import table
from genft.runs.protocols import assign_roles, get_protocol
from genft.runs.quiet import be_quiet
from genft.runs.settings import Training

_MOST_CLASSES = 12  # in a confusion matrix on a terminal


class EvaluationOptions(DataRootOptions, ReadingOptions):
    input: str = option(
        "Labelled rows as in training (a file, or a folder of images), or a task of `genft list tasks`, of which the "
        "reporting split is scored.",
        names=("--input", "-i"),
        metavar="FILE|TASK",
    )
    label_column: str | None = option("The column with the label.", None, shown_default="as in training")
    metric: str | None = option("The metric to report first.", None, shown_default="as in training")
    limit_eval: int | None = option("Evaluate on only this many examples.", None, ge=2)
    eval_batch_size: int = option("Examples per forward pass in evaluation.", 64, ge=1)
    bare: bool = option("Score the base model without the adapter, if the task needs no new head.", False)
    forgetting: Path | None = option(
        "Texts that have nothing to do with the task (a column `text`): shows by how much the adapter raises the loss "
        "on them. Only for models that need no new head.",
        None,
        metavar="FILE",
    )
    show_errors: int = option("Show this many of the worst predictions.", 0, ge=0)
    output: Path | None = option(
        "The .csv file to write every example with its label and its prediction to.",
        None,
        names=("--output", "-o"),
        metavar="FILE",
    )


@takes_options
def evaluate(adapter: SavedOptions, options: EvaluationOptions, device: DeviceOptions, output: JsonOptions) -> None:
    """Score a saved adapter on labelled rows.

    Shows every metric of the task, the 95 % interval of the first, and how well each class is recognised.

        genft evaluate runs/adapters/NAME --input labelled.csv --show-errors 10
    """
    be_quiet()
    device.use()
    saved = read_task(existing_folder(adapter.adapter))
    console = screen(output.as_json)
    task, split, notes = _examples(options, saved)
    for note in notes:
        console.print(f"[yellow]![/] {escape(note)}", soft_wrap=True)
    trained = load(adapter.adapter, adapter.base)
    family = trained.family.on(task)
    training = Training(eval_batch_size=options.eval_batch_size)
    family.check(training)
    with without_adapter(trained, family, "--bare") if options.bare else contextlib.nullcontext():
        judged = score(trained, family, split, training)
        rows = _rows(trained, family, split) if options.show_errors or options.output else []
    forgotten = _forgetting(options.forgetting, trained, training, options.limit_eval) if options.forgetting else None
    if options.output:
        write_rows(options.output, [{k: v for k, v in row.items() if k != "badness"} for row in rows])
    wrong = sorted((row for row in rows if row["badness"]), key=lambda row: -row["badness"])[: options.show_errors]
    counts = confusion(judged, len(task.classes)) if family.by_class else None
    of_classes = [] if counts is None else by_class(counts, task.classes)
    interval = family.metric.interval(judged.predicted, judged.target)
    if output.as_json:
        print_json(
            {
                "adapter": str(adapter.adapter),
                "bare": options.bare,
                "task": task.name,
                "examples": len(split),
                "metric": family.metric.name,
                "value": judged.scores[family.metric.name],
                "interval": interval,
                "scores": judged.scores,
                "forgetting": forgotten and dataclasses.asdict(forgotten),
                "classes": of_classes,
                "confusion": None if counts is None else counts.tolist(),
                "errors": wrong,
            }
        )
        return
    _show(console, family, judged, interval, len(split))
    if forgotten:
        console.print(
            f"forgetting [bold]{forgotten.rise:+.4f}[/]: {forgotten.metric} {forgotten.adapted:.4f} on "
            f"{forgotten.examples:,} examples of {options.forgetting}, {forgotten.base:.4f} without the adapter",
            soft_wrap=True,
        )
    if counts is not None:
        _show_classes(console, of_classes, counts.tolist())
    _show_errors(console, wrong, options.show_errors)
    if options.output:
        console.print(f"All {len(rows):,} examples saved to {options.output}", soft_wrap=True, markup=False)


def _examples(options: EvaluationOptions, saved: SavedTask) -> tuple[Task, Split, list[str]]:
    """(the task, all labelled examples, what was inferred).

    Raises:
        ConfigError: the classes are not those of training.
    """
    if is_file(options.input):
        task = _own(Path(options.input), options, saved)
        data = READERS[task.reader](task, refuse)
        split = sum(data.splits.values(), Split((), ())) if task.kind == "image" else data.splits["test"]
    else:
        task = load_task(options.input, options.data)
        data = read(task.model_copy(update={"metric": options.metric or task.metric}))
        split = assign_roles(data, get_protocol(task.protocol)).report
        if data.task.classes != saved.classes:
            raise ConfigError(
                f"--input: {task.name} has the classes {', '.join(data.task.classes)}; the adapter was trained on "
                f"{', '.join(saved.classes)}"
            )
    if options.limit_eval and options.limit_eval < len(split):
        split = split.take(range(options.limit_eval))
    held_out = ("test:", "validation:", "classes from")
    return data.task, split, [n for n in dict.fromkeys(data.notes) if not n.startswith(held_out)]


def _own(path: Path, options: EvaluationOptions, saved: SavedTask) -> Task:
    task = own_task(
        path,
        family=saved.family,
        text_columns=options.text_column or saved.text_columns,
        label_column=options.label_column or saved.label_column,
        regression=saved.regression,
        encoding=options.encoding,
        prompting=saved.prompting.model_dump(exclude_defaults=True),
    )
    if task.kind != saved.kind:
        raise ConfigError(f"--input: {path} contains {task.kind}s; the adapter was trained on {saved.kind}s")
    task = task.model_copy(update={"classes": saved.classes, "metric": options.metric or saved.metric})
    return _all_of(task, path) if task.kind == "text" else task


def _forgetting(path: Path, trained: Trained, training: Training, limit: int | None) -> Forgetting:
    own = own_task(path, family=trained.family.name)
    task = _all_of(own.model_copy(update={"metric": trained.family.selects.name}), path)
    split = READERS[task.reader](task, refuse).splits["test"]
    some = split.take(range(min(limit or len(split), len(split))))
    return forgetting(trained, trained.family.on(task), some, training)


def _all_of(task: Task, path: Path) -> Task:
    """The task with every row of its file in every split, so that none is held out."""
    return task.model_copy(update={"files": dict.fromkeys(("train", "validation", "test"), path)})


def _rows(trained: Trained, family: Family, split: Split) -> list[dict[str, Any]]:
    """One row per example: its inputs, its label, the prediction, and how wrong it is."""
    outputs = trained.predict(split.inputs)
    names = family.input_names
    rows = []
    for inputs, label, output in zip(split.inputs, split.labels, outputs, strict=True):
        badness = family.badness(output, label)
        label_in_words = family.label_in_words(label)
        rows.append(
            {
                **dict(zip(names, inputs, strict=True)),
                "label": label_in_words,
                **family.answer(output),
                **family.columns(output, inputs),
                "badness": badness,
            }
        )
    return rows


def _show(console: Console, family: Family, judged: Judged, interval: tuple[float, float], examples: int) -> None:
    low, high = interval
    name = family.metric.name
    console.print(
        f"{name} [bold]{judged.scores[name]:.4f}[/] (95 % interval {low:.4f} to {high:.4f}) on {examples:,} examples"
    )
    others = [f"{other} {value:.4f}" for other, value in judged.scores.items() if other != name]
    if others:
        console.print(", ".join(others))


def _show_classes(console: Console, classes: Sequence[OfClass], counts: Sequence[Sequence[int]]) -> None:
    numbers = ("examples", "precision", "recall", "f1")
    shown = table("class", *numbers, right=numbers)
    for row in classes:
        shares = ("–" if math.isnan(v) else f"{v:.3f}" for v in (row.precision, row.recall, row.f1))
        shown.add_row(escape(row.name), f"{row.examples:,}", *shares)
    console.print()
    console.print(shown)
    if len(classes) > _MOST_CLASSES:
        return
    names = [escape(row.name) for row in classes]
    matrix = table("label \\ predicted", *names, right=names)
    for name, row_counts in zip(names, counts, strict=True):
        matrix.add_row(name, *(f"{n:,}" if n else "·" for n in row_counts))
    console.print()
    console.print(matrix)


def _show_errors(console: Console, wrong: Sequence[dict[str, Any]], asked: int) -> None:
    if asked and not wrong:
        console.print("\nNo prediction is wrong.")
    for number, row in enumerate(wrong, 1):
        console.print(f"\n[bold]{number}[/]", end=" ")
        shown = {k: v for k, v in row.items() if k != "badness" and not k.startswith("probability of")}
        words = (f"{k}: {v:.3f}" if isinstance(v, float) else f"{k}: {v}" for k, v in shown.items())
        console.print(escape("  ".join(" ".join(word.split())[:300] for word in words)), soft_wrap=True)
