"""From command-line options to what the other packages take: a task, a request, the tasks of a matrix."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from genft.api.settings import parse_settings
from genft.cli.config import Config, read_config
from genft.cli.declare import Given, Options, flag
from genft.cli.options import ConfigOptions, MethodOptions, ModelOptions, OwnDataOptions, RoleOptions, TaskOptions
from genft.data import Task, TaskData, find_tasks, list_tasks, load_task, read
from genft.data.answering import Answering
from genft.data.prompting import Prompting
from genft.errors import ConfigError, DataError, GenFTError, nearest, not_one_of
from genft.families import own_data
from genft.families.registry import FAMILIES
from genft.methods import get_method
from genft.presets import load_preset
from genft.records import check
from genft.runs.protocols import check_splits, get_protocol
from genft.runs.request import DEFAULT_METHOD, USER, Request, Sourced, build_spec
from genft.runs.settings import Training


class RunOptions(Options):
    """Everything that decides one run."""

    task: TaskOptions
    roles: RoleOptions
    model: ModelOptions
    method: MethodOptions
    training: Given[Training]
    config: ConfigOptions


def build_request(run: RunOptions) -> Request:
    """The run that the options describe, with the origin of every value."""
    task = find_task(run.task)
    _check_protocol(task, run.roles)
    name = run.method.method
    method = get_method(name or DEFAULT_METHOD)
    seed = {} if run.method.seed is None else {"seed": run.method.seed}
    request = build_spec(
        task,
        run.model.model,
        load_preset(run.model.preset or "default"),
        method=method if name else None,
        settings=parse_settings(method, run.method.settings, Training.model_fields),
        training=run.training.values,
        **seed,
        **run.roles.given,
    )
    return request if run.config.config is None else _relabelled(request, run, read_config(run.config.config))


class Origins:
    """Where the user has given a value: on the command line, or in the file of ``--config``."""

    def __init__(self, path: Path | None, values: Mapping[str, Any]) -> None:
        self.path, self.values = path, values

    @classmethod
    def of(cls, run: RunOptions) -> Origins:
        path = run.config.config
        return cls(path, read_config(path).values if path else {})

    def of_value(self, name: str, value: Any) -> str:
        """The file if it has this value, otherwise the command line."""
        own = self.values.get(name)
        own, value = (v if isinstance(v, (list, tuple)) else [v] for v in (own, value))
        same = len(own) == len(value) and all(a == b or str(a) == str(b) for a, b in zip(own, value, strict=True))
        return str(self.path) if self.path and same else USER

    def relabelled(self, values: Mapping[str, Sourced]) -> dict[str, Sourced]:
        return {
            name: Sourced(value, self.of_value(name, value) if source == USER else source)
            for name, (value, source) in values.items()
        }


def _relabelled(request: Request, run: RunOptions, config: Config) -> Request:
    """The request, in which values from the file name the file as their origin."""
    pairs = [f"{name}={text}" for name, text in config.settings.items()]
    settings = parse_settings(request.method, [pair for pair in pairs if pair in run.method.settings])
    options = Origins(config.path, config.values)
    return dataclasses.replace(
        request,
        run=options.relabelled(request.run),
        training=options.relabelled(request.training),
        settings=Origins(config.path, settings).relabelled(request.settings),
    )


def find_task(options: TaskOptions) -> Task:
    """The task with the given name, or the one that the user's own file defines."""
    if is_file(options.task):
        if options.data:
            raise ConfigError("--data: only for the tasks of `genft list tasks`; your own file already is the data")
        task = own_task(Path(options.task), options)
    else:
        task = load_task(options.task, options.data)
        fields = TaskOptions.model_fields
        if flags := [flag(name, fields[name]) for name in TaskOptions.OF_A_FILE if getattr(options, name)]:
            raise ConfigError(f"{', '.join(flags)}: only for your own files; {task.name!r} defines this itself")
    changed = {"metric": options.metric, "max_length": options.max_length}
    task = task.model_copy(update={name: value for name, value in changed.items() if value is not None})
    prompting = check(Prompting, {**task.prompting.model_dump(), **options.prompting}, "prompting")
    answering = check(Answering, {**task.answering.model_dump(), **options.answering}, "answering")
    return task.model_copy(update={"prompting": prompting, "answering": answering})


def own_task(path: Path, options: OwnDataOptions) -> Task:
    """The task that a file or folder of the user's own is."""
    if options.family is not None and options.family not in FAMILIES:
        raise ConfigError(not_one_of("--family", options.family, FAMILIES))
    texts, label = options.named_columns
    return own_data.own_task(
        path,
        family=options.family,
        prompting=options.prompting,
        text_columns=texts,
        label_column=label,
        validation=options.validation,
        test=options.test,
        regression=options.regression,
        encoding=options.encoding,
    )


def is_file(word: str) -> bool:
    """Whether ``word`` means a file or folder of the user's, existing or not, rather than a listed task."""
    path = Path(word)
    if path.suffix == ".toml" or word in {task.name for task in list_tasks()}:
        return False
    return bool(path.suffix) or "/" in word or path.exists()


def read_tasks(
    console: Console, words: tuple[str, ...], root: Path | None, roles: RoleOptions
) -> list[tuple[Task, TaskData]]:
    """Find the tasks that ``words`` name, and read their data.

    Tasks of a suite that have no data, or lack a split that the protocol needs, are left out and named.
    """
    tasks: dict[str, Task] = {}
    data: dict[str, TaskData] = {}
    missing: dict[str, str] = {}
    with console.status("Reading the data"):
        for word in words:
            named = find_tasks(word, root)
            for task in named:
                if tasks.setdefault(task.name, task) != task:
                    raise ConfigError(f"{word}: has a different task of the same name, {task.name!r}")
                try:
                    data[task.name] = _read_with_roles(task, roles)
                except GenFTError as e:
                    if len(named) == 1:
                        raise
                    missing[task.name] = str(e).splitlines()[0]
    if not data:
        name, reason = next(iter(missing.items()))
        raise DataError(f"no task has data; {name}: {reason}")
    for name, reason in missing.items():
        console.print(f"[yellow]left out[/] {escape(f'{name}: {reason}')}", soft_wrap=True)
    return [(tasks[name], task_data) for name, task_data in data.items()]


def _check_protocol(task: Task, roles: RoleOptions) -> None:
    """Refuse a requested protocol that belongs to another benchmark."""
    if roles.protocol is not None:
        get_protocol(roles.protocol).check_suite(task)


def _read_with_roles(task: Task, roles: RoleOptions) -> TaskData:
    _check_protocol(task, roles)
    data = read(task)
    check_splits(data, get_protocol(roles.protocol or task.protocol))
    return data


def numbers(option: str, text: str, kind: type[Any]) -> tuple[Any, ...]:
    """Parse a list of numbers separated by commas, dropping repeated ones; ``option`` is named in errors."""
    try:
        parsed = tuple(dict.fromkeys(kind(part) for part in text.split(",") if part.strip()))
    except ValueError:
        parsed = ()
    if not parsed or not all(map(math.isfinite, parsed)):
        example = "0,1,2" if kind is int else "1e-3,3e-3,1e-2"
        raise ConfigError(f"{option}: {text!r} is not a list of numbers such as {example}")
    if any(n < 0 for n in parsed) or (kind is float and 0.0 in parsed):
        raise ConfigError(f"{option}: {text!r} contains a number that is too small")
    return parsed


def existing_folder(folder: Path) -> Path:
    """Return ``folder`` if it exists; otherwise raise an error that suggests the nearest existing name."""
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DataError(f"{folder}: is a file, not the folder of a saved adapter")
    siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    close = nearest(folder.name, siblings)
    raise DataError(f"{folder}: does not exist" + (f"; nearest: {str(folder.parent / close)!r}" if close else ""))


def run_alone(command: str) -> None:
    """Refuse to run as one of several torchrun or accelerate processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{command}: runs in one process; torchrun and accelerate are for `genft train`")
