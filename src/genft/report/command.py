"""The command that repeats a run, with every value of its spec that is not a default."""

from __future__ import annotations

import functools
import shlex

from pydantic import ValidationError

from genft.errors import ConfigError
from genft.presets import Preset, load_preset
from genft.records import setting_as_text
from genft.runs.measured import Result
from genft.runs.options import options
from genft.runs.spec import RunSpec


def command(run: Result) -> str | None:
    """``genft train …`` with every option that differs from its default.

    None if no command line can express it: a task of the user's own suite, or a spec of another version of genft.
    """
    try:
        values = options(RunSpec.model_validate(run.spec), _default())
    except (ValidationError, ConfigError):
        return None
    if values is None:
        return None
    settings = values.pop("settings", {})
    words = [values.pop("task")]
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            words += [word for item in value for word in (option, str(item))]
        else:
            words += [option] if value is True else [option, str(value)]
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={setting_as_text(value)}")]
    return shlex.join(["genft", "train", *words])


@functools.cache
def _default() -> Preset:
    return load_preset("default")
