"""The frozen weight: one interface to read and write W0 and b0, however a module stores them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def unwrap(module: nn.Module) -> nn.Module:
    """The pretrained module inside an adapted one; any other module is returned as it is."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


class Storage(NamedTuple):
    """The attributes that hold a linear weight and its bias, and whether the weight is stored as (i, o)."""

    weight: str
    bias: str
    transposed: bool = False


def _storage(module: nn.Module) -> Storage | None:
    """How ``module`` stores its linear weight, or None if it has none of its own."""
    if isinstance(module, nn.MultiheadAttention):
        return Storage("in_proj_weight", "in_proj_bias") if module.in_proj_weight is not None else None
    if isinstance(module, Conv1D):
        return Storage("weight", "bias", transposed=True)
    if isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features")):
        return Storage("weight", "bias")
    return None


def has_linear_weight(module: nn.Module) -> bool:
    """Whether ``module``, or the pretrained module inside an adapted one, has a linear weight of its own."""
    return _storage(unwrap(module)) is not None


def _channel_storage(module: nn.Module) -> Storage | None:
    """How a normalisation or a convolution stores its weight, whose first dimension counts output channels; None for
    any other module, and for one without a weight."""
    known = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    weight = getattr(module, "weight", None)
    if not isinstance(module, known) or not isinstance(weight, Tensor):
        return None
    several = isinstance(module, nn.LayerNorm | nn.RMSNorm) and weight.dim() > 1  # positions, not channels
    return None if several else Storage("weight", "bias")


def has_channel_weight(module: nn.Module) -> bool:
    """Whether ``module`` is a normalisation or a convolution with a weight of its own."""
    return _channel_storage(unwrap(module)) is not None


def has_own_bias(module: nn.Module) -> bool:
    """Whether ``module`` adds a bias over its output channels (a linear layer, a normalisation, a convolution)."""
    module = unwrap(module)
    storage = _storage(module)
    return isinstance(getattr(module, storage.bias if storage else "bias", None), Tensor)


@dataclass(frozen=True)
class Snapshot:
    """What a merge overwrites: the stored weight, the related attributes of a quantised module, and b0."""

    weight: Any
    bias: Tensor | None
    weight_attributes: dict[str, Any]
    module_attributes: dict[str, Any]


class FrozenWeight:
    """The linear weight W0 (o, i) and the bias b0 (o,) of a pretrained module, however the module stores them.

    It supports ``nn.Linear`` and its look-alikes, transformers' ``Conv1D`` (stored transposed), the fused in-projection
    of ``nn.MultiheadAttention``, and weights that a quantisation back end of peft stores packed. It also describes a
    normalisation, a convolution, or another module that has only a bias: its ``in_features`` is 0, and its weight, if
    known, is (o, n) with one row per output channel.

    Attributes:
        module: the pretrained module.
        out_features: o; the length of the bias if there is no linear weight.
        in_features: i; 0 if there is no linear weight.
        is_linear: whether there is a linear weight.
        transposed: whether the module stores W0ᵀ.
        backend: peft's back end for the quantised weight, or None.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        linear = _storage(module)
        self.is_linear = linear is not None
        self._storage = linear or _channel_storage(module)
        self._names = self._storage or Storage("", "bias")
        self.transposed = self._names.transposed
        self.backend = resolve_quantization_backend(module) if self.is_linear else None
        self.out_features, self.in_features = self._read_shape()

    @classmethod
    def of(cls, module: nn.Module) -> FrozenWeight:
        """The weight of ``module``, or of the pretrained module inside an adapted one."""
        return cls(unwrap(module))

    def _read_shape(self) -> tuple[int, int]:
        """(o, i), correct for packed storage too."""
        module: Any = self.module
        if not self.is_linear:
            return len(self.stored) if self.has_weight else cast(Tensor, module.bias).numel(), 0
        if isinstance(module, nn.MultiheadAttention):
            return 3 * module.embed_dim, module.embed_dim
        if self.transposed:
            return module.weight.shape[1], module.weight.shape[0]
        return module.out_features, module.in_features

    # ---------------------------------------------------------------- reading

    @property
    def has_weight(self) -> bool:
        """Whether there is a weight, not only a bias."""
        return self._storage is not None

    @property
    def stored(self) -> Tensor:
        """The parameter that holds W0, in the module's own layout (packed if quantised)."""
        return getattr(self.module, self._names.weight)

    @property
    def weight(self) -> Tensor:
        """W0 (o, i): without a copy, or dequantised into a new tensor."""
        if self.backend is not None:
            return self._dequantised()
        return self.in_rows(self.stored.detach())  # torch.export does not follow .data

    @property
    def bias(self) -> Tensor | None:
        """b0 (o,), or None."""
        bias = self.stored_bias
        return None if bias is None else bias.detach()

    @property
    def stored_bias(self) -> Tensor | None:
        """The parameter that holds b0, or None."""
        bias = getattr(self.module, self._names.bias, None)
        return bias if isinstance(bias, Tensor) else None

    @property
    def has_bias(self) -> bool:
        """Whether the module has a bias, including a placeholder of another type."""
        return getattr(self.module, self._names.bias, None) is not None

    @property
    def can_have_bias(self) -> bool:
        """Whether the module would add a bias that it is given."""
        return hasattr(self.module, self._names.bias)

    @property
    def shape(self) -> tuple[int, int]:
        """(o, i) of W0."""
        return self.out_features, self.in_features

    def in_own_layout(self, weight: Tensor) -> Tensor:
        """A matrix (o, i), converted to the layout in which the module stores its weight."""
        if not self.is_linear:
            return weight.reshape(self.stored.shape)
        return weight.T if self.transposed else weight

    def in_rows(self, stored: Tensor) -> Tensor:
        """A tensor in the layout in which the module stores its weight as a matrix (o, i)."""
        if not self.is_linear:
            return stored.reshape(len(stored), -1)
        return stored.T if self.transposed else stored

    def replacements(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        """``weight`` (o, i) and ``bias`` (o,) under the module's own names, for a functional call of the module."""
        tensors = {self._names.weight: self.in_own_layout(weight)}
        return tensors if bias is None else tensors | {self._names.bias: bias}

    @property
    def plain(self) -> bool:
        """Whether the module's forward pass is just x W0ᵀ + b0, so that we may compute that instead.

        False for subclasses with their own forward pass, and for modules with hooks or a replaced ``forward`` (which
        accelerate uses to move weights).
        """
        module = self.module
        own = type(module).forward in (nn.Linear.forward, Conv1D.forward) and "forward" not in module.__dict__
        return own and not (module._forward_hooks or module._forward_pre_hooks)

    @property
    def is_meta(self) -> bool:
        """Whether a tensor of the module is on the meta device: not loaded yet, or offloaded."""
        return any(p is not None and p.is_meta for p in self._parameters)

    @property
    def is_whole(self) -> bool:
        """Whether this process holds all values of the weight: not only a shard, and not on the meta device."""
        stored = self.stored
        if type(stored).__name__ == "DTensor" or stored.is_meta:
            return False
        whole = self.backend is not None or stored.shape == (self.shape[::-1] if self.transposed else self.shape)
        return whole and stored.untyped_storage().size() >= stored.numel() * stored.itemsize

    @property
    def trained(self) -> bool:
        """Whether the base weight or bias is trained as well."""
        return any(p is not None and p.requires_grad for p in self._parameters)

    @property
    def _parameters(self) -> Iterable[Tensor | None]:
        """The module's own parameters; its method ``parameters`` takes ten times as long, in every forward pass."""
        return self.module._parameters.values()

    # ---------------------------------------------------------------- writing

    def snapshot(self) -> Snapshot:
        """The state that :meth:`restore` needs to restore everything bit for bit."""
        bias = None if self.bias is None else self.bias.clone()
        if self._storage is None:
            return Snapshot(None, bias, {}, {})
        if self.backend is None:
            return Snapshot(self.stored.data.clone(), bias, {}, {})
        # peft clears attributes of a quantised parameter, and bitsandbytes keeps part of 8-bit weights on the module
        weight: Any = self.stored
        attributes = {name: copy.copy(value) for name, value in weight.__dict__.items()}
        related = {n: copy.copy(getattr(self.module, n)) for n in ("state", "quant_state") if hasattr(self.module, n)}
        return Snapshot(weight, bias, attributes, related)

    def write(self, weight: Tensor | None, bias: Tensor | None, layer: nn.Module) -> None:
        """Store another weight (in the module's own layout) and another bias; None leaves either unchanged.

        Args:
            weight: the weight.
            bias: the bias; it is created if the module has none.
            layer: the tuner layer around the module, which peft's back ends need for writing.
        """
        if weight is not None and self.backend is not None:
            self.backend.set_base_weight(layer, weight)
        elif weight is not None:
            self.stored.data = weight
        if bias is not None:
            self._write_bias(bias)

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the state from :meth:`snapshot`."""
        if self.backend is not None:
            snapshot.weight.__dict__.update(snapshot.weight_attributes)
            setattr(self.module, self._names.weight, snapshot.weight)
            self.module.__dict__.update(snapshot.module_attributes)
        elif self._storage is not None:
            self.stored.data = snapshot.weight.to(self.stored.device, self.stored.dtype)
        if snapshot.bias is not None:
            self._write_bias(snapshot.bias)
        elif self.has_bias:
            setattr(self.module, self._names.bias, None)

    def _write_bias(self, bias: Tensor) -> None:
        current = getattr(self.module, self._names.bias, None)
        if current is None:
            setattr(self.module, self._names.bias, nn.Parameter(bias, requires_grad=False))
        else:
            current.data = bias.to(current.device, current.dtype)

    # ---------------------------------------------------------------- quantised storage

    @property
    def quantisation(self) -> str | None:
        """The precision of the stored weight, ``"4bit"`` or ``"int8"``, or None if it is not quantised."""
        if self.backend is None:
            return None
        return "4bit" if "4" in self.backend.backend_name else "int8"

    def _dequantised(self) -> Tensor:
        """W0 (o, i) as a plain float tensor.

        On CPUs with AVX-512 bf16, bitsandbytes repacks a 4-bit weight in its first call in evaluation mode, and peft
        then dequantises the wrong layout; so a copy of such a weight is unpacked first.
        """
        weight: Any = self.stored
        state: Any = getattr(weight, "quant_state", None)
        if not getattr(state, "packing_format_for_cpu", False):
            return cast(Any, self.backend).get_base_weight(self.module)
        import bitsandbytes.functional as bnb

        packed, state = bnb._convert_weight_packed_for_cpu_inverse(weight.data, copy.copy(state))
        if not state.original_nested:
            state.absmax = state.absmax.T.reshape(-1).float()
        return bnb.dequantize_4bit(packed, state)
