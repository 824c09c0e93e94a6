"""The options of ``genft train`` that repeat a run, for a command and for the file beside its adapter."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from genft.api.registry import MethodInfo
from genft.api.settings import full_settings, plain
from genft.data.task import Task, list_tasks
from genft.families.registry import FAMILIES, get_family
from genft.presets import Preset, load_preset
from genft.runs.request import build_spec
from genft.runs.spec import LIMITS, RunSpec

#: The preset of the files that are written, so that a file means the same when the default preset has changed.
PLAIN_PRESET = "none"


def options(spec: RunSpec, preset: Preset, method: MethodInfo | None = None) -> dict[str, Any] | None:
    """The options that make ``spec``, by the names of their fields; those that follow from the others are left out.

    Args:
        spec: the run.
        preset: the preset that the options are used with.
        method: the method that the spec names, if already known.

    Returns:
        ``settings`` maps the method's settings to their values; every other value is a plain one, or a list.
        None if no options can express the spec: a task of the user's own suite, a value that is None although the
        preset sets it, or a family or a setting of another version of genft.
    """
    task = _task(spec.task)
    if task is None:
        return None
    usual = build_spec(spec.task, spec.model, preset, method=method or spec.method)
    settings, usual_settings = (full_settings(usual.method, s.settings) for s in (spec, usual.spec))
    if settings.keys() - usual_settings.keys():  # of another version
        return None
    values = {**task, "model": spec.model, "method": spec.method}
    training = _differences(dict(spec.training), dict(usual.spec.training))
    if None in training.values():
        return None
    run = _differences({name: getattr(spec, name) for name in ("protocol", *LIMITS, "seed")}, dict(usual.spec))
    chosen = _differences(settings, usual_settings)
    return values | run | training | ({"settings": plain(chosen)} if chosen else {})


def run_file(spec: RunSpec, method: MethodInfo | None = None, sources: Mapping[str, str] | None = None) -> str | None:
    """The content of a file for ``genft train --config`` that repeats the run, or None if no options can express it.

    Args:
        spec: the run.
        method: the method that the spec names, if already known.
        sources: where values come from, written as a comment after those that it names.
    """
    values = options(spec, load_preset(PLAIN_PRESET), method)
    if values is None:
        return None
    settings = values.pop("settings", {})
    values = {"task": values.pop("task"), "model": values.pop("model"), "preset": PLAIN_PRESET, **values}
    lines = ["# genft train --config FILE repeats this run; options on the command line win over those of the file."]
    lines += [_line(name, value, sources or {}) for name, value in values.items()]
    if settings:
        lines += ["", "[settings]", *(_line(name, value, sources or {}) for name, value in settings.items())]
    return "\n".join(lines) + "\n"


def _task(task: Task) -> dict[str, Any] | None:
    """The task as ``genft train`` takes it, with the options that describe it."""
    shipped = _shipped().get(task.name)
    if shipped is not None and shipped.reader == task.reader:
        values: dict[str, Any] = {"task": task.name, **({"data": str(task.root)} if task.root else {})}
        usual = shipped
    elif "train" in task.files and not task.suite and task.family in FAMILIES:
        values, usual = _own(task)
    else:
        return None
    for name in ("prompting", "answering"):
        values |= _differences(dict(getattr(task, name)), dict(getattr(usual, name)))
    return values | _differences({name: getattr(task, name) for name in ("metric", "max_length")}, dict(usual))


def _own(task: Task) -> tuple[dict[str, Any], Task]:
    """(options of the user's own file or folder, a task with the values of options that are not given)."""
    train = task.files["train"]
    values: dict[str, Any] = {"task": task.hub or str(train), **({"regression": True} if task.regression else {})}
    given = {name: task.files[name] for name in ("validation", "test") if name in task.files}
    values |= {name: str(file) for name, file in given.items() if not (task.hub and file.parent == train.parent)}
    usual = Task(name="", kind=task.kind, reader="", **get_family(task).usual_values)
    if task.family != usual.family:  # named, with its columns: without it they might be recognised as another's
        usual = usual.model_copy(update={"text_columns": (), "label_column": ""})
        values["family"] = task.family
    if task.text_columns != usual.text_columns:
        values["text_column"] = list(task.text_columns)
    described = ("label_column", "encoding")
    return values | _differences({name: getattr(task, name) for name in described}, dict(usual)), usual


def _differences(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != usual[name]}


@functools.cache
def _shipped() -> dict[str, Task]:
    return {task.name: task for task in list_tasks()}


def _line(name: str, value: Any, sources: Mapping[str, str]) -> str:
    comment = "".join(c for c in sources.get(name, "") if c.isprintable())
    return f"{name} = {_toml(value)}" + (f"  # {comment}" if comment else "")


def _toml(value: Any) -> str:
    """A value in TOML, whose numbers and lists are JSON's; None, which TOML lacks, is "none"."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(str(key))} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf")):
        return str(value)
    return '"none"' if value is None else json.dumps(value)
