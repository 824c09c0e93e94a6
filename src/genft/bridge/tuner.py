"""The peft tuner of every method of genft: it finds the sites, wraps them in layers, and checks the base model.

``bridge/register.py`` creates one subclass per method; nothing here depends on the method.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _ExcludedModule, _maybe_include_all_linear_layers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from genft.api.config import AdapterConfig
from genft.api.method import BlockMethod, Method, Site, WeightMethod
from genft.bridge import adapter_file, base_check, weighted
from genft.bridge.adapter import Adapter
from genft.bridge.block.layer import CANNOT_MERGE, BlockLayer
from genft.bridge.layer import AdapterLayer, adapters_in, entry, layers_of, own_key
from genft.bridge.patterns import check_patterns
from genft.bridge.root import Root
from genft.bridge.shared import SharedFactors, add_shared, cast_to_float32
from genft.bridge.targets import block_sites, no_match, weight_sites
from genft.bridge.update_cache import UpdateCache
from genft.bridge.weight.gradient_probe import silent_factors
from genft.bridge.weight.layer import WeightLayer
from genft.errors import ConfigError, GenFTError, MergeError, TargetError
from genft.models.architectures import (
    DEFAULT_TARGETS,
    default_targets,
    modules_with_bias,
    modules_with_channels,
    unmatched,
)
from genft.models.blocks import find_blocks, position_embeddings_of
from genft.models.weights import unwrap

#: The largest rank or number of tokens that is always allowed, however small the weight.
LARGEST = 4096

Targets = tuple[list[str] | str, dict[str, Any] | None]


class BridgeTuner(BaseTuner):
    """What our tuners add to peft's: adapters that recognise their base, shared factors, and one-sentence errors."""

    method_class: ClassVar[type[Method]]
    tuner_layer_cls = AdapterLayer
    target_module_mapping = DEFAULT_TARGETS

    @property
    def adapters(self) -> dict[str, Adapter[Any]]:
        """The adapters of this method that are on the model, by name."""
        return adapters_in(self.model, self.prefix)

    @property
    def update_cache(self) -> UpdateCache:
        """The cached updates for evaluation."""
        return Root.of(self.model).update_cache

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate with the base model; cached updates are compared with their sources once, not for every token."""
        with self.update_cache.hold():
            return self.model.generate(*args, **kwargs)

    def own_parameters(self, adapter_name: str) -> dict[str, nn.Parameter]:
        """The parameters that the sites of an adapter own, ``"<site>.<symbol>"`` → parameter, in model order."""
        adapter = self.adapters.get(adapter_name)
        return {} if adapter is None else trained_by(adapter, self.model)

    # ---------------------------------------------------------------- injection

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        # peft passes these only to some of its hooks
        self._injecting, self._keys = adapter_name, None if state_dict is None else set(state_dict)
        self._adapter: Adapter[Any] | None = None
        config: Any = self.peft_config[adapter_name]
        check_patterns(vars(config), [path for path, _ in model.named_modules()])
        self.peft_config[adapter_name] = config.owned(dict)  # peft fills in targets and more; the user's stays as it is
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict)
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            Root.of(model).listen(self.prefix, adapter_name, adapter.method)
            adapter.method.attached(adapter_name, partial(trained_by, adapter, model))

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        """The adapter's own copy of the configuration; the model family decides targets that the user left open."""
        config: Any = peft_config
        if config.target_modules is None and config.target_slices:
            config = replace(config, target_modules=sorted(config.target_slices))
        elif config.target_modules is None:
            targets, slices = self._default_targets(config, str(model_config.get("model_type")))
            config = replace(config, target_modules=targets, target_slices=slices)
        elif isinstance(config.target_modules, str) and config.target_modules.lower() == "all-linear":
            config = replace(config, target_modules=_all_linear(config, self.model))
        adapter = self._adapter = Adapter(self._injecting, self.prefix, self.method_class, config)
        self.peft_config[self._injecting] = adapter.config
        return adapter.config

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        """Find all sites and refuse impossible requests before anything in the model is changed."""
        adapter = self._being_made
        config = adapter.config
        matched = self._matched(config, model)
        if not matched:
            if config.exclude_modules or config.layers_to_transform is not None:
                return  # peft's own message names the setting that excluded everything
            raise no_match(config.target_modules, model)
        if isinstance(config.target_modules, list) and (absent := unmatched(config.target_modules, model)):
            warnings.warn(f"{no_match(absent, model)} (the other targets are adapted)", stacklevel=2)
        adapter.sites = self._resolve(model, matched, adapter)
        if problems := adapter.method.check(adapter.every_site):
            raise TargetError(problems)
        _check_tensors(adapter)
        self._check_start(adapter)
        base_check.refuse_merged(((p, model.get_submodule(p)) for p in adapter.sites), "adding or loading another")
        if base_check.has_no_values_yet(adapter, model):
            _finish_at_the_first_pass(adapter, model, self._prepare_derived)
        else:
            base_check.record_or_compare(adapter, model)
            self._prepare_derived(adapter)
        _replace_namesake(adapter, model)

    @property
    def _being_made(self) -> Adapter[Any]:
        if self._adapter is None:
            raise GenFTError(f"{type(self).__name__}: a layer is requested outside of inject_adapter")
        return self._adapter

    def _matched(self, config: AdapterConfig, model: nn.Module) -> list[str]:
        """Paths of the modules named by the configuration, or by the keys of a state dict that was passed to peft."""
        if self._keys is not None:
            named = {key.rsplit(f".{self.prefix}", 1)[0].removeprefix("_orig_mod.") for key in self._keys}
            return [path for path, _ in model.named_modules() if path in named]
        inside = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, BaseTunerLayer))
        matched = []
        for path, _ in model.named_modules():
            if not path or path.startswith(inside):
                continue
            hit = self._check_target_module_exists(config, path)
            if hit and not isinstance(hit, _ExcludedModule):
                matched.append(path)
        return matched

    # overridden by weight and block tuners

    def _default_targets(self, config: AdapterConfig, family: str) -> Targets:
        """``target_modules`` and ``target_slices`` if the user left them open."""
        raise NotImplementedError

    def _resolve(self, model: nn.Module, matched: list[str], adapter: Adapter[Any]) -> dict[str, list[Site]]:
        """The sites of every matched module."""
        raise NotImplementedError

    def _new_layer(self, target: nn.Module) -> AdapterLayer[Any]:
        """The layer that replaces ``target``."""
        raise NotImplementedError

    def _check_start(self, adapter: Adapter[Any]) -> None:
        """Warn about factors that would never train with these settings."""

    def _prepare_derived(self, adapter: Adapter[Any]) -> None:
        """Let the method process all frozen weights of an adapter at once, before its layers are created."""

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        adapter = self._being_made
        sites = adapter.sites[current_key]
        for factors in map(adapter.method.factors, sites):
            if any(factor.shared_as for factor in factors.values()):
                adapter.share_on(self.model)
                add_shared(adapter.shared, factors, next(unwrap(target).parameters(), None))
        if isinstance(parent, nn.TransformerEncoderLayer):
            Root.of(self.model).switch_fast_path_off(parent)
        if isinstance(target, AdapterLayer) and target.prefix == self.prefix:
            layer: AdapterLayer[Any] = target
        else:
            layer = self._new_layer(target)
            self._replace_module(parent, target_name, layer, target)
        layer.attach(adapter, sites)
        layer.set_adapter(self.active_adapters, inference_mode=adapter.config.inference_mode)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # peft's version also copies weight and bias attributes, which fails for modules without them (composite
        # heads, attention modules); our layers move their tensors to the right device themselves
        setattr(parent, child_name, new_module)

    # ---------------------------------------------------------------- saving and loading

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: Any, unwanted_adapter_names: list[str]
    ) -> dict[str, Tensor]:
        adapter = adapters_in(model, cls.prefix)[adapter_name]
        tensors = adapter_file.adapter_state(adapter, model, state_dict, unwanted_adapter_names)
        base_check.record_changes(adapter, model)
        asked = isinstance(adapter.method, WeightMethod) and adapter.method.overrides("sketch")
        sketches = base_check.update_sketches(model, adapter_name, tensors) if asked else {}
        return tensors | base_check.file_entries(adapter, model, sketches)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return adapter_file.without_adapter_name(key, adapter_name, cls.prefix)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        base_check.refuse_merged(model.named_modules(), "loading weights")
        adapter = adapters_in(model, cls.prefix)[adapter_name]
        values = dict(state_dict)
        base_check.compare_with_file(adapter, model, base_check.take_base(values, cls.prefix))
        adapter.expected_sketches = base_check.take_sketches(values, cls.prefix)
        renamed = adapter_file.shared_keys(adapter, model, values)
        values = {renamed.get(key, key): value for key, value in values.items()}
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, values)
        remapped = adapter_file.own_tensors(adapter, model, remapped)
        adapter_file.check_state_dict(adapter, model, remapped)
        base_check.compare_updates(adapter, model, remapped)
        return remapped

    # ---------------------------------------------------------------- applied by peft to tensors of layers only

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        shared = [p for adapter in adapters_in(model).values() for p in adapter.shared.parameters() if p.requires_grad]
        super()._mark_only_adapters_as_trainable(model)
        for parameter in shared:
            parameter.requires_grad = True

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if autocast_adapter_dtype and adapter_name in self.adapters:
            cast_to_float32(self.adapters[adapter_name].shared)

    # ---------------------------------------------------------------- other features of peft

    def _enable_peft_forward_hooks(self, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Any:
        if adapter_names is not None:
            raise GenFTError(
                f"adapter_names: {self.prefix.rstrip('_')} cannot mix adapters within one batch; "
                "call set_adapter and send one batch per adapter"
            )
        return nullcontext()

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str = "linear"
    ) -> None:
        """Add an adapter whose update is the weighted sum of the updates of several; it is inactive at first.

        Raises:
            ConfigError: the sum would not be exact: the method's update is not linear in what it trains, or the
                adapters have other settings.
        """
        weighted.check_weighted(self.adapters, adapters, weights, adapter_name, combination_type)
        summands = [self.adapters[name] for name in adapters]
        config = summands[0].config.owned(dict)
        config.inference_mode = False
        self.peft_config[adapter_name] = config
        self.inject_adapter(self.model, adapter_name)
        self._cast_adapter_dtype(adapter_name)
        weighted.write_sum(self.model, summands, weights, self.adapters[adapter_name])

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        model: Any = super()._unload_and_optionally_merge(*args, **kwargs)  # type: ignore[func-returns-value]
        Root.remove(model)
        return model


class WeightTuner(BridgeTuner):
    """Tuner of a :class:`~genft.api.method.WeightMethod`."""

    method_class: ClassVar[type[WeightMethod]]

    def _default_targets(self, config: AdapterConfig, family: str) -> Targets:
        if self.method_class.beyond_linear:
            targets, slices = default_targets(self.model, family, config.default_scope)
            return [*targets, *modules_with_channels(self.model)], slices
        if not self.method_class.bias_only:
            return default_targets(self.model, family, config.default_scope)
        if not (targets := modules_with_bias(self.model)):
            raise TargetError(f"target_modules: no module of {type(self.model).__name__} has a bias")
        return targets, None

    def _resolve(self, model: nn.Module, matched: list[str], adapter: Adapter[Any]) -> dict[str, list[Site]]:
        slices = adapter.config.target_slices
        method = self.method_class
        return weight_sites(model, matched, slices, bias_only=method.bias_only, beyond_linear=method.beyond_linear)

    def _new_layer(self, target: nn.Module) -> AdapterLayer[Any]:
        if isinstance(target, BaseTunerLayer) and isinstance(unwrap(target), nn.MultiheadAttention):
            raise TargetError(
                f"target_modules: an nn.MultiheadAttention cannot be adapted by {self.prefix.rstrip('_')} while "
                f"{type(target).__name__} adapts it; unload that adapter first"
            )
        return WeightLayer(target, self.prefix, Root.of(self.model))

    def _check_start(self, adapter: Adapter[WeightMethod]) -> None:
        if adapter.method.bias_only:
            return
        examples = {(s.out_features == s.in_features): s for s in reversed(adapter.every_site) if s.in_features}
        for site in examples.values():
            if silent := silent_factors(adapter.method, site):
                warnings.warn(
                    f"{self.prefix.rstrip('_')}: {', '.join(silent)} of {site} never get a gradient from this start "
                    f"and will not train; {adapter.method.advice_for_silent_factors}",
                    stacklevel=2,
                )
                return

    def _prepare_derived(self, adapter: Adapter[WeightMethod]) -> None:
        adapter.method.prepare(
            {
                site: partial(base_check.base_weight, self.model.get_submodule(path), slice(site.start, site.stop))
                for path, sites in adapter.sites.items()
                for site in sites
                if site.in_features
            }
        )


class BlockTuner(BridgeTuner):
    """Tuner of a :class:`~genft.api.method.BlockMethod`."""

    method_class: ClassVar[type[BlockMethod]]

    def _default_targets(self, config: AdapterConfig, family: str) -> Targets:
        if not (targets := find_blocks(self.model)):
            raise TargetError(
                f"target_modules: no transformer block is recognised in {type(self.model).__name__}; "
                "this method works inside such blocks"
            )
        return targets, None

    def _resolve(self, model: nn.Module, matched: list[str], adapter: Adapter[Any]) -> dict[str, list[Site]]:
        return block_sites(model, matched, adapter.method.hooks())

    def _new_layer(self, target: nn.Module) -> AdapterLayer[Any]:
        return BlockLayer(target, self.prefix, position_embeddings_of(self.model))

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        raise MergeError(CANNOT_MERGE)


def _all_linear(config: AdapterConfig, model: nn.Module) -> list[str]:
    """Paths of all linear layers except the model's output layer, including adapted ones, which peft recognises only
    by the names of its own classes."""
    copy: Any = config.owned(dict)
    _maybe_include_all_linear_layers(copy, model)
    adapted = {
        path
        for path, module in model.named_modules()
        if isinstance(module, AdapterLayer) and isinstance(unwrap(module), nn.Linear | Conv1D)
    }
    return sorted(adapted.union(copy.target_modules))


def trained_by(adapter: Adapter[Any], model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the sites of an adapter own, ``"<site>.<symbol>"`` → parameter, in model order; empty once
    the adapter is deleted, replaced or unloaded."""
    parameters: dict[str, nn.Parameter] = {}
    for layer in layers_of(adapter, model):
        own = entry(layer.own_factors, adapter.name)
        attachment = layer.attachments[adapter.name]
        for site in attachment.sites:
            places = attachment.places[site.slice or ""].items()
            parameters |= {f"{site}.{symbol}": own[p.own] for symbol, p in places if p.shared_as is None}
    return parameters


def _finish_at_the_first_pass(
    adapter: Adapter[Any], model: nn.Module, prepare_derived: Callable[[Adapter[Any]], None]
) -> None:
    """Check weights that are still on the meta device, and derive tensors from them, at the first forward pass."""

    def finish(module: nn.Module, args: Any) -> None:
        if base_check.has_no_values_yet(adapter, model):
            return  # a pass on the meta device, for shapes
        handle.remove()
        base_check.record_or_compare(adapter, model)
        prepare_derived(adapter)
        for layer in (model.get_submodule(path) for path in adapter.sites):
            if isinstance(layer, WeightLayer):
                layer.derive(adapter.name)
        base_check.compare_updates(adapter, model, model.state_dict())

    handle = model.register_forward_pre_hook(finish)


def _replace_namesake(adapter: Adapter[Any], model: nn.Module) -> None:
    """Remove an earlier adapter of the same method and name from the model; the new one replaces it."""
    for module in model.modules():
        if isinstance(module, AdapterLayer) and module.prefix == adapter.prefix:
            module.detach(adapter.name)
    for _, container in SharedFactors.inside(model, adapter.prefix):
        container.discard(adapter.name)


def _check_tensors(adapter: Adapter[Any]) -> None:
    """Refuse uselessly large tensors before memory is allocated for them (a configuration may come from a stranger),
    and two tensors of the same name in one module.

    Raises:
        ConfigError: naming the weight and the tensor.
    """
    for path, sites in adapter.sites.items():
        names: Counter[str] = Counter()
        for site in sites:
            most = max(LARGEST, site.out_features + site.in_features)
            factors = adapter.method.factors(site)
            for name, factor in factors.items():
                if max(factor.shape, default=0) > most:
                    shape = " × ".join(map(str, factor.shape))
                    raise ConfigError(
                        f"{site}: its tensor {name!r} would be {shape}, and a size above {most} is useless there"
                    )
            names.update(own_key(site, name) for name, factor in factors.items() if factor.shared_as is None)
        if twice := next((name for name, count in names.items() if count > 1), None):
            slices = ", ".join(repr(site.slice) for site in sites)
            raise ConfigError(f"target_slices: {path} would have two tensors {twice!r}; rename one of {slices}")
