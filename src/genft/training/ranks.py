"""One run on several processes started by ``torchrun`` or ``accelerate launch``: each gets a share of every batch.

All processes work in lockstep. Only the first one prints and accesses the store, and it broadcasts what it read; on
several machines, they read checkpoints from a shared folder.
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
    """The process group; joins the other processes on the first call, if the environment defines any."""
    return PartialState(cpu=not torch.accelerator.is_available())


def count() -> int:
    """The number of processes of this run; 1 by default."""
    return _state().num_processes


def rank() -> int:
    """The rank of this process, from 0."""
    return _state().process_index


def is_first() -> bool:
    return rank() == 0


def share(value: T) -> T:
    """Broadcast the first process's value to all processes."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def only_first(value: T, otherwise: T) -> T:
    """``value`` in the first process, ``otherwise`` in the others."""
    return value if is_first() else otherwise


def first_goes_first() -> AbstractContextManager[None]:
    """``with first_goes_first(): ...`` runs in the first process, then in the others, which reuse what it fetched."""
    return _state().main_process_first()


class SharedStore(Store):
    """The store for the processes of one run: the first reads and writes, and the others receive what it read."""

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
