"""From the words of the command line to what the other rooms take: a task, a request, a matrix's tasks."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from genft.api.settings import parse_settings
from genft.cli.declare import Options, Said, flag
from genft.cli.options import MethodOptions, ModelOptions, RoleOptions, TaskOptions
from genft.data import Task, TaskData, find_tasks, list_tasks, load_task, read, task_from_path
from genft.errors import ConfigError, DataError, GenFTError, nearest
from genft.methods import get_method
from genft.presets import load_preset
from genft.runs.protocols import assign_roles, get_protocol
from genft.runs.request import Request, build_spec
from genft.runs.settings import Training


class RunOptions(Options):
    """Everything that decides one run."""

    task: TaskOptions
    roles: RoleOptions
    model: ModelOptions
    method: MethodOptions
    training: Said[Training]


def build_request(run: RunOptions) -> Request:
    """The spec that the options describe, in which every value knows its origin."""
    task = find_task(run.task)
    _check_protocol(task, run.roles)
    info = get_method(run.method.method or "genft")
    said = {"method": run.method.method, "seed": run.method.seed, **run.roles.said}
    return build_spec(
        task,
        run.model.model,
        load_preset(run.model.preset),
        settings=parse_settings(info, run.method.settings, Training.model_fields),
        training=run.training.values,
        **{name: value for name, value in said.items() if value is not None},
    )


def find_task(options: TaskOptions) -> Task:
    """The task that is named, or that the user's own file is."""
    if is_file(options.task):
        if options.data:
            raise ConfigError("--data: is for the tasks of `genft list tasks`; a file of your own is its own data")
        task = task_from_path(
            Path(options.task),
            text_columns=options.text_column,
            label_column=options.label_column,
            validation=options.validation,
            test=options.test,
            regression=options.regression,
            encoding=options.encoding,
        )
    else:
        task = load_task(options.task, options.data)
        fields = TaskOptions.model_fields
        if given := [flag(name, fields[name]) for name in TaskOptions.OF_A_FILE if getattr(options, name)]:
            raise ConfigError(f"{', '.join(given)}: for files of your own; the task {task.name!r} says this itself")
    changed = {"metric": options.metric, "max_length": options.max_length}
    return task.model_copy(update={name: value for name, value in changed.items() if value is not None})


def is_file(word: str) -> bool:
    """Whether ``word`` means a file or a folder of one's own, be it there or not, and no task of the list."""
    path = Path(word)
    if path.suffix == ".toml" or word in {task.name for task in list_tasks()}:
        return False
    return bool(path.suffix) or "/" in word or path.exists()


def read_tasks(
    console: Console, words: tuple[str, ...], root: Path | None, roles: RoleOptions
) -> list[tuple[Task, TaskData]]:
    """The tasks that ``words`` name, with their data.

    Tasks of a suite that have no data, or lack a split that the protocol needs, are left out and named.
    """
    tasks: dict[str, Task] = {}
    data: dict[str, TaskData] = {}
    missing: dict[str, str] = {}
    with console.status("Reading the data"):
        for word in words:
            of_word = find_tasks(word, root)
            for task in of_word:
                if tasks.setdefault(task.name, task) != task:
                    raise ConfigError(f"{word}: has another task that is called {task.name!r}")
                try:
                    data[task.name] = _read_with_roles(task, roles)
                except GenFTError as e:
                    if len(of_word) == 1:
                        raise
                    missing[task.name] = str(e).splitlines()[0]
    if not data:
        name, reason = next(iter(missing.items()))
        raise DataError(f"none of the tasks has its data: {name}: {reason}")
    for name, reason in missing.items():
        console.print(f"[yellow]left out[/] {escape(f'{name}: {reason}')}", soft_wrap=True)
    return [(tasks[name], of_task) for name, of_task in data.items()]


def _check_protocol(task: Task, roles: RoleOptions) -> None:
    """Refuse a protocol that is another benchmark's, if the user asks for it."""
    if roles.protocol is not None:
        get_protocol(roles.protocol).check_suite(task)


def _read_with_roles(task: Task, roles: RoleOptions) -> TaskData:
    _check_protocol(task, roles)
    data = read(task)
    assign_roles(data, get_protocol(roles.protocol or task.protocol))  # which refuses if a split is missing
    return data


def numbers(option: str, text: str, kind: type[Any]) -> tuple[Any, ...]:
    """``text``, a list of numbers separated by commas, each once; ``option`` is for the message."""
    try:
        parsed = tuple(dict.fromkeys(kind(part) for part in text.split(",") if part.strip()))
    except ValueError:
        parsed = ()
    if not parsed or not all(map(math.isfinite, parsed)):
        example = "0,1,2" if kind is int else "1e-3,3e-3,1e-2"
        raise ConfigError(f"{option}: {text!r} is not a list of numbers such as {example}")
    if any(n < 0 for n in parsed) or (kind is float and 0.0 in parsed):
        raise ConfigError(f"{option}: {text!r} has a number that is too small")
    return parsed


def existing_folder(folder: Path) -> Path:
    """``folder``, if there is one; otherwise the nearest name beside it is in the message."""
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DataError(f"{folder}: is a file, not the folder of a saved adapter")
    beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    close = nearest(folder.name, beside)
    raise DataError(f"{folder}: does not exist" + (f"; nearest: {str(folder.parent / close)!r}" if close else ""))


def run_alone(command: str) -> None:
    """Refuse to be one of several processes of torchrun or accelerate."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{command}: runs in one process; torchrun and accelerate are for `genft train`")
