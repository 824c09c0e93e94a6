"""One adapter on one model: its method, its sites, and the values derived from the base model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from genft.api.config import AdapterConfig
from genft.api.method import Method, Site, WeightMethod
from genft.bridge.shared import SharedFactors

M = TypeVar("M", bound=Method)


class Carried(threading.local):
    """What an adapter carries from block to block in one forward pass; separate for every thread.

    Attributes:
        second_stream: the second stream after the last block that was run, (batch, tokens, width).
        keeps_second: whether the second stream is kept after the last block.
        shows_second: whether the blocks pass their input on, and the last one puts out the second stream instead.
        sizes: how many tokens each of the merged ones stands for, (batch, tokens); None before they are merged.
    """

    second_stream: Tensor | None = None
    keeps_second: bool = False
    shows_second: bool = False
    sizes: Tensor | None = None

    @contextmanager
    def both_streams(self) -> Iterator[Callable[[], None]]:
        """A context in which the second stream is kept after the last block. Once the function that it yields has been
        called, passes of the model do not run the blocks, but put out what the last pass has kept."""

        def show() -> None:
            self.shows_second = True

        try:
            self.keeps_second = True
            yield show
        finally:
            self.keeps_second, self.shows_second, self.second_stream = False, False, None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # a copy of the adapter is not in a forward pass


class Adapter(Generic[M]):
    """The record of an adapter, which all its layers share.

    Attributes:
        name: peft's name of the adapter.
        prefix: the prefix of the names of the method's tensors.
        config: the adapter's own copy of its configuration; saving it adds :meth:`derived`.
        method: the mathematics.
        sites: the sites by module path, in the order of the model.
        fingerprint: the fingerprint of the base weights that the adapter was created for; None until it is taken.
            Saved in the adapter file.
        expected_fingerprint: the fingerprint of the base that a loaded adapter was trained on; None for a new one.
        expected_sketches: sketches of the updates from an adapter file, by site, until they are compared.
        container: the container of the shared factors of all adapters of the method, or None if there are none.
        shared: the shared factors of this adapter, in ``container``.
        carried: what is carried from block to block.
    """

    def __init__(self, name: str, prefix: str, method: type[M], config: AdapterConfig) -> None:
        self.name = name
        self.prefix = prefix
        self.config = config.owned(self.derived)
        self.config.base_fingerprint = None  # genft 0.1 saved it here, now it is in the adapter file
        self.method = method(self.config)
        self.sites: dict[str, list[Site]] = {}
        self.fingerprint: dict[str, Any] | None = None
        self.expected_fingerprint: Mapping[str, Any] | None = config.base_fingerprint
        self.expected_sketches: dict[str, Tensor] = {}
        self.container: SharedFactors | None = None
        self.shared = nn.ParameterDict()
        self.carried = Carried()

    @property
    def every_site(self) -> list[Site]:
        return [site for sites in self.sites.values() for site in sites]

    def derived(self) -> dict[str, Any]:
        """Values for the saved copy of the configuration: those that the method derived from the base."""
        return dict(self.method.derived_settings()) if isinstance(self.method, WeightMethod) else {}

    def share_on(self, model: nn.Module) -> None:
        """Store the shared factors on ``model``."""
        if self.container is None:
            self.container = SharedFactors.on(model, self.prefix)
            self.shared = self.container.entry(self.name)

    def release(self) -> None:
        """Remove the shared factors, because the adapter is being deleted."""
        if self.container is not None and self.container.entry(self.name) is self.shared:
            self.container.discard(self.name)
