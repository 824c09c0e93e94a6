"""The command that repeats a run, with every value of its spec that is not a default."""

from __future__ import annotations

import functools
import json
import shlex
from typing import Any

from pydantic import ValidationError

from genft.api.settings import full_settings
from genft.data import Task, list_tasks
from genft.errors import ConfigError
from genft.presets import Preset, load_preset
from genft.runs.measured import Result
from genft.runs.request import build_spec
from genft.runs.spec import LIMITS, RunSpec


def command(run: Result) -> str | None:
    """``genft train …`` with every option that differs from its default.

    None if no command line can express it: a task of the user's own suite, or a spec of another version of genft.
    """
    try:
        spec = RunSpec.model_validate(run.spec)
        task = _task_words(spec.task)
        if task is None:
            return None
        request = build_spec(spec.task, spec.model, _default(), method=spec.method)
    except (ValidationError, ConfigError):
        return None
    usual = request.spec
    settings, usual_settings = (full_settings(request.method, s.settings) for s in (spec, usual))
    if settings.keys() - usual_settings.keys():  # of another version
        return None
    words = [*task, "--model", spec.model, "--method", spec.method]
    for name, value in settings.items():
        if value != usual_settings[name]:
            words += ["--set", f"{name}={_text(value)}"]
    for name, value in spec.training:
        if value != getattr(usual.training, name):
            words += [f"--{name.replace('_', '-')}", f"{value}"]
            if value is None:  # no option can express None
                return None
    for name in ("protocol", *LIMITS, "seed"):
        if (value := getattr(spec, name)) != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", f"{value}"]
    return shlex.join(["genft", "train", *words])


def _task_words(task: Task) -> list[str] | None:
    """The task as `genft train` takes it, with the options that describe it."""
    shipped = _shipped().get(task.name)
    if shipped is not None and shipped.reader == task.reader:
        words = [task.name, *(["--data", str(task.root)] if task.root else [])]
        usual = shipped
    elif task.reader in ("files", "image-folder", "prompts") and not task.suite:
        usual = Task(name="", kind=task.kind, reader="", metric="pearson" if task.regression else "accuracy")
        words = [str(task.files["train"]), *(["--regression"] if task.regression else [])]
        for name in ("validation", "test"):
            words += [f"--{name}", str(task.files[name])] if name in task.files else []
        if task.text_columns != usual.text_columns:
            words += [word for column in task.text_columns for word in ("--text-column", column)]
        for name in ("label_column", "encoding"):
            if (value := getattr(task, name)) != getattr(usual, name):
                words += [f"--{name.replace('_', '-')}", value]
    else:
        return None
    for name in ("metric", "max_length"):
        if (value := getattr(task, name)) != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", f"{value}"]
    return words


@functools.cache
def _shipped() -> dict[str, Task]:
    return {task.name: task for task in list_tasks()}


@functools.cache
def _default() -> Preset:
    return load_preset("default")


def _text(value: Any) -> str:
    """A setting in the form that --set takes."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
