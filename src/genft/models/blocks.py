"""Transformer blocks: how to recognise them, and where in them a method can read and add."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from genft.errors import TargetError
from genft.models.weights import unwrap


@dataclass(frozen=True)
class Anatomy:
    """The start and end of a block's MLP, as paths inside the block.

    Attributes:
        stream: the module whose input is the residual stream between attention and MLP.
        mlp_end: the module whose output is added to that stream; a method changes this output.
    """

    stream: str
    mlp_end: str


#: Tried in order: the first entry whose two modules exist describes the block. Post-norm blocks (BERT) normalise after
#: the sum, so the output is changed before the sum and after dropout; if a block scales it, after the scale.
ANATOMIES = (
    Anatomy("norm2", "ls2"),  # timm
    Anatomy("norm2", "layer_scale2"),  # DINOv2
    Anatomy("norm2", "mlp"),
    Anatomy("layernorm_after", "mlp"),  # ViT, BEiT
    Anatomy("layernorm_after", "output.dense"),  # ViT before transformers 5.10
    Anatomy("post_attention_layernorm", "mlp"),  # Llama and its kin
    Anatomy("layer_norm2", "mlp"),  # CLIP, SigLIP
    Anatomy("ln_2", "mlp"),  # GPT-2
    Anatomy("intermediate", "output.dropout"),  # BERT, RoBERTa, DeBERTa
    Anatomy("ffn", "ffn"),  # DistilBERT
    Anatomy("layer_norm", "DenseReluDense"),  # T5
)

#: Modules whose output is what attention adds to the residual stream; the first one that exists is used.
ATTENTION_ENDS = (
    "ls1",  # timm
    "layer_scale1",  # DINOv2
    "attention.output.dropout",  # BERT, RoBERTa, DeBERTa
    "attention.o_proj",  # ViT
    "attention.output.dense",  # BEiT; ViT before transformers 5.10
    "attention.out_lin",  # DistilBERT
    "self_attn.o_proj",  # Llama and its kin
    "self_attn.out_proj",  # CLIP, SigLIP
    "attn.resid_dropout",  # GPT-2
    "attn.proj_drop",  # other blocks of timm
)


@dataclass(frozen=True)
class Attention:
    """A self-attention over a list of tokens, as paths inside the block.

    Attributes:
        path: the attention.
        keys_values: the two modules that compute keys and values, or the one that computes queries, keys and values.
    """

    path: str
    keys_values: tuple[str, ...]


ATTENTIONS = (
    Attention("attention.self", ("key", "value")),  # BERT, RoBERTa
    Attention("attention.attention", ("key", "value")),  # ViT before transformers 5.10
    Attention("attention", ("k_proj", "v_proj")),  # ViT, DINOv2
    Attention("self_attn", ("k_proj", "v_proj")),  # CLIP, SigLIP
    Attention("attn", ("qkv",)),  # timm
)


@dataclass(frozen=True)
class Projections:
    """The linear maps of a block's attention and the normalisation before it, as paths inside the block.

    Attributes:
        norm: the normalisation.
        inputs: what computes queries, keys and values: three modules or a fused one.
        output: what projects the heads' outputs.
    """

    norm: str
    inputs: tuple[str, ...]
    output: str


PROJECTIONS = (
    Projections("norm1", ("attn.qkv",), "attn.proj"),  # timm
    Projections("norm1", ("attention.q_proj", "attention.k_proj", "attention.v_proj"), "attention.o_proj"),  # DINOv2
    Projections(
        "layernorm_before", ("attention.q_proj", "attention.k_proj", "attention.v_proj"), "attention.o_proj"
    ),  # ViT
    Projections(
        "layernorm_before",
        ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        "attention.output.dense",
    ),  # ViT before transformers 5.10
)
#: What stands where queries are not normalised.
Plain = (nn.Identity, type(None))
#: Names of the attribute that is the number of an attention's heads.
HEADS = ("num_heads", "num_attention_heads")
#: Names of the argument of a block that is the mask of its attention.
MASKS = ("attention_mask", "attn_mask")
#: Names of the position embeddings of a vision transformer.
POSITION_EMBEDDINGS = ("pos_embed", "position_embeddings")

#: Names of arguments and parameters that show an attention to depend on positions; tokens cannot be added to it.
POSITIONS = re.compile("pos|rope|rel_|relative")


def anatomy_of(module: nn.Module) -> Anatomy | None:
    """The anatomy of a transformer block, or None for any other module."""
    return next((a for a in ANATOMIES if _has(module, a.stream) and _has(module, a.mlp_end)), None)


def attention_end_of(block: nn.Module) -> str | None:
    """Path of the module whose output is what attention adds to the residual stream."""
    return next((path for path in ATTENTION_ENDS if _has(block, path)), None)


def attention_of(block: nn.Module) -> Attention | None:
    """The block's attention, or None if no tokens can be added: a decoder's, or one that depends on positions."""
    for attention in ATTENTIONS:
        if all(_has(block, f"{attention.path}.{name}") for name in attention.keys_values):
            module = unwrap(block.get_submodule(attention.path))
            names = [*argument_names(module), *argument_names(block), *(name for name, _ in module.named_parameters())]
            plain = not any(POSITIONS.search(name) for name in names) and not getattr(module, "is_decoder", False)
            return attention if plain else None
    return None


def projections_of(block: nn.Module) -> Projections | None:
    """The projections of the block's attention, or None if it has others, or normalises queries and keys."""
    attention = attention_of(block)
    if attention is None or not isinstance(getattr(block.get_submodule(attention.path), "q_norm", None), Plain):
        return None
    return next(
        (p for p in PROJECTIONS if all(_has(block, path) for path in (p.norm, *p.inputs, p.output))),
        None,
    )


def heads_of(block: nn.Module) -> int:
    """The number of heads of the block's attention."""
    attention = attention_of(block)
    module: Any = block.get_submodule(attention.path) if attention else block
    return next(getattr(module, name) for name in HEADS if hasattr(module, name))


def head_width_of(block: nn.Module) -> int:
    """The width of the keys of one head, or 0 if the block has no known projections."""
    attention = attention_of(block)
    if attention is None or projections_of(block) is None:
        return 0
    return getattr(block.get_submodule(attention.path), "head_dim", stream_width(block) // heads_of(block))


def takes_score_offsets(block: nn.Module) -> bool:
    """Whether the block takes a mask that its attention adds to its scores; flash and flex attention take others."""
    attention = attention_of(block)
    if attention is None or not any(name in MASKS for name in argument_names(block)):
        return False
    config = getattr(block.get_submodule(attention.path), "config", None)
    return getattr(config, "_attn_implementation", None) in (None, "eager", "sdpa")


def position_embeddings_of(model: nn.Module) -> nn.Parameter | None:
    """The position embeddings (1, tokens, width) that a vision transformer adds before its first block, or None."""
    named = model.named_parameters()
    return next((p for name, p in named if name.rpartition(".")[2] in POSITION_EMBEDDINGS and p.dim() == 3), None)


def argument_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of the module's forward pass, in order."""
    return tuple(inspect.signature(type(module).forward).parameters)[1:]


def norms_of(block: nn.Module) -> tuple[str, ...]:
    """Paths of the layer normalisations over the block's residual stream."""
    width = stream_width(block)
    return tuple(
        name
        for name, module in block.named_modules()
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine and module.normalized_shape == (width,)
    )


def find_blocks(model: nn.Module) -> list[str]:
    """Paths of the outermost transformer blocks of ``model``."""
    blocks: list[str] = []
    for path, module in model.named_modules():
        if path.startswith(tuple(f"{block}." for block in blocks)):
            continue
        if path and anatomy_of(unwrap(module)) is not None:
            blocks.append(path)
    return blocks


def takes_images(model: nn.Module) -> bool:
    """Whether the model's input is an image: transformers' models declare it, timm's have a patch embedding."""
    return getattr(model, "main_input_name", None) == "pixel_values" or hasattr(model, "patch_embed")


def stream_width(block: nn.Module) -> int:
    """The width of the residual stream, taken from a normalisation over it.

    Raises:
        TargetError: the block has no normalisation.
    """
    for module in block.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 1 and "norm" in type(module).__name__.lower():
            return weight.numel()
    raise TargetError(
        f"target_modules: the width of {type(block).__name__} cannot be determined; it has no normalisation"
    )


def _has(module: nn.Module, path: str) -> bool:
    for part in path.split("."):
        child = unwrap(module)._modules.get(part)
        if child is None:
            return False
        module = child
    return True
