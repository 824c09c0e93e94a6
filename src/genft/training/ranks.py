"""One run on several processes, as ``torchrun`` and ``accelerate launch`` start them: each has a share of every batch.

All do the same work in step. The first alone prints, writes and looks into the store, and tells the others what it
found; on several machines they read checkpoints from a folder that all of them see.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def _state() -> PartialState:
    """Joins the other processes when it is first asked, if the environment names any."""
    return PartialState(cpu=not torch.accelerator.is_available())


def count() -> int:
    """How many processes do this run; 1 where nothing says otherwise."""
    return _state().num_processes


def rank() -> int:
    """This process among them, from 0."""
    return _state().process_index


def is_first() -> bool:
    return rank() == 0


def share(value: T) -> T:
    """The value of the first process, in all of them."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def first_goes_first() -> AbstractContextManager[None]:
    """``with first_goes_first(): ...`` is done by the first process, then by the others, who find what it fetched."""
    return _state().main_process_first()
