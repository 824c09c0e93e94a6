"""The thin factors of many updates, computed together at the start of a forward pass in training.

A step of a small model on a GPU is limited by the number of its operations, not by their size, and computing the
updates weight by weight takes many small ones. A method may therefore compute those of all weights of one shape at once
(:meth:`~genft.api.method.WeightMethod.low_rank_together`).

Which updates a pass needs is known from the pass before, in the same thread; the first computes all. Updates are
computed weight by weight

* in modules called on their own;
* where a part of the pass is computed again for the backward pass (gradient checkpointing), because then the same
  tensors have to be saved both times;
* while torch.compile or a transform of torch.func traces;
* if tensors are sharded, offloaded or quantised outside of their layer's own forward pass;
* from then on, if a pass did not need all updates that the pass before needed: what is not needed must not get a
  gradient. (What a pass computes but its loss does not use gets a gradient of zero instead of none.)
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Hashable
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from genft.api.method import Site, WeightMethod
from genft.bridge.forward_pass import ForwardPass
from genft.bridge.layer import AdapterLayer
from genft.models.weights import FrozenWeight
from genft.ops.entries import no_autocast
from genft.ops.tracing import is_traced


class Layer(Protocol):
    """What is read of an adapted weight (:class:`~genft.bridge.weight.layer.WeightLayer`)."""

    training: bool
    prefix: str
    attachments: dict[str, Any]

    @property
    def merged(self) -> bool: ...

    @property
    def disable_adapters(self) -> bool: ...

    @property
    def frozen(self) -> FrozenWeight: ...

    def active_attachments(self) -> list[str]: ...

    def factors(self, adapter_name: str, site: Site) -> dict[str, Tensor]: ...

    def frozen_weight(self) -> Tensor: ...


class Need(NamedTuple):
    """An update that a pass needed, and the shapes of the factors that it was computed from."""

    layer: weakref.ref[Layer]
    adapter_name: str
    site: Site
    shapes: dict[str, torch.Size]


def record(
    forward_pass: ForwardPass, layer: Layer, adapter_name: str, site: Site, factors: dict[str, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """Record that this pass needs an update; return its thin factors if they have been computed."""
    if not forward_pass.running or not forward_pass.together or not layer.training or not _is_ordinary():
        return None
    if forward_pass.needed is None:
        return None
    key = (id(layer), adapter_name, site.start)
    forward_pass.needed[key] = Need(weakref.ref(layer), adapter_name, site, _shapes(factors))
    return forward_pass.pairs.get(key)


def compute(forward_pass: ForwardPass, model: nn.Module) -> None:
    """Compute what the pass before needed; in the first pass, so that a resumed run is the same, all updates."""
    if not forward_pass.together or not _is_ordinary():
        return
    needed = _of_all_layers(model) if forward_pass.needed is None else forward_pass.needed
    forward_pass.needed = {}
    groups: dict[Hashable, dict[Hashable, tuple[Any, Tensor, dict[str, Tensor]]]] = defaultdict(dict)
    for key, (reference, name, site, shapes) in needed.items():
        layer = reference()
        if layer is None or not _is_in_use(layer, name):
            continue
        w0, factors = layer.frozen_weight()[site.start : site.stop], layer.factors(name, site)
        # sharded or offloaded tensors are whole only while their own layer computes
        tensors = (layer.frozen.stored, *factors.values())
        whole = w0.shape == (site.out_features, site.in_features) and all(
            factors[s].shape == shape for s, shape in shapes.items()
        )
        if whole and all(type(t) in (Tensor, nn.Parameter) and not t.is_meta for t in tensors):
            like = tuple((symbol, t.shape, t.dtype, t.device) for symbol, t in factors.items())
            method = layer.attachments[name].method
            groups[id(method), w0.shape, w0.dtype, w0.device, like][key] = (method, w0, factors)
    for group in groups.values():
        if len(group) == 1:
            continue
        (method, *_), weights, factors_of_each = zip(*group.values(), strict=True)
        with no_autocast(weights[0].device):
            pair = method.low_rank_together(weights, factors_of_each)
        if pair is not None:
            left, right = (t.expand(len(group), *t.shape[-2:]).unbind() for t in pair)
            forward_pass.pairs.update(zip(group, zip(left, right, strict=True), strict=True))


def finish(forward_pass: ForwardPass, *, failed: bool) -> None:
    """Check at the end of a pass that it needed everything that was computed for it."""
    if not failed and not forward_pass.pairs.keys() <= (forward_pass.needed or {}).keys():
        forward_pass.together = False
    forward_pass.pairs = {}


def _of_all_layers(model: nn.Module) -> dict[Hashable, Need]:
    needed: dict[Hashable, Need] = {}
    for layer in model.modules():
        for name, attachment in layer.attachments.items() if isinstance(layer, AdapterLayer) else ():
            method = attachment.method
            if not isinstance(method, WeightMethod) or not method.overrides("low_rank_together"):
                continue
            for site in attachment.sites if method.entry_dropout == 0 else ():
                shapes = {symbol: torch.Size(factor.shape) for symbol, factor in method.factors(site).items()}
                needed[id(layer), name, site.start] = Need(weakref.ref(cast(Layer, layer)), name, site, shapes)
    return needed


def _is_in_use(layer: Layer, adapter_name: str) -> bool:
    """Whether the next pass in training will use an adapter on a weight that can be read without a copy."""
    if (
        layer.merged
        or layer.disable_adapters
        or not layer.training
        or layer.frozen.backend is not None
        or not layer.frozen.is_linear
    ):
        return False
    return adapter_name in layer.active_attachments()


def _shapes(factors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: t.shape for name, t in factors.items()}


def _is_ordinary() -> bool:
    """Whether gradients are computed and nothing intervenes in what autograd saves, as gradient checkpointing does."""
    return torch.is_grad_enabled() and not is_traced() and not _hooks_are_active()


def _hooks_are_active() -> bool:
    """Whether hooks on saved tensors are active: torch refuses to disable them then."""
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(""):
            return False
    except RuntimeError:
        return True
