"""A weight in evaluation mode: its update is computed once and cached until one of its sources changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genft.bridge.layer import entry
from genft.bridge.update_cache import Sources, UpdateCache
from genft.bridge.weight.forms import Update, summed
from genft.bridge.weight.merging import MergingLayer
from genft.models.weights import FrozenWeight
from genft.ops.entries import autocast_is_on
from genft.ops.tracing import is_traced


def _circumstances(x: Tensor) -> tuple[Any, ...]:
    """What decides, besides the adapters, which update may be used for ``x``."""
    return x.dtype, x.device, torch.is_grad_enabled(), autocast_is_on(x.device)


class EvaluatingLayer(MergingLayer):
    """An adapted weight that caches its update between forward passes in evaluation mode."""

    def __init__(self, base_layer: nn.Module, prefix: str, update_cache: UpdateCache) -> None:
        super().__init__(base_layer, prefix)
        self.update_cache = update_cache

    def derived_tensors(self, adapter_name: str) -> dict[str, Tensor]:
        """The tensors that the adapter's method derived from W0, by their names in this module."""
        raise NotImplementedError

    def _update(self, names: list[str], x: Tensor, exact: bool, wanted: str) -> Update:
        """The update in the cheapest form that ``wanted`` allows."""
        raise NotImplementedError

    def _wanted(self, names: list[str]) -> str:
        """The plan that an active adapter requests."""
        plans = (self.attachments[name].method.plan for name in names)
        return next((plan for plan in plans if plan != "auto"), "auto")

    def _kept_update(self, frozen: FrozenWeight, names: list[str], x: Tensor, exact: bool) -> Update | None:
        """The update of an earlier pass, or one that will be kept for the next; None if none may be kept."""
        if self.training or is_traced() or not self.update_cache.limit:
            return None
        held = self.update_cache.forward_pass.held
        use = (*names, exact, *_circumstances(x))
        if held and (known := held.get(id(self))) and known[0] == use:
            return known[1]  # type: ignore[no-any-return]
        sources = self._sources(frozen, names)
        if not sources.may_be_watched:
            return None
        key = (*names, exact, x.dtype, x.device, *sources.identity)
        update = self.update_cache.get(self, key, x.numel() // x.shape[-1])
        keep = update is not None
        if update is None:
            # a tensor created in inference mode could not be used with gradients later
            with torch.inference_mode(False), torch.no_grad():
                update, keep = self._update_to_keep(names, x, exact)
            if keep:
                self.update_cache.keep(self, key, update, sources)
        if held is not None and keep:
            held[id(self)] = (use, update)
        return update

    def _held_product(self, x: Tensor) -> Tensor | None:
        """The product with an update that is held (:meth:`UpdateCache.hold`), without looking anything up again; None
        if there is none."""
        if is_traced() or self.training or self.disable_adapters or not (held := self.update_cache.forward_pass.held):
            return None
        known = held.get((id(self), "product"))
        if known is None or known[0] != (self.active_adapter, *_circumstances(x)):
            return None
        return nn.functional.linear(x, *known[1])

    def _hold_product(self, x: Tensor, update: Update) -> None:
        """Let later passes take :meth:`_held_product`, if ``update`` is held and is W0 + ΔW."""
        held = self.update_cache.forward_pass.held
        if held and id(self) in held and update.weight is not None:
            bias = None if update.bias is None else update.bias.to(x.dtype)
            held[id(self), "product"] = ((self.active_adapter, *_circumstances(x)), (update.weight, bias))

    def _sources(self, frozen: FrozenWeight, names: list[str]) -> Sources:
        """The tensors that the active updates are computed from."""
        trained: list[Tensor] = []
        derived: list[Tensor] = []
        for name in names:
            attachment = self.attachments[name]
            trained += entry(self.own_factors, name).values()
            trained += [attachment.adapter.shared[shared_as] for shared_as in attachment.shared_names]
            derived += self.derived_tensors(name).values()
        bias = frozen.stored_bias
        return Sources(trained, [frozen.stored] if bias is None else [frozen.stored, bias], derived)

    def _update_to_keep(self, names: list[str], x: Tensor, exact: bool) -> tuple[Update, bool]:
        """(W0 + ΔW if the sum is exact and there is room, else the form with the least memory; whether to cache it)."""
        cache, wanted = self.update_cache, self._wanted(names)
        dense = self.out_features * self.in_features * x.element_size()
        if exact and wanted in ("auto", "materialised") and cache.fits(self, dense):
            update = self._update(names, x, exact, "materialised")
            if update.thin or update.full:
                update = Update("weight", update.bias, summed(self.frozen_weight(), update))
            return update, True
        update = self._update(names, x, exact, "factored" if wanted == "auto" else wanted)
        if wanted == "auto" and update.thin and update.nbytes > dense:
            update = self._update(names, x, exact, "beside")
        update.full = [(site, d.to(x.dtype)) for site, d in update.full]
        return update, cache.fits(self, update.nbytes, warn=True)

    # everything that changes the update drops it from the cache

    def train(self, mode: bool = True) -> EvaluatingLayer:
        if mode:
            self.update_cache.drop(self)
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> EvaluatingLayer:
        self.update_cache.drop(self)
        return super()._apply(*args, **kwargs)

    def set_adapter(self, *args: Any, **kwargs: Any) -> None:
        self.update_cache.drop(self)
        super().set_adapter(*args, **kwargs)

    def delete_adapter(self, adapter_name: str) -> None:
        self.update_cache.drop(self)
        super().delete_adapter(adapter_name)

    def merge(self, *args: Any, **kwargs: Any) -> None:
        self.update_cache.drop(self)
        super().merge(*args, **kwargs)
