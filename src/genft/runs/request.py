"""From a user's request to a :class:`~genft.runs.spec.RunSpec`, with the source of every value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genft.api.registry import MethodInfo
from genft.api.settings import check_settings, default_settings
from genft.data.task import Task
from genft.methods import get_method
from genft.presets import Preset, Space, Values
from genft.records import check
from genft.runs.settings import Training
from genft.runs.spec import LIMITS, RunSpec


class Sourced(NamedTuple):
    """A value and its source: one line of ``genft explain``."""

    value: Any
    source: str


Origins = dict[str, Sourced]


def layer(*layers: tuple[str, Mapping[str, Any]]) -> Origins:
    """Combine layers of (source, values); later layers win."""
    return {key: Sourced(value, source) for source, values in layers for key, value in values.items()}


@dataclasses.dataclass(frozen=True)
class Request:
    """A spec, with the source of every value in it.

    Attributes:
        method: the method that the spec names.
        run, settings, training: values of the spec itself, of the method's configuration, and of training.
        spaces: the parameters that a search varies.
    """

    spec: RunSpec
    method: MethodInfo
    run: Mapping[str, Sourced]
    settings: Mapping[str, Sourced]
    training: Mapping[str, Sourced]
    spaces: Mapping[str, Space] = dataclasses.field(default_factory=dict)


DEFAULT_METHOD = "genft"
#: The source of every value that the user sets.
USER = "command line"


def build_spec(
    task: Task,
    model: str,
    preset: Preset,
    *,
    method: MethodInfo | str | None = None,
    settings: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    **run: Any,
) -> Request:
    """Combine the layers of values: defaults, the method's, the task's, the preset's, and the user's.

    Args:
        task: what is learned.
        model: the base model, by name.
        preset: hyper-parameters for many methods and tasks.
        method: the user's method, or its name; by default genft.
        settings: the user's settings for the method, parsed.
        training: the user's values of :class:`Training`.
        run: the user's values of :class:`RunSpec`: seed, protocol, limits.

    Raises:
        ConfigError: every value that does not exist or is not allowed, at once.
    """
    info = method if isinstance(method, MethodInfo) else get_method(method or DEFAULT_METHOD)
    if method is not None:
        run["method"] = info.name
    selected = preset.select(info.name, task.name)
    run_values = layer(
        ("default", {"method": info.name, "seed": 0, **dict.fromkeys(LIMITS)}),
        ("default" if task.files else f"task {task.name}", {"protocol": task.protocol}),
        *((source, values.run) for source, values in selected),
        (USER, {"model": model, **run}),
    )
    training_values = layer(
        ("default", Training().model_dump()),
        (f"task {task.name}", task.training),
        *((source, values.training) for source, values in selected),
        (USER, training or {}),
        *([(f"{info.name}: learning_rate is the head's", {"head_learning_rate": None})] if info.head_only else []),
    )
    method_values = layer_settings(info, selected, settings or {})
    spec = check(
        RunSpec,
        {
            "task": task,
            "settings": {k: v.value for k, v in method_values.items() if v.source != "default"},
            "training": check(Training, {k: v.value for k, v in training_values.items()}, "training"),
            **{k: v.value for k, v in run_values.items()},
        },
        "run",
    )
    return Request(spec, info, run_values, method_values, training_values, preset.spaces(info.name))


def layer_settings(info: MethodInfo, selected: Sequence[tuple[str, Values]], settings: Mapping[str, Any]) -> Origins:
    """The settings of a method, from its defaults, the preset and the user.

    Raises:
        ConfigError: a setting that the method does not have.
    """
    values = layer(
        ("default", default_settings(info)),
        (f"genft's for {info.name}", info.defaults),
        *((source, values.settings) for source, values in selected),
        (USER, settings),
    )
    check_settings(info, values, Training.model_fields)
    return values
