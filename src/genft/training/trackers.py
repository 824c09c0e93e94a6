"""Trackers that watch a run from outside: those of transformers, under --report-to. They are no part of a run's key."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import integration_utils

from genft.errors import ConfigError, not_one_of

TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """``names``, if each is a tracker that is installed.

    Raises:
        ConfigError: every one that is not, at once.
    """
    unknown = [not_one_of("--report-to", name, TRACKERS) for name in names if name not in TRACKERS]
    absent = [name for name in names if name in TRACKERS and find_spec(name) is None]
    problems = [*unknown, *(f"--report-to {name}: is not installed: pip install {name}" for name in absent)]
    if problems:
        raise ConfigError(problems)
    return tuple(dict.fromkeys(names))


def tracker_callbacks(names: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """What tells the trackers; TensorBoard's events go to ``folder``, the others follow their own environment."""
    made: list[Any] = []
    for name in names:
        callback = integration_utils.INTEGRATION_TO_CALLBACK[name]
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            made.append(callback(SummaryWriter(str(folder))))
        else:
            made.append(callback())
    return made
