"""The peft tuner of every method of genft: finds the targets, owns what layers share, guards the base model.

``bridge/register.py`` makes one subclass per method; nothing here knows which method it serves.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, _ExcludedModule, _maybe_include_all_linear_layers
from torch import Tensor, nn

from genft.api.config import AdapterConfig
from genft.api.method import BlockMethod, Method, Site, WeightMethod
from genft.bridge import fingerprint
from genft.bridge.adapter_file import adapter_state, check_state_dict, own_tensors, without_adapter_name
from genft.bridge.base_check import (
    base_fingerprint,
    base_weight,
    check_updates,
    file_entries,
    take_sketches,
    update_sketches,
)
from genft.bridge.block.layer import CANNOT_MERGE, BlockLayer
from genft.bridge.layer import AdapterLayer, entry, new_parameter, own_key
from genft.bridge.targets import (
    DEFAULT_TARGETS,
    default_targets,
    is_meta,
    modules_with_bias,
    no_match,
    resolve_sites,
    unmatched,
    unwrap,
)
from genft.bridge.weight.evaluation import UpdateCache
from genft.bridge.weight.gradient_probe import silent_factors
from genft.bridge.weight.layer import WeightLayer
from genft.bridge.weight.mask_seeds import ForwardPass
from genft.errors import BaseMismatchError, ConfigError, GenFTError, MergeError, TargetError
from genft.models.blocks import block_sites, find_blocks

#: A rank or a number of tokens that is never too large, however small the weight.
LARGEST = 4096


class BridgeTuner(BaseTuner):
    """What our tuners add to peft's: shared factors stored once, fingerprints, and errors in one sentence."""

    method_class: ClassVar[type[Method]]
    tuner_layer_cls = AdapterLayer
    target_module_mapping = DEFAULT_TARGETS

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        # before BaseTuner.__init__, which injects the first adapter
        self._sites: dict[str, tuple[Method, dict[str, list[Site]]]] = {}
        self._injecting = ""
        self._fingerprints: dict[str, dict[str, Any]] = {}
        self._fast_paths: list[tuple[Any, int]] = []
        self.forward_pass = ForwardPass()
        self.update_cache = UpdateCache(self.forward_pass)
        super().__init__(model, *args, **kwargs)
        self._hooks = (
            self.model.register_forward_pre_hook(self.forward_pass.begin),
            self.model.register_forward_pre_hook(self._before_forward),
            self.model.register_forward_hook(self.forward_pass.end, always_call=True),
        )

    # ---------------------------------------------------------------- shared factors

    @property
    def shared_name(self) -> str:
        return f"{self.prefix}shared"

    @property
    def shared(self) -> nn.ModuleDict:
        """Adapter name → the factors that its layers share, each stored once."""
        if self.shared_name not in self._modules:
            self.add_module(self.shared_name, nn.ModuleDict())
        container = self._modules[self.shared_name]
        assert isinstance(container, nn.ModuleDict)
        return container

    def _shared_parameters(self, adapter_names: Sequence[str]) -> list[nn.Parameter]:
        if self.shared_name not in self._modules:
            return []
        return [p for name in adapter_names if name in self.shared for p in self.shared[name].parameters()]

    def _create_shared(self, adapter_name: str, method: Method, site: Site, like: Tensor | None) -> None:
        if adapter_name not in self.shared:
            self.shared[adapter_name] = nn.ParameterDict()
        store = entry(self.shared, adapter_name)
        for factor in method.factors(site).values():
            key = factor.shared_as
            if key is None or key in store:
                continue
            parameter = new_parameter(factor.shape, factor.init)
            if like is not None and parameter.device.type != "meta":
                dtype = like.dtype if like.is_floating_point() else parameter.dtype
                parameter = nn.Parameter(parameter.data.to(like.device, dtype))
            store[key] = parameter

    # ---------------------------------------------------------------- injection

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        """Fill in the default targets: what the configuration leaves open, the model family decides."""
        assert isinstance(peft_config, AdapterConfig)
        if peft_config.target_modules is not None:
            return peft_config
        if peft_config.target_slices:
            peft_config.target_modules = sorted(peft_config.target_slices)
            return peft_config
        self._set_default_targets(peft_config, str(model_config.get("model_type")))
        return peft_config

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        """Find all sites and refuse what cannot be done, before anything in the model is changed."""
        assert isinstance(peft_config, AdapterConfig)
        if peft_config.target_modules == "all-linear":
            _maybe_include_all_linear_layers(peft_config, model)
        inside = tuple(f"{n}." for n, m in model.named_modules() if isinstance(m, AdapterLayer))
        matched = []
        for name, _ in model.named_modules():
            if not name or name.startswith(inside):
                continue
            hit = self._check_target_module_exists(peft_config, name)
            if hit and not isinstance(hit, _ExcludedModule):
                matched.append(name)
        if not matched:
            if peft_config.exclude_modules or peft_config.layers_to_transform is not None:
                return  # peft's own message says which of these settings removed everything
            raise no_match(peft_config.target_modules, model)
        if isinstance(peft_config.target_modules, list) and (absent := unmatched(peft_config.target_modules, model)):
            warnings.warn(f"{no_match(absent, model)} (the other targets are adapted)", stacklevel=2)
        sites = self._resolve(model, matched, peft_config)
        method = self.method_class(peft_config)
        every_site = [site for group in sites.values() for site in group]
        if problems := method.check(every_site):
            raise TargetError(problems)
        for site in every_site:
            _check_sizes(method, site)
        self._warn_of_silent_factors(method, every_site)
        self._sites[self._injecting] = (method, sites)
        self._check_base(peft_config, model, sites)
        self._prepare_derived(self._injecting)

    def _prepare_derived(self, adapter_name: str) -> None:
        """Let the method work on all frozen weights of an adapter at once, before its layers are made."""

    def _warn_of_silent_factors(self, method: Method, sites: list[Site]) -> None:
        """Name, once, the factors that these settings would never train."""
        if not isinstance(method, WeightMethod) or method.bias_only:
            return
        examples = {(s.out_features == s.in_features): s for s in reversed(sites) if s.in_features}
        for site in examples.values():
            if silent := silent_factors(method, site):
                warnings.warn(
                    f"{self.prefix.rstrip('_')}: {', '.join(silent)} of {site} never get a gradient from this start "
                    f"and will not train; {method.advice_for_silent_factors}",
                    stacklevel=2,
                )
                return

    # what weight and block tuners do differently

    def _set_default_targets(self, config: AdapterConfig, family: str) -> None:
        """Fill in ``target_modules`` (and slices) that the user left open."""
        raise NotImplementedError

    def _resolve(self, model: nn.Module, matched: list[str], config: AdapterConfig) -> dict[str, list[Site]]:
        """The sites of every matched module."""
        raise NotImplementedError

    def _new_layer(self, target: nn.Module) -> AdapterLayer:
        """The layer that takes the place of ``target``."""
        raise NotImplementedError

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
        method, by_module = self._sites[adapter_name]
        sites = by_module[current_key]
        needs_shared = any(f.shared_as for site in sites for f in method.factors(site).values())
        if needs_shared:
            like = next(unwrap(target).parameters(), None)
            for site in sites:
                self._create_shared(adapter_name, method, site, like)
        layer = target
        if isinstance(parent, nn.TransformerEncoderLayer):
            self._switch_fast_path_off(parent)
        if not isinstance(target, AdapterLayer):
            layer = self._new_layer(target)
            self._replace_module(parent, target_name, layer, target)
        assert isinstance(layer, AdapterLayer)
        layer.attach(adapter_name, method, sites)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)

    def _switch_fast_path_off(self, layer: nn.TransformerEncoderLayer) -> None:
        """In evaluation torch fuses the whole layer and reads weights directly, past any adapter; with this flag
        at 0 it computes module by module."""
        if layer.activation_relu_or_gelu:
            self._fast_paths.append((layer, layer.activation_relu_or_gelu))
            layer.activation_relu_or_gelu = 0

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # peft's version also copies weight and bias attributes, which fails on modules without them (composite
        # heads, attention modules); our layers place their tensors themselves
        setattr(parent, child_name, new_module)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        self._injecting = adapter_name  # peft passes the name to some of its hooks only
        others = [name for name in self.peft_config if name != adapter_name]
        before = [(p, p.requires_grad) for p in self._shared_parameters(others)]
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        # adding an adapter must not change what was trainable before
        for parameter, requires_grad in before:
            parameter.requires_grad = requires_grad
        if adapter_name in self._sites:
            self._sites[adapter_name][0].attached(adapter_name, partial(self.own_parameters, adapter_name))

    def method(self, adapter_name: str) -> Method:
        """The method of an adapter, which knows what the base and training decided."""
        return self._sites[adapter_name][0]

    def own_parameters(self, adapter_name: str) -> dict[str, nn.Parameter]:
        """What the sites of an adapter train, each its own, as ``"<site>.<symbol>"`` → parameter, in model order."""
        if adapter_name not in self._sites:  # deleted
            return {}
        method, by_module = self._sites[adapter_name]
        found: dict[str, nn.Parameter] = {}
        for path, sites in by_module.items():
            layer = self.model.get_submodule(path)
            if not isinstance(layer, AdapterLayer):  # unloaded
                return {}
            own = entry(layer.own_factors, adapter_name)
            for site in sites:
                named = method.factors(site).items()
                found |= {f"{site}.{name}": own[own_key(site, name)] for name, f in named if f.shared_as is None}
        return found

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        if module.training and not torch.compiler.is_compiling():
            for name in self.active_adapters:
                if name in self._sites:
                    self._sites[name][0].before_forward()

    # ---------------------------------------------------------------- the base model's fingerprint

    def _check_base(self, config: AdapterConfig, model: nn.Module, sites: dict[str, list[Site]]) -> None:
        """Compare with the base that a loaded adapter names, or record the base of a new one."""
        modules = {path: model.get_submodule(path) for path in sites}
        merged = next((p for p, m in modules.items() if isinstance(m, AdapterLayer) and m.merged), None)
        if merged is not None:
            raise BaseMismatchError(
                f"adapter: {merged} has an adapter merged into it; unmerge it before adding or loading another"
            )
        if any(p.is_meta for m in modules.values() for p in unwrap(m).parameters()):
            self._check_when_loaded(config, model, sites)
            return
        found = {path: taken for path, m in modules.items() if (taken := base_fingerprint(unwrap(m))) is not None}
        expected = config.expected_fingerprint
        if expected is not None and not fingerprint.other_base_allowed():
            fingerprint.check(expected, found)
        else:
            self._fingerprints[self._injecting] = config.base_fingerprint = found

    def _check_when_loaded(self, config: AdapterConfig, model: nn.Module, sites: dict[str, list[Site]]) -> None:
        """Weights on the meta device have no values yet: check them, and derive from them, at the first pass."""
        adapter_name = self._injecting

        def check(module: nn.Module, args: Any) -> None:
            handle.remove()
            self._check_base(config, model, sites)
            self._prepare_derived(adapter_name)
            for layer in (model.get_submodule(path) for path in sites):
                if isinstance(layer, WeightLayer):
                    layer.derive(adapter_name)
            check_updates(config, model, adapter_name, model.state_dict())

        handle = model.register_forward_pre_hook(check)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        merged = next((n for n, m in model.named_modules() if isinstance(m, AdapterLayer) and m.merged), None)
        if merged is not None:
            raise BaseMismatchError(
                f"adapter: {merged} has an adapter merged into it; unmerge it before loading weights"
            )
        assert isinstance(config, AdapterConfig)
        values = dict(state_dict)
        config.expected_sketches = take_sketches(values, cls.prefix)
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, values)
        remapped = own_tensors(model, adapter_name, remapped)
        check_state_dict(model, adapter_name, remapped)
        check_updates(config, model, adapter_name, remapped)
        return remapped

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return without_adapter_name(key, adapter_name, cls.prefix)

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        found = adapter_state(model, adapter_name, state_dict, unwanted_adapter_names)
        assert isinstance(config, AdapterConfig)
        recorded = getattr(getattr(model, "base_model", model), "_fingerprints", {})
        if adapter_name in recorded:  # one configuration object may have served several models
            config.base_fingerprint = recorded[adapter_name] | _of_trained_bases(model, recorded[adapter_name])
        for name, value in derived_settings(model, adapter_name).items():
            setattr(config, name, value)
        tuner = getattr(model, "base_model", model)
        if isinstance(tuner, BridgeTuner):
            config.saved_files = tuner.method(adapter_name).saved_files()
        return found | file_entries(update_sketches(model, adapter_name, found), cls.prefix)

    # ---------------------------------------------------------------- what peft does per layer, for shared factors

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        super()._mark_only_adapters_as_trainable(model)
        for name in self.peft_config:
            trains = name in self.active_adapters and not self.peft_config[name].inference_mode
            for parameter in self._shared_parameters([name]):
                parameter.requires_grad = trains

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        for name in self.peft_config:
            for parameter in self._shared_parameters([name]):
                parameter.requires_grad = name in names and not inference_mode

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        for parameter in self._shared_parameters(names):
            parameter.requires_grad = requires_grad

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        super()._enable_adapter_layers(enabled)
        for name in self.peft_config:
            for parameter in self._shared_parameters([name]):
                parameter.requires_grad = enabled and name in self.active_adapters

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if autocast_adapter_dtype and self.shared_name in self._modules and adapter_name in self.shared:
            store = entry(self.shared, adapter_name)
            for key, p in list(store.items()):
                if p.dtype in (torch.float16, torch.bfloat16):
                    store[key] = nn.Parameter(p.data.to(torch.float32), requires_grad=p.requires_grad)

    def delete_adapter(self, adapter_name: str) -> None:
        was_active = adapter_name in self.active_adapters
        super().delete_adapter(adapter_name)
        self._sites.pop(adapter_name, None)
        if was_active:  # peft has activated another adapter, and made what its layers own trainable
            for parameter in self._shared_parameters(self.active_adapters):
                parameter.requires_grad = True
        if self.shared_name in self._modules and adapter_name in self.shared:
            del self.shared[adapter_name]

    def _enable_peft_forward_hooks(self, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Any:
        if adapter_names is not None:
            raise GenFTError(
                f"adapter_names: {self.prefix.rstrip('_')} cannot mix adapters within one batch; "
                "call set_adapter and send one batch per adapter"
            )
        return nullcontext()

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        model: Any = super()._unload_and_optionally_merge(*args, **kwargs)  # type: ignore[func-returns-value]
        for hook in self._hooks:
            hook.remove()
        for layer, flag in self._fast_paths:
            layer.activation_relu_or_gelu = flag
        return model


class WeightTuner(BridgeTuner):
    """Tuner of a :class:`~genft.api.method.WeightMethod`."""

    method_class: ClassVar[type[WeightMethod]]

    def _set_default_targets(self, config: AdapterConfig, family: str) -> None:
        if self.method_class.bias_only:
            config.target_modules = modules_with_bias(self.model)
            if not config.target_modules:
                raise TargetError(f"target_modules: no module of {type(self.model).__name__} has a bias")
            return
        config.target_modules, config.target_slices = default_targets(self.model, family, config.default_scope)

    def _resolve(self, model: nn.Module, matched: list[str], config: AdapterConfig) -> dict[str, list[Site]]:
        return resolve_sites(model, matched, config.target_slices, bias_only=self.method_class.bias_only)

    def _new_layer(self, target: nn.Module) -> AdapterLayer:
        shared = self.shared if self.uses_shared_state else None
        return WeightLayer(target, self.prefix, shared, self.forward_pass, self.update_cache)

    def _prepare_derived(self, adapter_name: str) -> None:
        method, by_module = self._sites[adapter_name]
        assert isinstance(method, WeightMethod)
        modules = {path: self.model.get_submodule(path) for path in by_module}
        if any(is_meta(unwrap(module)) for module in modules.values()):
            return
        method.prepare(
            {
                site: partial(base_weight, modules[path], slice(site.start, site.stop))
                for path, sites in by_module.items()
                for site in sites
                if site.in_features
            }
        )


class BlockTuner(BridgeTuner):
    """Tuner of a :class:`~genft.api.method.BlockMethod`."""

    method_class: ClassVar[type[BlockMethod]]

    def _set_default_targets(self, config: AdapterConfig, family: str) -> None:
        config.target_modules = find_blocks(self.model)
        if not config.target_modules:
            raise TargetError(
                f"target_modules: no transformer block is recognised in {type(self.model).__name__}; "
                "this method works inside such blocks"
            )

    def _resolve(self, model: nn.Module, matched: list[str], config: AdapterConfig) -> dict[str, list[Site]]:
        return block_sites(model, matched, self.method_class(config).hooks())

    def _new_layer(self, target: nn.Module) -> AdapterLayer:
        return BlockLayer(target, self.prefix, self.shared if self.uses_shared_state else None)

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        raise MergeError(CANNOT_MERGE)


def derived_settings(model: nn.Module, adapter_name: str) -> dict[str, Any]:
    """Settings of an adapter that the base decided; none for methods of peft."""
    sites = getattr(getattr(model, "base_model", model), "_sites", {})
    method = sites[adapter_name][0] if adapter_name in sites else None
    return method.derived_settings() if isinstance(method, WeightMethod) else {}


def _of_trained_bases(model: nn.Module, recorded: dict[str, Any]) -> dict[str, Any]:
    """Fingerprints of those base weights that were trained beside the adapter: what they are now is what it fits."""
    found: dict[str, Any] = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, WeightLayer) or not any(p.requires_grad for p in unwrap(layer).parameters()):
            continue
        found |= {name: base_fingerprint(unwrap(layer)) for name in recorded if f".{path}".endswith(f".{name}")}
    return found


def _check_sizes(method: Method, site: Site) -> None:
    """Refuse a rank or length beyond all use before memory is taken for it (a configuration may be a stranger's).

    Raises:
        ConfigError: naming the weight and the tensor.
    """
    most = max(LARGEST, site.out_features + site.in_features)
    for name, factor in method.factors(site).items():
        if max(factor.shape, default=0) > most:
            shape = " × ".join(map(str, factor.shape))
            raise ConfigError(f"{site}: its tensor {name!r} would be {shape}, and more than {most} is of no use there")
