"""A linear weight with the updates of any number of adapters beside it.

:class:`WeightLayer` serves every :class:`~genft.api.method.WeightMethod`: it keeps the tensors and computes the
forward pass in the form that the plan chooses. It never looks into a method's mathematics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn

from genft.api.method import Method, Site, WeightMethod
from genft.bridge import fingerprint
from genft.bridge.layer import entry, own_key
from genft.bridge.targets import computes_plainly, features, is_meta, weight_kind
from genft.bridge.weight.derived_tensors import DerivedTensors
from genft.bridge.weight.evaluation import UpdateCache
from genft.bridge.weight.mask_seeds import ForwardPass, MaskSeeds
from genft.bridge.weight.merging import MergingLayer
from genft.bridge.weight.row_slices import add_columns, add_rows, call_with, channel_view, place_rows
from genft.errors import GenFTError
from genft.ops import plan
from genft.ops.generator import no_autocast
from genft.ops.lowrank import low_rank_linear


@dataclass
class Update:
    """What the active adapters add to one weight, ready for products with tokens.

    Attributes:
        form: the form of the product.
        bias: b0 + Δb (o,), or None.
        weight: W0 + ΔW in the form "weight".
        thin: (L, R) by site in the forms "factored" and "materialised".
        full: ΔW by site in the form "beside".
    """

    form: plan.Form
    bias: Tensor | None
    weight: Tensor | None = None
    thin: list[tuple[Site, Tensor, Tensor]] = field(default_factory=list)
    full: list[tuple[Site, Tensor]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        tensors = [t for _, left, right in self.thin for t in (left, right)] + [d for _, d in self.full]
        return sum(t.nbytes for t in tensors) + (0 if self.weight is None else self.weight.nbytes)


class WeightLayer(MergingLayer):
    """A linear weight W0 (whole or by row slices), or a bias, plus the ΔW and Δb of its adapters."""

    def __init__(
        self,
        base_layer: nn.Module,
        prefix: str,
        shared: nn.ModuleDict | None,
        forward_pass: ForwardPass,
        update_cache: UpdateCache,
    ) -> None:
        super().__init__(base_layer, prefix, shared)
        pretrained = self.get_base_layer()
        self.kind = weight_kind(pretrained)
        self.out_features, self.in_features = features(pretrained)
        self.quantization_backend = resolve_quantization_backend(pretrained)
        self.derived_name = f"{prefix}constants"  # the name in saved files
        setattr(self, self.derived_name, nn.ModuleDict())
        self.other_param_names = ("attachments", self.derived_name)
        self.mask_seeds = MaskSeeds(forward_pass)
        self.update_cache = update_cache

    def attach(self, adapter_name: str, method: Method, sites: list[Site]) -> None:
        super().attach(adapter_name, method, sites)
        self.derive(adapter_name)

    def derive(self, adapter_name: str) -> None:
        """Ask the adapter's method for the tensors that it derives from W0."""
        method = self.attachments[adapter_name].method
        assert isinstance(method, WeightMethod)
        derived = DerivedTensors(saved=method.saves_derived)
        if self.kind is not None:
            w0 = self.frozen_weight()
            for site in self.attachments[adapter_name].sites:
                for name, value in method.derive(site, w0[site.start : site.stop]).items():
                    derived.tensors[own_key(site, name)] = value
        getattr(self, self.derived_name)[adapter_name] = derived

    def factors(self, adapter_name: str, site: Site) -> dict[str, Tensor]:
        found = super().factors(adapter_name, site)
        derived: DerivedTensors = getattr(self, self.derived_name)[adapter_name]
        prefix = own_key(site, "")
        for key, value in derived.tensors.items():
            if key.startswith(prefix):
                found[key.removeprefix(prefix)] = value
        return found

    def sketches(self, adapter_name: str, path: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Site → what its method sketches of ΔW, with the values that ``state_dict`` has for this layer at ``path``."""
        found: dict[str, Tensor] = {}
        method = self.attachments[adapter_name].method
        assert isinstance(method, WeightMethod)
        for site in self.attachments[adapter_name].sites:
            if site.in_features == 0:
                continue
            values = self.factors(adapter_name, site)
            for name in values:
                for kind in (self.factors_name, self.derived_name):
                    key = f"{path}.{kind}.{adapter_name}.{own_key(site, name)}"
                    values[name] = state_dict.get(key, values[name])
            left, right = fingerprint.signs(site.out_features, 0), fingerprint.signs(site.in_features, 1)
            sketch = method.sketch(partial(self._rows, site), values, left, right)
            if sketch is not None:
                found[str(site)] = sketch
        return found

    def _rows(self, site: Site) -> Tensor:
        return self.frozen_weight()[site.start : site.stop]

    # ---------------------------------------------------------------- updates

    def delta(self, adapter_name: str, site: Site, w0: Tensor, seed: int | Tensor | None = None) -> Tensor | None:
        """ΔW (o, i) of one site, in the dtype of the factors (float32 unless the user asked for less)."""
        method = self.attachments[adapter_name].method
        assert isinstance(method, WeightMethod)
        factors = self.factors(adapter_name, site)
        with no_autocast(w0.device):
            return method.delta_weight(w0[site.start : site.stop], factors, dropout_seed=seed)

    def delta_bias(self, adapter_name: str) -> Tensor | None:
        """Δb over all rows of the module, or None where the adapter leaves the bias alone."""
        attachment = self.attachments[adapter_name]
        if not self._method(adapter_name).overrides("delta_bias"):
            return None
        b0 = self.frozen_bias()
        pieces: list[tuple[Site, Tensor]] = []
        for site in attachment.sites:
            assert isinstance(attachment.method, WeightMethod)
            rows = None if b0 is None else b0[site.start : site.stop]
            update = attachment.method.delta_bias(rows, self.factors(adapter_name, site))
            if update is not None:
                pieces.append((site, update))
        return place_rows(pieces, self.out_features) if pieces else None

    def _bias_updates(self, names: list[str]) -> list[Tensor]:
        found = []
        for name in names:
            update = self.delta_bias(name)
            if update is not None:
                found.append(update)
        return found

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """ΔW of the whole module without dropout, in the layout of its own weight (peft's conversions call this)."""
        if self.kind is None:
            raise GenFTError(f"{type(self.base_layer).__name__}: a module without a linear weight has no ΔW")
        w0 = self.frozen_weight()
        pieces = [
            (site, d)
            for site in self.attachments[adapter_name].sites
            if (d := self.delta(adapter_name, site, w0)) is not None
        ]
        full = place_rows(pieces, self.out_features) if pieces else torch.zeros_like(w0)
        return full.T if self.kind.transposed else full

    # ---------------------------------------------------------------- forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(*args, **kwargs)
        names = [] if self.merged else self.active_attachments()
        if not names:
            return self.base_layer(*args, **kwargs)
        x, base = args[0], self.get_base_layer()
        if self.kind is None:
            return self._add_biases(self.base_layer(*args, **kwargs), names)
        if is_meta(base) and not x.is_meta:
            raise GenFTError(
                "base model: an adapted weight is offloaded (on the meta device), and ΔW is generated from it; "
                "keep adapted weights in memory, with another device_map for example"
            )
        attention = isinstance(base, nn.MultiheadAttention)  # it is called with W0 + ΔW, whatever the precision
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in base.parameters(recurse=False))
        if trained and attention:
            raise GenFTError(
                "base model: an adapted nn.MultiheadAttention is called with W0 + ΔW in place of its weight, so its "
                "weight and bias cannot be trained as well; freeze them with requires_grad_(False)"
            )
        exact = attention or (not trained and self._sum_is_exact(x))
        if (update := self._kept_update(names, x, exact)) is None:
            own = not attention and not trained
            if own and (y := self._own_form(names, exact, *args, **kwargs)) is not None:
                return y
            update = self._update(names, x, exact, "materialised" if attention else self._wanted(names))
        if attention:
            return self._call_attention(update, *args, **kwargs)
        if exact:
            return self._product(x, update)
        # in the precision of the base module, and so that a base that is trained as well gets its gradient
        y = self._add_biases(self.base_layer(*args, **kwargs), names)
        products = [(site, F.linear(x, d.to(x.dtype))) for site, d in update.full]
        for site, left, right in update.thin:
            products.append((site, F.linear(F.linear(self._cast_input_dtype(x, right.dtype), right.T), left)))
        return add_columns(y, products)

    def _sum_is_exact(self, x: Tensor) -> bool:
        """Whether one matmul on W0 + ΔW may stand for the base module: not where the sum would round ΔW away (half
        precision), and not where the base computes something else (quantised, subclassed, hooked)."""
        base = self.get_base_layer()
        if self.quantization_backend is not None or torch.is_autocast_enabled(x.device.type):
            return False
        dtype = base.weight.dtype
        return dtype in (torch.float32, torch.float64) and x.dtype == dtype and computes_plainly(base)

    def _wanted(self, names: list[str]) -> str:
        """The plan that an active adapter asks for."""
        for name in names:
            if (asked := self._method(name).plan) != "auto":
                return asked
        return "auto"

    def _method(self, name: str) -> WeightMethod:
        method = self.attachments[name].method
        assert isinstance(method, WeightMethod)
        return method

    def _shape(self, sites: list[Site], x: Tensor, exact: bool, rank: int | None) -> plan.Shape:
        return plan.Shape(
            o=sum(site.out_features for site in sites),
            i=self.in_features,
            tokens=x.numel() // x.shape[-1],
            rank=rank,
            training=torch.is_grad_enabled(),
            exact_sum=exact,
            device=x.device.type,
            itemsize=x.element_size(),
        )

    def _own_form(self, names: list[str], exact: bool, x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        """The layer in the method's own form, where it has one and is alone with all rows of the weight."""
        alone = [(name, site) for name in names for site in self.attachments[name].sites]
        if len(alone) != 1 or alone[0][1].out_features != self.out_features:
            return None
        if not self._method(alone[0][0]).overrides("linear"):
            return None
        if self.quantization_backend is None and not computes_plainly(self.get_base_layer()):
            return None
        (name, site), bias = alone[0], self._bias(names)

        def base(x: Tensor, delta: Tensor | None = None) -> Tensor:
            if exact:
                w0 = self.frozen_weight()
                return F.linear(x, w0 if delta is None else w0 + delta, bias)
            return self._add_biases(self.base_layer(x, *args, **kwargs), names)

        shape = self._shape([site], x, exact, None)
        return self._method(name).linear(x, base, bias, self.factors(name, site), shape)

    def _update(self, names: list[str], x: Tensor, exact: bool, wanted: str) -> Update:
        """The update in the cheapest form of those that are ``wanted``."""
        update, w0 = Update("beside", self._bias(names)), self.frozen_weight()
        sites = []
        for name in names:
            method = self._method(name)
            drops = self.training and method.entry_dropout > 0
            for site in self.attachments[name].sites:
                rows, factors = w0[site.start : site.stop], self.factors(name, site)
                with no_autocast(w0.device):
                    pair = None if drops else method.low_rank(rows, factors)
                if pair is not None:
                    update.thin.append((site, *pair))
                else:
                    seed = self.mask_seeds.next(name, site) if drops else None
                    if (d := self.delta(name, site, w0, seed)) is None:
                        continue
                    update.full.append((site, d))
                sites.append(site)
        if not sites:  # a bias alone
            return update
        rank = None if update.full else max(left.shape[1] for _, left, _ in update.thin)
        update.form = plan.choose(self._shape(sites, x, exact, rank), wanted)
        if update.form == "weight":
            update.weight, update.thin, update.full = self._sum(w0, update), [], []
        elif update.form == "beside":
            with no_autocast(w0.device):
                update.full += [(site, left @ right.T) for site, left, right in update.thin]
            update.thin = []
        return update

    def _sum(self, w0: Tensor, update: Update) -> Tensor:
        """W0 + ΔW in the dtype of W0."""
        if not update.full and len(update.thin) == 1 and update.thin[0][0].out_features == len(w0):
            _, left, right = update.thin[0]
            if left.dtype == w0.dtype:
                return torch.addmm(w0, left, right.T)
        pieces = update.full + [(site, left @ right.T) for site, left, right in update.thin]
        return add_rows(w0, pieces).to(w0.dtype) if pieces else w0

    def _product(self, x: Tensor, update: Update) -> Tensor:
        """(W0 + ΔW) x + b0 + Δb where the sum is exact."""
        bias = None if update.bias is None else update.bias.to(x.dtype)
        if update.weight is not None:
            return F.linear(x, update.weight, bias)
        w0 = self.frozen_weight()
        if not update.thin:
            return add_columns(F.linear(x, w0, bias), [(site, F.linear(x, d.to(x.dtype))) for site, d in update.full])
        rows = [(site.start, site.stop) for site, _, _ in update.thin]
        return low_rank_linear(x, w0, bias, rows, [(left, right) for _, left, right in update.thin], form=update.form)

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

    def _call_attention(self, update: Update, *args: Any, **kwargs: Any) -> Any:
        """The base module called with W0 + ΔW and b0 + Δb in place of its own."""
        assert self.kind is not None
        w0 = self.frozen_weight()
        weight = self._sum(w0, update) if update.weight is None else update.weight
        replaced = {self.kind.weight: weight.T if self.kind.transposed else weight}
        if update.bias is not None:
            replaced[self.kind.bias] = update.bias.to(w0.dtype)
        return call_with(self.get_base_layer(), replaced, *args, **kwargs)

    # ---------------------------------------------------------------- evaluation

    def _kept_update(self, names: list[str], x: Tensor, exact: bool) -> Update | None:
        """The update of an earlier pass, or one that will be kept for the next; None where none may be kept."""
        if self.training or torch.compiler.is_compiling() or not self.update_cache.limit:
            return None
        trained, frozen, derived = self._sources(names)
        if any(type(t) not in (Tensor, nn.Parameter) for t in trained):
            return None
        if any(t.is_inference() for t in (*trained, *frozen)):
            return None
        if torch.is_grad_enabled() and any(t.requires_grad for t in (*trained, *frozen)):
            return None
        key = (*names, exact, x.dtype, x.device, *map(id, (*trained, *frozen, *derived)))
        update = self.update_cache.get(self, key, x.numel() // x.shape[-1])
        if update is None:
            # what is made in inference mode could not meet a gradient later
            with torch.inference_mode(False), torch.no_grad():
                update, keep = self._update_to_keep(names, x, exact)
            if keep:
                self.update_cache.keep(self, key, update, trained, frozen, derived)
        return update

    def _sources(self, names: list[str]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """What the active updates are made from: trained tensors, W0 and b0 as stored, and derived tensors."""
        base, (shared,) = self.get_base_layer(), self._shared
        assert self.kind is not None
        weight, bias = getattr(base, self.kind.weight), getattr(base, self.kind.bias, None)
        trained: list[Tensor] = []
        derived: list[Tensor] = []
        for name in names:
            trained += entry(self.own_factors, name).values()
            if shared is not None and name in shared:
                container = entry(shared, name)
                trained += [container[key] for key in self.attachments[name].shared_names]
            derived += getattr(self, self.derived_name)[name].tensors.values()
        return trained, [weight] if bias is None else [weight, bias], derived

    def _update_to_keep(self, names: list[str], x: Tensor, exact: bool) -> tuple[Update, bool]:
        """W0 + ΔW where the sum is exact and there is room, else what costs least memory; and whether to keep it."""
        cache, wanted = self.update_cache, self._wanted(names)
        dense = self.out_features * self.in_features * x.element_size()
        if exact and wanted in ("auto", "materialised") and cache.fits(self, dense):
            update = self._update(names, x, exact, "materialised")
            if update.thin or update.full:
                update = Update("weight", update.bias, self._sum(self.frozen_weight(), update))
            return update, True
        update = self._update(names, x, exact, "factored" if wanted == "auto" else wanted)
        if wanted == "auto" and update.thin and update.nbytes > dense:
            update = self._update(names, x, exact, "beside")
        update.full = [(site, d.to(x.dtype)) for site, d in update.full]
        return update, cache.fits(self, update.nbytes, warn=True)

    def train(self, mode: bool = True) -> WeightLayer:
        if mode:
            self.update_cache.drop(self)
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> WeightLayer:
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

    # ---------------------------------------------------------------- conversion

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether the update is additive on a linear weight, and nothing else (a LoRA adapter has no bias)."""
        if self.kind is None or adapter_name not in self.attachments:
            return False
        return self.delta_bias(adapter_name) is None
