"""The forward pass of a model that the current thread is in."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable
from typing import Any

_NUMBERS = itertools.count(1)


class ForwardPass(threading.local):
    """The forward pass of one model in the current thread; several threads may share a model in evaluation.

    Attributes:
        running: whether this thread is inside a forward pass of the model.
        number: the number of the pass, unique over all threads.
        seeds: the first mask seed drawn for every site in this pass (``weight/mask_seeds.py``).
        together: whether updates may be computed together at the start of a pass (``together.py``).
        needed: the updates that this pass has needed so far, in training; None before the first.
        pairs: the thin factors of those that were computed together.
        held: while this thread holds what is cached, the updates already compared, by layer; otherwise None.
    """

    def __init__(self) -> None:
        self.running = False
        self.number = 0
        self.seeds: dict[Hashable, int] = {}
        self.together = True
        self.needed: dict[Hashable, Any] | None = None
        self.pairs: dict[Hashable, Any] = {}
        self.held: dict[Hashable, tuple[Hashable, Any]] | None = None

    def begin(self) -> None:
        self.running, self.number, self.seeds = True, next(_NUMBERS), {}

    def end(self) -> None:
        self.running = False

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # a copy of the model is in no forward pass
