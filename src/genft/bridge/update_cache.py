"""A cache of updates in evaluation mode; an entry is valid until a tensor that it was computed from changes.

Computing the update of a weight costs much more than multiplying one token by it, so generating text with a key-value
cache would spend its time recomputing the same ΔW. W0 + ΔW is cached if the sum is exact and fits into ``limit``;
otherwise ΔW or its thin factors.

A stale update would be a silent error, and a version counter does not see writes through ``.data`` (moving averages,
older optimizers). Values are therefore compared: trained tensors in full with a copy, once per forward pass of the
model; frozen weights by the products of their rows with a fixed vector, all rows in a pass over 32 tokens or more,
otherwise the next 32nd of the rows. A write through ``.data`` to a few rows of a frozen weight is thus noticed within
32 passes at worst, any other change immediately.

While text is generated, every token is a pass, and comparing costs more than multiplying: :meth:`UpdateCache.hold`
compares once and trusts the tensors until the text is complete.

Threads may share a model in evaluation mode: the cache is modified under a lock, and a thread compares tensors
unless it has already done so in its current pass.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from genft.bridge.forward_pass import ForwardPass
from genft.ops.entries import no_autocast

#: The default size limit, in bytes, of the cached updates of one model.
LIMIT = 2**30

#: The number of parts of a frozen weight's rows; a pass over fewer tokens compares only one part.
PARTS = 32

#: A frozen weight with at most this many entries is always compared as a whole.
SMALL = 2**16


class Sources(NamedTuple):
    """The tensors that an update is computed from: trained ones, W0 and b0 as stored, and derived ones.

    Derived tensors are internal to the library, so nobody writes to them.
    """

    trained: list[Tensor]
    frozen: list[Tensor]
    derived: list[Tensor]

    @property
    def may_be_watched(self) -> bool:
        """Whether an update computed from them can be cached: values can be compared, and no gradient is needed."""
        tensors = (*self.trained, *self.frozen)
        if any(type(t) not in (Tensor, nn.Parameter) for t in self.trained):
            return False
        if any(t.is_inference() for t in tensors):
            return False
        return not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))

    @property
    def identity(self) -> tuple[int, ...]:
        """Identifies these tensors as long as all of them are referenced."""
        return tuple(map(id, (*self.trained, *self.frozen, *self.derived)))


class Kept(Protocol):
    """Something that can be cached and reports its size in bytes."""

    @property
    def nbytes(self) -> int: ...


class _Entry(NamedTuple):
    key: Hashable
    watched: list[Any]
    update: Any
    sources: Sources  # referenced, so that no other tensor gets their ids


class UpdateCache:
    """The cached updates of one model, by layer."""

    def __init__(self, forward_pass: ForwardPass, limit: int = LIMIT) -> None:
        self.forward_pass = forward_pass
        self._limit = limit
        self._warned = False
        self._lock = threading.RLock()
        self.clear()

    @property
    def limit(self) -> int:
        """The total size allowed, in bytes; 0 switches the cache off. Setting it clears the cache."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit, self._warned = limit, False
        self.clear()

    @property
    def nbytes(self) -> int:
        """The current size of the cached updates in bytes."""
        with self._lock:
            return sum(entry.update.nbytes for entry in self._entries.values())

    def clear(self) -> None:
        """Free the memory; updates are computed again when needed."""
        with self._lock:
            self._entries: weakref.WeakKeyDictionary[nn.Module, _Entry] = weakref.WeakKeyDictionary()
            self._trained: dict[int, _Trained] = {}
        if self.forward_pass.held:
            self.forward_pass.held.clear()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """In this thread, compare tensors in the first of many passes only; nothing may write to them meanwhile."""
        held, self.forward_pass.held = self.forward_pass.held, {}
        try:
            yield
        finally:
            self.forward_pass.held = held

    def drop(self, layer: nn.Module) -> None:
        """Drop the cached update of one layer."""
        if self.forward_pass.held:
            self.forward_pass.held.pop(id(layer), None)
            self.forward_pass.held.pop((id(layer), "product"), None)
        with self._lock:
            self._entries.pop(layer, None)
            if not self._entries:
                self._trained.clear()

    def fits(self, layer: nn.Module, nbytes: int, *, warn: bool = False) -> bool:
        """Whether there is room for an update of ``layer`` of this size."""
        with self._lock:
            old = self._entries.get(layer)
            if self.nbytes - (old.update.nbytes if old else 0) + nbytes <= self._limit:
                return True
        if warn and not self._warned:
            self._warned = True
            warnings.warn(
                f"evaluation: the generated weights of this model exceed the cache limit of {self._limit / 2**20:.0f} "
                "MiB, so some are generated again in every forward pass; merge the adapter, or raise "
                "model.base_model.update_cache.limit (bytes)",
                stacklevel=2,
            )
        return False

    def get(self, layer: nn.Module, key: Hashable, tokens: int) -> Any:
        """The cached update for ``layer`` and ``key``, or None if there is none or it is outdated."""
        entry = self._entries.get(layer)
        if entry is None:
            return None
        if entry.key == key and all(watched.unchanged(self, tokens) for watched in entry.watched):
            return entry.update
        self.drop(layer)
        return None

    def keep(self, layer: nn.Module, key: Hashable, update: Kept, sources: Sources) -> None:
        """Cache ``update``, which was computed from these tensors; ``key`` must identify them."""
        with self._lock:
            watched: list[Any] = [self._watch(t) for t in sources.trained]
            self._entries[layer] = _Entry(key, [*watched, *map(WatchedWeight, sources.frozen)], update, sources)

    def _watch(self, tensor: Tensor) -> _Trained:
        """The watcher of a trained tensor, shared by all layers that share the tensor, while it is unchanged."""
        known = self._trained.get(id(tensor))
        if known is None or not known.unchanged(self, 1):
            known = self._trained[id(tensor)] = _Trained(tensor)
        return known

    def __getstate__(self) -> dict[str, Any]:
        return {"forward_pass": self.forward_pass, "limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class _Trained:
    """A trained tensor and a copy of its values."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.values = tensor.detach().clone()
        self.passed = 0

    def unchanged(self, cache: UpdateCache, tokens: int) -> bool:
        running = cache.forward_pass.running
        if running and self.passed == cache.forward_pass.number:
            return True
        t, values = self.tensor, self.values
        if (t.device, t.dtype) != (values.device, values.dtype) or not torch.equal(t, values):
            cache._trained.pop(id(self.tensor), None)
            return False
        if running:
            self.passed = cache.forward_pass.number
        return True


class WatchedWeight:
    """A frozen tensor's address, version and, for floats, the products of its rows with a vector."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.identity = (tensor.data_ptr(), tensor._version, tensor.shape, tensor.dtype)
        self.parts: list[Tensor] = []  # all rows, then part by part
        self.products: list[Tensor] = []  # of all rows, and of the parts once they are needed
        if tensor.dim() in (1, 2) and tensor.is_floating_point():
            whole = tensor.detach().view(len(tensor), -1)  # a bias as rows of one number
            self.probe = torch.linspace(0.5, 1.5, whole.shape[1], device=whole.device)
            self.parts = [whole, *whole.tensor_split(PARTS)]
            self.products = [self._product(whole)]
        self.next = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"tensor": None, "products": self.products[:1]}  # a copy has a weight of its own, to compare with these

    def unchanged(self, cache: UpdateCache, tokens: int) -> bool:
        return self.same(tokens)

    def same(self, tokens: int) -> bool:
        """Whether the tensor is unchanged: all rows are compared if the pass has enough tokens to justify it,
        otherwise only the next part of them; no values without tokens."""
        t = self.tensor
        if (t.data_ptr(), t._version, t.shape, t.dtype) != self.identity:
            return False
        if not self.parts or not tokens:
            return True
        if tokens >= PARTS or t.numel() <= SMALL:
            n = 0
        else:
            n = self.next = self.next % PARTS + 1
        if n >= len(self.products):  # the first time, all rows are compared before the parts' products are taken
            n = 0
            self.products += map(self._product, self.parts[1:])
        return torch.equal(self._product(self.parts[n]), self.products[n])

    def equals(self, other: WatchedWeight) -> bool:
        """Whether two weights have the same values, judging by their products."""
        if not self.products or not other.products or self.products[0].shape != other.products[0].shape:
            return False
        return torch.equal(self.products[0], other.products[0].to(self.products[0].device))

    def _product(self, part: Tensor) -> Tensor:
        with no_autocast(part.device):
            return (part if part.dtype == self.probe.dtype else part.to(self.probe.dtype)) @ self.probe
