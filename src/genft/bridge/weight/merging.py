"""Fold updates into the base weight, and restore the exact weight."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from genft.api.method import WeightMethod
from genft.bridge.layer import AdapterLayer
from genft.errors import MergeError
from genft.models.weights import FrozenWeight, Snapshot


class MergingLayer(AdapterLayer[WeightMethod]):
    """An adapted weight W0 with bias b0 whose updates can be merged; the exact W0 and b0 stay readable when merged."""

    def __init__(self, base_layer: nn.Module, prefix: str) -> None:
        super().__init__(base_layer, prefix)
        self._frozen = FrozenWeight.of(base_layer)
        self.out_features, self.in_features = self._frozen.out_features, self._frozen.in_features
        self.quantization_backend = self._frozen.backend  # the attribute that peft reads
        self._before_merge: Snapshot | None = None  # None while nothing is merged

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """ΔW of the whole module without dropout, in the layout of its own weight."""
        raise NotImplementedError

    def delta_bias(self, adapter_name: str) -> Tensor | None:
        """Δb over all rows of the module, or None if the adapter does not change the bias."""
        raise NotImplementedError

    @property
    def frozen(self) -> FrozenWeight:
        """The base module's weight and bias as currently stored."""
        base = self.get_base_layer()
        if self._frozen.module is not base:  # the module was replaced, or this layer is a replica of nn.DataParallel
            self._frozen = FrozenWeight(base)
        return self._frozen

    def frozen_weight(self) -> Tensor:
        """W0 (o, i) as pretrained, also while adapters are merged; dequantised if it is stored packed."""
        frozen = self.frozen
        if self._before_merge is None:
            return frozen.weight
        if frozen.backend is not None:
            raise MergeError("merge: a quantised base can hold only one merged adapter; unmerge it first")
        return frozen.in_rows(self._before_merge.weight)

    def frozen_bias(self) -> Tensor | None:
        """b0 (o,) as pretrained, also while adapters are merged, or None."""
        return self.frozen.bias if self._before_merge is None else self._before_merge.bias

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold updates into the base weight. The exact W0 and b0 are kept, so that :meth:`unmerge` restores them.

        Raises:
            MergeError: the base weight cannot be written, or another adapter method is between it and this layer.
            ValueError: the merged weight is not finite (with ``safe_merge``); nothing is changed then.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.attachments:
                self._merge_one(name, safe_merge)

    @torch.inference_mode(False)  # a weight created in inference mode could not be trained after unmerging
    @torch.no_grad()
    def _merge_one(self, name: str, safe_merge: bool) -> None:
        frozen = self.frozen
        self._check_merge(frozen)
        weight: Tensor | None = None
        if frozen.has_weight and self.attachments[name].method.overrides("delta_weight"):
            current: Any = self.frozen_weight() if frozen.backend is not None else frozen.stored.data
            precise = torch.promote_types(current.dtype, torch.float32)
            weight = (current.to(precise) + self.get_delta_weight(name)).to(current.dtype)
        update, b = self.delta_bias(name), frozen.bias
        if update is not None and not frozen.can_have_bias:
            raise MergeError(f"merge: a {type(frozen.module).__name__} has no place for the bias that {name!r} adds")
        bias: Tensor | None = None
        if update is not None:
            bias = update.clone() if b is None else (b + update).to(b.dtype)
        if safe_merge and any(t is not None and not torch.isfinite(t).all() for t in (weight, bias)):
            raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
        if self._before_merge is None:
            self._before_merge = frozen.snapshot()
        frozen.write(weight, bias, self)
        self.merged_adapters.append(name)

    def _check_merge(self, frozen: FrozenWeight) -> None:
        if frozen.backend is not None and not frozen.backend.supports_merge:
            raise MergeError(
                f"merge: a base weight quantised by {frozen.backend.backend_name} cannot be merged into; "
                "load the base model unquantised"
            )
        if self.base_layer is not frozen.module:
            raise MergeError(
                f"merge: the module that {self.prefix.rstrip('_')} adapts is itself adapted by "
                f"{type(self.base_layer).__name__}; merge and unload that adapter first, then add this one"
            )

    def unmerge(self) -> None:
        """Restore the exact W0 and b0."""
        if self._before_merge is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.frozen.restore(self._before_merge)
        self._before_merge = None
        self.merged_adapters.clear()
