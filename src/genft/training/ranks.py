"""One run on several processes, as ``torchrun`` and ``accelerate launch`` start them: each has a share of every batch.

All of them do the same work in step. Only the first prints, writes and reads the store, and it tells the others what it
found; on several machines they read checkpoints from a folder that all of them can see.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from genft.runs.measured import Result
from genft.runs.store import Store

T = TypeVar("T")


def _state() -> PartialState:
    """Joins the other processes when it is first called, if the environment names any."""
    return PartialState(cpu=not torch.accelerator.is_available())


def count() -> int:
    """How many processes do this run; 1 if nothing says otherwise."""
    return _state().num_processes


def rank() -> int:
    """The number of this process among them, from 0."""
    return _state().process_index


def is_first() -> bool:
    return rank() == 0


def share(value: T) -> T:
    """The value that the first process has, in all of them."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def only_first(value: T, otherwise: T) -> T:
    """``value`` in the first process, ``otherwise`` in the others."""
    return value if is_first() else otherwise


def first_goes_first() -> AbstractContextManager[None]:
    """``with first_goes_first(): ...`` runs in the first process, then in the others, who find what it fetched."""
    return _state().main_process_first()


class SharedStore(Store):
    """The store as the processes of one run use it: the first reads and writes, and the others learn what it found."""

    def claim(self, key: str, *, wait: bool = True) -> Any:
        return super().claim(key, wait=wait) if is_first() else nullcontext()

    def get(self, key: str) -> Result | None:
        return share(super().get(key) if is_first() else None)

    def rename(self, former: str, key: str) -> None:
        if is_first():
            Store(self.out).rename(former, key)

    def put(self, result: Result) -> None:
        if is_first():
            super().put(result)

    def drop_checkpoints(self, key: str) -> None:
        if is_first():
            super().drop_checkpoints(key)
