"""Transformer blocks: where a block's residual stream can be read and where its MLP's output can be added to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from genft.bridge.layer import AdapterLayer
from genft.bridge.targets import unwrap
from genft.errors import MergeError, TargetError
from genft.methods.base import BlockMethod, Site

CANNOT_MERGE = (
    "merge: this adapter computes beside the block, nonlinearly, so no change of the base weights equals it; "
    "keep it attached"
)


@dataclass(frozen=True)
class Anatomy:
    """The two places of a block that a method beside the MLP needs, as paths inside the block.

    Attributes:
        stream: the module whose input is the residual stream between attention and MLP.
        mlp_end: the module whose output is added to that stream; a method adds to this output.
    """

    stream: str
    mlp_end: str


#: Tried in order; the first of which a block has both modules describes it. Post-norm blocks (BERT) normalise after
#: the sum, so the addition is made before it; where a block scales the MLP's output, it is made after the scale.
ANATOMIES = (
    Anatomy("norm2", "ls2"),  # timm
    Anatomy("norm2", "layer_scale2"),  # DINOv2
    Anatomy("norm2", "mlp"),
    Anatomy("layernorm_after", "mlp"),  # ViT, BEiT
    Anatomy("layernorm_after", "output.dense"),  # ViT before transformers 5.10
    Anatomy("post_attention_layernorm", "mlp"),  # Llama and its kin
    Anatomy("layer_norm2", "mlp"),  # CLIP, SigLIP
    Anatomy("ln_2", "mlp"),  # GPT-2
    Anatomy("intermediate", "output.dense"),  # BERT, RoBERTa, DeBERTa
    Anatomy("ffn", "ffn"),  # DistilBERT
    Anatomy("layer_norm", "DenseReluDense"),  # T5
)


def anatomy_of(module: nn.Module) -> Anatomy | None:
    """The anatomy of a transformer block, or None for any other module."""
    for anatomy in ANATOMIES:
        if _has(module, anatomy.stream) and _has(module, anatomy.mlp_end):
            return anatomy
    return None


def find_blocks(model: nn.Module) -> list[str]:
    """Paths of the outermost transformer blocks of ``model``."""
    found: list[str] = []
    for name, module in model.named_modules():
        if name.startswith(tuple(f"{block}." for block in found)):
            continue
        if name and anatomy_of(unwrap(module)) is not None:
            found.append(name)
    return found


def block_sites(model: nn.Module, matched: Iterable[str]) -> dict[str, list[Site]]:
    """One site per matched block, with the width of its residual stream.

    Raises:
        TargetError: a matched module is not a transformer block.
    """
    sites: dict[str, list[Site]] = {}
    problems = []
    for index, path in enumerate(matched):
        block = unwrap(model.get_submodule(path))
        if anatomy_of(block) is None:
            problems.append(f"target_modules: {path} is a {type(block).__name__}, not a transformer block")
            continue
        width = stream_width(block)
        sites[path] = [Site(path, width, width, index=index)]
    if problems:
        raise TargetError(problems)
    return sites


def stream_width(block: nn.Module) -> int:
    """Width of the residual stream: the size of a normalisation over it."""
    for module in block.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 1 and "norm" in type(module).__name__.lower():
            return weight.numel()
    raise TargetError(f"target_modules: the width of {type(block).__name__} cannot be told; it has no normalisation")


class BlockLayer(AdapterLayer):
    """A transformer block with the computations of any number of adapters beside its MLP.

    The computation is attached by hooks inside the block, not around it, so that gradient checkpointing, which
    recomputes the inside of the block, recomputes it too.
    """

    def __init__(self, base_layer: nn.Module, prefix: str, shared: nn.ModuleDict | None) -> None:
        super().__init__(base_layer, prefix, shared)
        block = self.get_base_layer()
        anatomy = anatomy_of(block)
        assert anatomy is not None
        self._stream: Tensor | None = None
        self._hooks = (
            block.get_submodule(anatomy.stream).register_forward_pre_hook(self._read_stream),
            block.get_submodule(anatomy.mlp_end).register_forward_hook(self._add_beside),
        )

    def _read_stream(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not self.disable_adapters:
            self._stream = args[0]

    def _add_beside(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        x, self._stream = self._stream, None
        if x is None or self.disable_adapters:
            return None
        for name in self.active_attachments():
            attachment = self.attachments[name]
            assert isinstance(attachment.method, BlockMethod)
            for site in attachment.sites:
                factors = self.factors(name, site)
                dtype = next(iter(factors.values())).dtype
                added = attachment.method.beside_mlp(self._cast_input_dtype(x, dtype), factors, training=self.training)
                output = output + added.to(output.dtype)
        return output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_layer(*args, **kwargs)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The bare block again (peft calls this; the tuner refuses a merge before)."""
        for hook in self._hooks:
            hook.remove()
        return self.get_base_layer()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise MergeError(CANNOT_MERGE)

    def unmerge(self) -> None:
        """Nothing is ever merged."""


def _has(module: nn.Module, path: str) -> bool:
    for part in path.split("."):
        child = module._modules.get(part)
        if child is None:
            return False
        module = child
    return True
