"""Folding updates into the base weight, and putting the exact weight back."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from genft.bridge.layer import AdapterLayer
from genft.bridge.targets import WeightKind, read_bias, read_weight
from genft.errors import MergeError
from genft.models import quantised


class MergingLayer(AdapterLayer):
    """An adapted weight W0 with bias b0 whose updates can be merged; the exact W0 and b0 stay readable meanwhile."""

    kind: WeightKind | None
    quantization_backend: Any

    def __init__(self, base_layer: nn.Module, prefix: str, shared: nn.ModuleDict | None) -> None:
        super().__init__(base_layer, prefix, shared)
        # W0 and b0 as they were before the first merge; None while nothing is merged
        self._before_merge: tuple[Any, Tensor | None] | None = None

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """ΔW of the whole module without dropout, in the layout of its own weight."""
        raise NotImplementedError

    def delta_bias(self, adapter_name: str) -> Tensor | None:
        """Δb over all rows of the module, or None where the adapter leaves the bias alone."""
        raise NotImplementedError

    def frozen_weight(self) -> Tensor:
        """W0 (o, i) as pretrained, also while adapters are merged; dequantised where it is stored packed."""
        assert self.kind is not None
        if self.quantization_backend is not None:
            if self._before_merge is not None:
                raise MergeError("merge: a quantised base holds one merged adapter at a time; unmerge it first")
            return quantised.dequantised(self.get_base_layer(), self.quantization_backend)
        if self._before_merge is not None:
            weight = self._before_merge[0]
            return weight.T if self.kind.transposed else weight
        return read_weight(self.get_base_layer(), self.kind)

    def frozen_bias(self) -> Tensor | None:
        if self._before_merge is not None:
            return self._before_merge[1]
        return read_bias(self.get_base_layer(), self.kind)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold updates into the base weight. The exact W0 and b0 are kept, so that :meth:`unmerge` restores them.

        Raises:
            ValueError: with ``safe_merge``, when the merged weight is not finite; nothing is changed then.
        """
        names = check_adapters_to_merge(self, adapter_names)
        for name in names:
            if name in self.attachments:
                self._merge_one(name, safe_merge)

    @torch.inference_mode(False)  # a weight made in inference mode could not be trained on after an unmerge
    @torch.no_grad()
    def _merge_one(self, name: str, safe_merge: bool) -> None:
        module = self.get_base_layer()
        if self.quantization_backend is not None and not self.quantization_backend.supports_merge:
            raise MergeError(
                f"merge: a base weight quantised by {self.quantization_backend.backend_name} cannot be merged into; "
                "load the base model unquantised"
            )
        weight = None
        if self.kind is not None:
            current = self.frozen_weight() if self.quantization_backend else getattr(module, self.kind.weight).data
            weight = (current.to(torch.promote_types(current.dtype, torch.float32)) + self.get_delta_weight(name)).to(
                current.dtype
            )
        update, current_bias = self.delta_bias(name), read_bias(module, self.kind)
        bias = None
        if update is not None:
            bias = update.clone() if current_bias is None else (current_bias + update).to(current_bias.dtype)
        if safe_merge and any(t is not None and not torch.isfinite(t).all() for t in (weight, bias)):
            raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
        if self._before_merge is None:
            self._before_merge = (
                self._stored_weight(),
                None if current_bias is None else current_bias.clone(),
            )
        if weight is not None:
            self._store_weight(weight)
        if bias is not None:
            self._store_bias(bias)
        self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Put the exact W0 and b0 back."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        assert self._before_merge is not None
        weight, bias = self._before_merge
        if self.kind is not None:
            if self.quantization_backend is not None:
                quantised.restore(self.get_base_layer(), weight)
            else:
                target = getattr(self.get_base_layer(), self.kind.weight)
                target.data = weight.to(target.device, target.dtype)
        self._store_bias(bias)
        self._before_merge = None
        self.merged_adapters.clear()

    def _stored_weight(self) -> Any:
        """What has to be put back to undo a merge."""
        if self.kind is None:
            return None
        if self.quantization_backend is not None:
            return quantised.snapshot(self.get_base_layer())
        return getattr(self.get_base_layer(), self.kind.weight).data.clone()

    def _store_weight(self, weight: Tensor) -> None:
        if self.quantization_backend is not None:
            self.quantization_backend.set_base_weight(self, weight)
        else:
            assert self.kind is not None
            getattr(self.get_base_layer(), self.kind.weight).data = weight

    def _store_bias(self, bias: Tensor | None) -> None:
        module, name = self.get_base_layer(), self.kind.bias if self.kind else "bias"
        current = getattr(module, name, None)
        if bias is None:
            if current is not None:
                setattr(module, name, None)
        elif current is None:
            setattr(module, name, nn.Parameter(bias, requires_grad=False))
        else:
            current.data = bias.to(current.device, current.dtype)
