"""A standard LoRA adapter, ready to be saved, in the form that the program reads that will load it.

Each program reads less than peft writes. What it would drop or misread is refused, so that an adapter that is written
for a program means the same there:

    vLLM        r, lora_alpha and target_modules; no other module, no bias; one scale lora_alpha / r for all weights;
                r at most 512, the largest value of its --max-lora-rank
    llama.cpp   (convert_lora_to_gguf.py) lora_alpha, divided by the rank of each tensor; every tensor must be a lora_A
                or lora_B weight
    diffusers   tensors named by the part of the pipeline, in pytorch_lora_weights.safetensors; no other module
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor

from genft.bridge.adapter_file import PEFT_PREFIX
from genft.errors import ConfigError, not_one_of

#: Where diffusers' pipelines look for a LoRA adapter.
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Reader:
    """What a program can load.

    Attributes:
        biases: whether it adds the bias of lora_B.
        modules: whether it loads modules that are saved whole, such as a head.
        ranks: whether each weight may have a rank of its own.
        largest_rank: None if there is no limit.
    """

    biases: bool = False
    modules: bool = False
    ranks: bool = False
    largest_rank: int | None = None


READERS = {
    "peft": Reader(biases=True, modules=True, ranks=True),
    "vllm": Reader(largest_rank=512),
    "llama.cpp": Reader(),
    "diffusers": Reader(biases=True),
}


@dataclass(frozen=True)
class ConvertedLayer:
    """One weight: the rank of its LoRA form, and ‖ΔW − B A‖ / ‖ΔW‖ (Frobenius)."""

    module: str
    rank: int
    error: float


@dataclass(frozen=True)
class LoraAdapter:
    """A standard LoRA adapter, ready to be saved.

    Attributes:
        config: names its targets one by one where a pattern would catch others; scale 1 everywhere.
        tensors: lora_A (k, i) and lora_B (o, k) of every weight, its bias if biases were trained, and the modules
            saved whole, by peft's names.
        layers: what the conversion cost.
        exact: whether the update has low rank by construction and all of it is here.
        notes: sentences about what is unusual.
        program: what it is written for, a member of :data:`READERS`.
        base_class: the class of the adapted model.
    """

    config: LoraConfig
    tensors: dict[str, Tensor]
    layers: tuple[ConvertedLayer, ...]
    exact: bool
    notes: tuple[str, ...] = ()
    program: str = "peft"
    base_class: str = ""

    def save(self, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors; for diffusers also the file of its pipelines."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.tensors.items()}
        save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})
        if self.program == "diffusers":
            save_file(named_for_diffusers(tensors, self.base_class), folder / DIFFUSERS_WEIGHTS, {"format": "pt"})
        self.config.save_pretrained(str(folder))


def check_program(name: str) -> str:
    """``name`` if it is in :data:`READERS`.

    Raises:
        ConfigError: naming the nearest one that is.
    """
    if name not in READERS:
        raise ConfigError(not_one_of("for", name, READERS))
    return name


def fit(lora: LoraAdapter, program: str) -> LoraAdapter:
    """The adapter in the form that ``program`` reads, meaning the same.

    Raises:
        ConfigError: the program could not load a part of it.
    """
    reader = READERS[check_program(program)]
    if not reader.modules and lora.config.modules_to_save:
        raise ConfigError(
            f"to-lora: {program} loads no module besides LoRA, and this adapter has "
            f"{', '.join(lora.config.modules_to_save)}, trained in full; merge it instead, or write it for peft"
        )
    if not reader.biases and lora.config.lora_bias:
        raise ConfigError(
            f"to-lora: {program} drops the biases that this adapter has trained, so its answers would differ; merge it "
            "instead, or train without biases (VectorFit: train_bias=False)"
        )
    if not reader.ranks:
        lora = _of_one_rank(lora)
    if reader.largest_rank is not None and lora.config.r > reader.largest_rank:
        raise ConfigError(
            f"to-lora: the rank is {lora.config.r}, and {program} loads {reader.largest_rank} at most; bound it with "
            "--rank, or merge the adapter instead"
        )
    return lora


def _of_one_rank(lora: LoraAdapter) -> LoraAdapter:
    """Every pair filled up with zeros to the largest rank, so that one r and one scale of 1 hold for all."""
    rank = max(layer.rank for layer in lora.layers)
    config = replace(lora.config, r=rank, lora_alpha=rank, rank_pattern={}, alpha_pattern={})
    return replace(lora, config=config, tensors={name: _filled(name, t, rank) for name, t in lora.tensors.items()})


def _filled(name: str, tensor: Tensor, rank: int) -> Tensor:
    dim = 0 if name.endswith("lora_A.weight") else 1 if name.endswith("lora_B.weight") else None
    if dim is None or tensor.shape[dim] == rank:
        return tensor
    missing = list(tensor.shape)
    missing[dim] = rank - tensor.shape[dim]
    return torch.cat([tensor, tensor.new_zeros(missing)], dim)


def named_for_diffusers(tensors: dict[str, Tensor], class_name: str) -> dict[str, Tensor]:
    """The tensors by the names that a pipeline of diffusers knows: ``unet.….lora_A.weight``.

    Args:
        tensors: by peft's names.
        class_name: of the adapted model.
    """
    kinds = {"UNet": "unet", "TextModel": "text_encoder"}
    part = next((part for kind, part in kinds.items() if kind in class_name), "transformer")
    return {f"{part}.{name.removeprefix(PEFT_PREFIX)}": tensor for name, tensor in tensors.items()}
