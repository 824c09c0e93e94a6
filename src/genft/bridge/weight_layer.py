"""A linear weight with the updates of any number of adapters beside it.

:class:`WeightLayer` serves every :class:`~genft.methods.base.WeightMethod`: it keeps the tensors, chooses the form
of the forward pass, merges and unmerges. It never looks into a method's mathematics.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn

from genft.bridge import fingerprint, quantised
from genft.bridge.layer import AdapterLayer, own_key
from genft.bridge.passes import ForwardPass, MaskSeeds
from genft.bridge.rows import add_columns, add_rows, call_with, channel_view, place_rows
from genft.bridge.targets import computes_plainly, features, is_meta, read_bias, read_weight, weight_kind
from genft.errors import GenFTError, MergeError
from genft.methods.base import Method, Site, WeightMethod
from genft.ops import plan


class Constants(nn.Module):
    """Frozen tensors by name that move with the model. They are not buffers, because DDP would broadcast those in
    every forward pass.

    Args:
        saved: whether they are part of the state dict.
    """

    def __init__(self, saved: bool) -> None:
        super().__init__()
        self.saved = saved
        self.tensors: dict[str, Tensor] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Constants:
        # what is on the meta device has no values to move; it is derived anew when W0 has some
        self.tensors = {name: t if t.is_meta else fn(t) for name, t in self.tensors.items()}
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self.saved:
            destination.update({prefix + name: tensor for name, tensor in self.tensors.items()})

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name, tensor in self.tensors.items():
            if prefix + name in state_dict:
                self.tensors[name] = state_dict[prefix + name].to(tensor)


class WeightLayer(AdapterLayer):
    """A linear weight W0 (whole or by row slices), or a bias, plus the ΔW and Δb of its adapters."""

    def __init__(
        self, base_layer: nn.Module, prefix: str, shared: nn.ModuleDict | None, forward_pass: ForwardPass
    ) -> None:
        super().__init__(base_layer, prefix, shared)
        pretrained = self.get_base_layer()
        self.kind = weight_kind(pretrained)
        self.out_features, self.in_features = features(pretrained)
        self.quantization_backend = resolve_quantization_backend(pretrained)
        self.constants_name = f"{prefix}constants"
        setattr(self, self.constants_name, nn.ModuleDict())
        self.other_param_names = ("attachments", self.constants_name)
        self.mask_seeds = MaskSeeds(forward_pass)
        # W0 and b0 as they were before the first merge; None while nothing is merged
        self._before_merge: tuple[Any, Tensor | None] | None = None

    def attach(self, adapter_name: str, method: Method, sites: list[Site]) -> None:
        super().attach(adapter_name, method, sites)
        self.derive_constants(adapter_name)

    def derive_constants(self, adapter_name: str) -> None:
        """Ask the adapter's method for the tensors that it derives from W0."""
        method = self.attachments[adapter_name].method
        assert isinstance(method, WeightMethod)
        constants = Constants(saved=method.saves_constants)
        if self.kind is not None:
            w0 = self.frozen_weight()
            for site in self.attachments[adapter_name].sites:
                for name, value in method.constants(site, w0[site.start : site.stop]).items():
                    constants.tensors[own_key(site, name)] = value
        getattr(self, self.constants_name)[adapter_name] = constants

    def factors(self, adapter_name: str, site: Site) -> dict[str, Tensor]:
        found = super().factors(adapter_name, site)
        constants: Constants = getattr(self, self.constants_name)[adapter_name]
        prefix = own_key(site, "")
        for key, value in constants.tensors.items():
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
                for kind in (self.factors_name, self.constants_name):
                    key = f"{path}.{kind}.{adapter_name}.{own_key(site, name)}"
                    values[name] = state_dict.get(key, values[name])
            left, right = fingerprint.signs(site.out_features, 0), fingerprint.signs(site.in_features, 1)
            sketch = method.sketch(partial(self._rows, site), values, left, right)
            if sketch is not None:
                found[str(site)] = sketch
        return found

    def _rows(self, site: Site) -> Tensor:
        return self.frozen_weight()[site.start : site.stop]

    # ---------------------------------------------------------------- the frozen weight

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

    # ---------------------------------------------------------------- updates

    def delta(self, adapter_name: str, site: Site, w0: Tensor, seed: int | Tensor | None = None) -> Tensor | None:
        """ΔW (o, i) of one site, in the dtype of the factors (float32 unless the user asked for less)."""
        method = self.attachments[adapter_name].method
        assert isinstance(method, WeightMethod)
        factors = self.factors(adapter_name, site)
        with torch.autocast(w0.device.type, enabled=False):
            return method.delta_weight(w0[site.start : site.stop], factors, dropout_seed=seed)

    def delta_bias(self, adapter_name: str) -> Tensor | None:
        """Δb over all rows of the module, or None where the adapter leaves the bias alone."""
        attachment = self.attachments[adapter_name]
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
        if self.kind is not None and is_meta(self.get_base_layer()) and not args[0].is_meta:
            raise GenFTError(
                "base model: an adapted weight is offloaded (on the meta device), and ΔW is generated from it; "
                "keep adapted weights in memory, with another device_map for example"
            )
        if isinstance(self.get_base_layer(), nn.MultiheadAttention):
            return self._call_with_updated_weight(names, *args, **kwargs)
        return self._updated(args[0], names, *args[1:], **kwargs)

    def _updated(self, x: Tensor, names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """base(x) + x ΔWᵀ + Δb summed over the active adapters, each in its cheapest form."""
        biases = self._bias_updates(names)
        if (y := self._own_form(x, names, *args, **kwargs)) is not None:
            return self._add_biases(y, biases)
        full: list[tuple[Site, Tensor]] = []
        thin: list[tuple[Site, Tensor, Tensor]] = []
        w0 = exact = None
        if self.kind is not None:
            w0 = self.frozen_weight()
            exact = self._sum_is_exact(x)
            for name in names:
                for site in self.attachments[name].sites:
                    self._plan_site(name, site, w0, x, full, thin)
        if full and exact:
            assert w0 is not None
            y = self._linear(x, add_rows(w0, full), biases)
        else:
            y = self._linear(x, None, biases, *args, **kwargs)
            if full:
                y = add_columns(y, [(site, F.linear(x, d.to(x.dtype))) for site, d in full])
        products = [(s, F.linear(F.linear(self._cast_input_dtype(x, r.dtype), r.T), le)) for s, le, r in thin]
        return add_columns(y, products)

    def _own_form(self, x: Tensor, names: list[str], *args: Any, **kwargs: Any) -> Tensor | None:
        """The layer in the method's own form, where it has one and is alone with all rows of the weight."""
        alone = [(name, site) for name in names for site in self.attachments[name].sites]
        if self.kind is None or len(alone) != 1 or alone[0][1].out_features != self.out_features:
            return None
        if self.quantization_backend is None and not computes_plainly(self.get_base_layer()):
            return None
        name, site = alone[0]
        method = self.attachments[name].method
        assert isinstance(method, WeightMethod)

        def base(x: Tensor, delta: Tensor | None = None) -> Tensor:
            weight = None if delta is None else self.frozen_weight() + delta
            return self._linear(x, weight, [], *args, **kwargs)

        return method.linear(x, base, self.frozen_bias(), self.factors(name, site), self._shape(site, x, None))

    def _shape(self, site: Site, x: Tensor, rank: int | None) -> plan.Shape:
        return plan.Shape(
            o=site.out_features,
            i=site.in_features,
            tokens=x.numel() // x.shape[-1],
            rank=rank,
            training=torch.is_grad_enabled(),
            exact_sum=self._sum_is_exact(x),
        )

    def _plan_site(
        self,
        name: str,
        site: Site,
        w0: Tensor,
        x: Tensor,
        full: list[tuple[Site, Tensor]],
        thin: list[tuple[Site, Tensor, Tensor]],
    ) -> None:
        """Compute one site's update as a thin pair or a whole matrix, whichever the plan says costs less."""
        method = self.attachments[name].method
        assert isinstance(method, WeightMethod)
        drops = self.training and method.entry_dropout > 0
        factors = self.factors(name, site)
        rows = w0[site.start : site.stop]
        pair = None
        if not drops:
            with torch.autocast(w0.device.type, enabled=False):
                pair = method.low_rank(rows, factors)
        form = plan.choose(self._shape(site, x, None if pair is None else pair[0].shape[1]), method.wanted_form)
        if form == "thin" and pair is not None:
            thin.append((site, *pair))
            return
        seed = self.mask_seeds.next(name, site) if drops else None
        if (d := self.delta(name, site, w0, seed)) is not None:
            full.append((site, d))

    def _sum_is_exact(self, x: Tensor) -> bool:
        """Whether one matmul on W0 + ΔW may stand for the base module: not where the sum would round ΔW away (half
        precision), and not where the base computes something else (quantised, subclassed, hooked)."""
        if self.quantization_backend is not None or torch.is_autocast_enabled(x.device.type):
            return False
        if not computes_plainly(self.get_base_layer()):
            return False
        dtype = self.frozen_weight().dtype
        return dtype in (torch.float32, torch.float64) and x.dtype == dtype

    def _linear(self, x: Tensor, weight: Tensor | None, biases: list[Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """The base module on x, with ``weight`` in place of W0 where given, and the bias updates added."""
        if weight is not None:
            bias = self.frozen_bias()
            for update in biases:
                bias = update.to(weight.dtype) if bias is None else bias + update
            return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        return self._add_biases(self.base_layer(x, *args, **kwargs), biases)

    def _add_biases(self, y: Tensor, biases: list[Tensor]) -> Tensor:
        for update in biases:
            y = y + channel_view(update, self.get_base_layer(), y).to(y.dtype)
        return y

    def _call_with_updated_weight(self, names: list[str], *args: Any, **kwargs: Any) -> Any:
        """The base module called with W0 + ΔW and b0 + Δb in place of its own (attention modules)."""
        module, kind = self.get_base_layer(), self.kind
        assert kind is not None
        w0 = self.frozen_weight()
        full: list[tuple[Site, Tensor]] = []
        for name in names:
            method = self.attachments[name].method
            assert isinstance(method, WeightMethod)
            for site in self.attachments[name].sites:
                drops = self.training and method.entry_dropout > 0
                seed = self.mask_seeds.next(name, site) if drops else None
                if (d := self.delta(name, site, w0, seed)) is not None:
                    full.append((site, d))
        weight = add_rows(w0, full).to(w0.dtype)
        replaced = {kind.weight: weight.T if kind.transposed else weight}
        bias = self.frozen_bias()
        for update in self._bias_updates(names):
            bias = update if bias is None else bias + update
        if bias is not None:
            replaced[kind.bias] = bias.to(w0.dtype)
        return call_with(module, replaced, *args, **kwargs)

    # ---------------------------------------------------------------- merging

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold updates into the base weight. The exact W0 and b0 are kept, so that :meth:`unmerge` restores them.

        Raises:
            ValueError: with ``safe_merge``, when the merged weight is not finite; nothing is changed then.
        """
        names = check_adapters_to_merge(self, adapter_names)
        for name in names:
            if name in self.attachments:
                self._merge_one(name, safe_merge)

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

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether the update is additive on a linear weight, and nothing else (a LoRA adapter has no bias)."""
        if self.kind is None or adapter_name not in self.attachments:
            return False
        return self.delta_bias(adapter_name) is None
