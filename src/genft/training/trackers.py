"""Experiment trackers (those of transformers), set with --report-to. They are not part of a run's key."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import integration_utils

from genft.errors import ConfigError, not_one_of
from genft.training import ranks

TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` without duplicates if each is an installed tracker.

    Raises:
        ConfigError: all unknown or missing trackers at once.
    """
    unknown = [not_one_of("--report-to", name, TRACKERS) for name in names if name not in TRACKERS]
    absent = [name for name in names if name in TRACKERS and find_spec(name) is None]
    problems = [*unknown, *(f"--report-to {name}: is not installed: pip install {name}" for name in absent)]
    if problems:
        raise ConfigError(problems)
    return tuple(dict.fromkeys(names))


def tracker_callbacks(names: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """Callbacks for the trackers, in the first process only.

    TensorBoard's events go to ``folder``; the others read their own environment variables.
    """
    callbacks: list[Any] = []
    for name in names if ranks.is_first() else ():
        callback = integration_utils.INTEGRATION_TO_CALLBACK[name]
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            callbacks.append(callback(SummaryWriter(str(folder))))
        else:
            callbacks.append(callback())
    return callbacks
