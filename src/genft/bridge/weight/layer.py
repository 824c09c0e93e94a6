"""A linear weight with the updates of any number of adapters.

:class:`WeightLayer` works with every :class:`~genft.api.method.WeightMethod`: it stores the tensors and computes the
forward pass in the form that the plan chooses. It does not depend on a method's mathematics.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genft.api.method import Site, WeightMethod
from genft.bridge import together
from genft.bridge.adapter import Adapter
from genft.bridge.layer import own_key
from genft.bridge.root import Root
from genft.bridge.weight.derived_tensors import DerivedTensors
from genft.bridge.weight.evaluation import EvaluatingLayer
from genft.bridge.weight.forms import Update, exact_product, planned, products, shape_of, sum_is_exact, summed
from genft.bridge.weight.mask_seeds import MaskSeeds
from genft.bridge.weight.row_slices import add_columns, call_with, channel_view, place_rows
from genft.errors import GenFTError
from genft.models.weights import FrozenWeight
from genft.ops.entries import no_autocast


class WeightLayer(EvaluatingLayer):
    """A linear weight W0 (whole or by row slices), or a bias, plus the ΔW and Δb of its adapters."""

    def __init__(self, base_layer: nn.Module, prefix: str, root: Root) -> None:
        super().__init__(base_layer, prefix, root.update_cache)
        # the name is part of the keys of saved adapters
        self.derived_name = f"{prefix}constants"
        setattr(self, self.derived_name, nn.ModuleDict())
        self.other_param_names = ("attachments", self.derived_name)
        self.mask_seeds = MaskSeeds(root.forward_pass)

    def attach(self, adapter: Adapter[WeightMethod], sites: list[Site]) -> None:
        super().attach(adapter, sites)
        self.derive(adapter.name)

    def derive(self, adapter_name: str) -> None:
        """Let the adapter's method derive its tensors from W0."""
        attachment = self.attachments[adapter_name]
        derived = DerivedTensors(saved=attachment.method.saves_derived)
        if self.frozen.is_linear:
            w0 = self.frozen_weight()
            for site in attachment.sites:
                for name, value in attachment.method.derive(site, w0[site.start : site.stop]).items():
                    derived.tensors[own_key(site, name)] = value
            derived.derived_from(self.frozen.stored)
        getattr(self, self.derived_name)[adapter_name] = derived

    def derived_tensors(self, adapter_name: str) -> dict[str, Tensor]:
        """The tensors that the adapter's method derived from W0, by their names in this module; derived again if W0 has
        changed.

        They do not follow a base weight that is trained too and so changes in every step, unless deriving is cheap.
        """
        derived: DerivedTensors = getattr(self, self.derived_name)[adapter_name]
        follows = self.attachments[adapter_name].method.derives_every_step or not self.frozen.trained
        if not derived.tensors or not follows or self.merged:
            return derived.tensors
        if derived.are_outdated(self.frozen.stored, self.update_cache.forward_pass):
            with torch.no_grad():
                self.derive(adapter_name)
            derived = getattr(self, self.derived_name)[adapter_name]
        return derived.tensors

    def _apply(self, *args: Any, **kwargs: Any) -> WeightLayer:
        for name in self.attachments:  # afterwards, a change of W0 could not be distinguished from its move
            self.derived_tensors(name)
        super()._apply(*args, **kwargs)
        return self

    def factors(self, adapter_name: str, site: Site) -> dict[str, Tensor]:
        """The trained tensors of one site and those that its method derived from W0, by symbol."""
        tensors = super().factors(adapter_name, site)
        prefix = own_key(site, "")
        for key, value in self.derived_tensors(adapter_name).items():
            if key.startswith(prefix):
                tensors[key.removeprefix(prefix)] = value
        return tensors

    # ---------------------------------------------------------------- updates

    def delta(self, adapter_name: str, site: Site, w0: Tensor, seed: int | Tensor | None = None) -> Tensor | None:
        """ΔW (o, i) of one site, in the dtype of the factors (float32 unless the user chose a lower precision)."""
        factors = self.factors(adapter_name, site)
        with no_autocast(w0.device):
            method = self.attachments[adapter_name].method
            return method.delta_weight(w0[site.start : site.stop], factors, dropout_seed=seed)

    def delta_bias(self, adapter_name: str) -> Tensor | None:
        """Δb over all rows of the module, or None if the adapter does not change the bias."""
        attachment = self.attachments[adapter_name]
        if not attachment.method.overrides("delta_bias"):
            return None
        b0 = self.frozen_bias()
        pieces: list[tuple[Site, Tensor]] = []
        for site in attachment.sites:
            rows = None if b0 is None else b0[site.start : site.stop]
            update = attachment.method.delta_bias(rows, self.factors(adapter_name, site))
            if update is not None:
                pieces.append((site, update))
        return place_rows(pieces, self.out_features) if pieces else None

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """ΔW of the whole module without dropout, in the layout of its own weight (peft's conversions call this)."""
        method = self.attachments[adapter_name].method
        if not self.frozen.is_linear and not (self.frozen.has_weight and method.overrides("delta_weight")):
            raise GenFTError(f"{type(self.get_base_layer()).__name__}: a module without a linear weight has no ΔW")
        w0 = self.frozen_weight()
        pieces = []
        for site in self.attachments[adapter_name].sites:
            if (delta := self.delta(adapter_name, site, w0)) is not None:
                pieces.append((site, delta))  # noqa: PERF401 - torch.compile cannot read a comprehension's cells
        full = place_rows(pieces, self.out_features) if pieces else torch.zeros_like(w0)
        return self.frozen.in_own_layout(full)

    def _bias_updates(self, names: list[str]) -> list[Tensor]:
        return [update for name in names if (update := self.delta_bias(name)) is not None]

    def _bias(self, names: list[str]) -> Tensor | None:
        """b0 + Δb."""
        bias = self.frozen_bias()
        for update in self._bias_updates(names):
            bias = update if bias is None else bias + update
        return bias

    def _add_biases(self, y: Tensor, names: list[str]) -> Tensor:
        for update in self._bias_updates(names):
            y = y + channel_view(update, self.get_base_layer(), y).to(y.dtype)
        return y

    def _update(self, names: list[str], x: Tensor, exact: bool, wanted: str) -> Update:
        """The update in the cheapest form that ``wanted`` allows."""
        update, w0 = Update("beside", self._bias(names)), self.frozen_weight()
        for name in names:
            method = self.attachments[name].method
            drops = self.training and method.entry_dropout > 0
            for site in self.attachments[name].sites:
                pair = None if drops else self._thin_factors(name, site, w0)
                if pair is not None:
                    update.thin.append((site, *pair))
                    continue
                seed = self.mask_seeds.next(name, site) if drops else None
                if (delta := self.delta(name, site, w0, seed)) is not None:
                    update.full.append((site, delta))
        return planned(update, w0, x, exact, wanted)

    def _thin_factors(self, adapter_name: str, site: Site, w0: Tensor) -> tuple[Tensor, Tensor] | None:
        """(L, R) with ΔW = L Rᵀ, or None if ΔW is not low-rank by construction."""
        method, factors = self.attachments[adapter_name].method, self.factors(adapter_name, site)
        if method.overrides("low_rank_together"):
            pair = together.record(self.update_cache.forward_pass, self, adapter_name, site, factors)
            if pair is not None:
                return pair
        with no_autocast(w0.device):
            return method.low_rank(w0[site.start : site.stop], factors)

    # ---------------------------------------------------------------- forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if args and (product := self._held_product(args[0])) is not None:
            return product
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(*args, **kwargs)
        names = [] if self.merged else self.active_attachments()
        if not names:
            return self.base_layer(*args, **kwargs)
        frozen = self.frozen
        if not frozen.is_linear:
            return self._call_by_channels(frozen, names, *args, **kwargs)
        if isinstance(frozen.module, nn.MultiheadAttention):
            return self._call_attention(frozen, names, *args, **kwargs)
        x = args[0]
        self._check_values(frozen, x)
        trained = torch.is_grad_enabled() and frozen.trained
        bare = self.base_layer is frozen.module
        exact = bare and not trained and sum_is_exact(frozen, x)
        if (update := self._kept_update(frozen, names, x, exact)) is None:
            if bare and not trained and (y := self._own_form(frozen, names, exact, *args, **kwargs)) is not None:
                return y
            update = self._update(names, x, exact, self._wanted(names))
        if exact:
            self._hold_product(x, update)
            return exact_product(x, self.frozen_weight(), update)
        # in the precision of the base module, and so that a base that is trained too gets its gradient
        y = self._add_biases(self.base_layer(*args, **kwargs), names)
        return add_columns(y, products(x, update, self._cast_input_dtype))

    def _check_values(self, frozen: FrozenWeight, x: Tensor) -> None:
        if frozen.is_meta and not x.is_meta:
            raise GenFTError(
                "base model: an adapted weight is offloaded (on the meta device), but ΔW is generated from it; "
                "keep adapted weights in memory, for example with another device_map"
            )

    def _own_form(
        self, frozen: FrozenWeight, names: list[str], exact: bool, x: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor | None:
        """The output in the method's own form, if it has one and is the only adapter, on all rows of the weight."""
        if len(names) != 1 or len(self.attachments[names[0]].sites) != 1 or frozen.trained:
            return None  # derived tensors do not follow a base that is trained
        name = names[0]
        method, (site,) = self.attachments[name].method, self.attachments[name].sites
        if site.out_features != self.out_features or not method.overrides("linear"):
            return None
        if frozen.backend is None and not frozen.plain:
            return None
        factors, b0 = self.factors(name, site), self.frozen_bias()
        update = method.delta_bias(b0, factors)
        bias = b0 if update is None else update if b0 is None else b0 + update

        def base(x: Tensor, delta: Tensor | None = None) -> Tensor:
            if exact:
                w0 = self.frozen_weight()
                return torch.nn.functional.linear(x, w0 if delta is None else w0 + delta, bias)
            return self._add_biases(self.base_layer(x, *args, **kwargs), names)

        return method.linear(x, base, bias, factors, shape_of([site], x, exact, None))

    def _call_attention(self, frozen: FrozenWeight, names: list[str], *args: Any, **kwargs: Any) -> Any:
        """Call nn.MultiheadAttention with W0 + ΔW and b0 + Δb in place of its own tensors, whatever the precision."""
        self._check_values(frozen, args[0])
        if torch.is_grad_enabled() and frozen.trained:
            raise GenFTError(
                "base model: an adapted nn.MultiheadAttention is called with W0 + ΔW in place of its weight, so its "
                "weight and bias cannot be trained as well; freeze them with requires_grad_(False)"
            )
        if (update := self._kept_update(frozen, names, args[0], True)) is None:
            update = self._update(names, args[0], True, "materialised")
        w0 = self.frozen_weight()
        bias = None if update.bias is None else update.bias.to(w0.dtype)
        return call_with(frozen.module, frozen.replacements(summed(w0, update), bias), *args, **kwargs)

    def _call_by_channels(self, frozen: FrozenWeight, names: list[str], *args: Any, **kwargs: Any) -> Any:
        """A normalisation or a convolution. Its output is linear in its weight and bias, so the same module with ΔW and
        no bias computes what ΔW adds, whatever another adapter makes of the base."""
        y = self._add_biases(self.base_layer(*args, **kwargs), names)
        for name in names:
            if self.attachments[name].method.overrides("delta_weight"):
                delta = self.get_delta_weight(name).to(frozen.stored.dtype)
                no_bias = None if frozen.stored_bias is None else torch.zeros_like(frozen.stored_bias)
                tensors = frozen.replacements(frozen.in_rows(delta), no_bias)
                y = y + call_with(frozen.module, tensors, *args, **kwargs)
        return y

    # ---------------------------------------------------------------- conversion

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether the update is only additive on a linear weight (a LoRA adapter has no bias)."""
        if not self.frozen.is_linear or adapter_name not in self.attachments:
            return False
        return self.delta_bias(adapter_name) is None
