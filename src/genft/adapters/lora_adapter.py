"""A standard LoRA adapter, ready to be saved in the form that the target program reads.

Each program supports only part of what peft writes. Whatever it would drop or misread is refused, so an adapter
written for a program computes the same there:

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

#: The file in which diffusers' pipelines expect a LoRA adapter.
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Reader:
    """What a program is able to load.

    Attributes:
        biases: whether it supports a bias on lora_B.
        modules: whether it loads modules that are saved in full, such as a head.
        ranks: whether the rank may differ between weights.
        largest_rank: the largest rank allowed, or None if there is no limit.
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
    """A converted weight: the rank of its LoRA form, and ‖ΔW − B A‖ / ‖ΔW‖ (Frobenius)."""

    module: str
    rank: int
    error: float


@dataclass(frozen=True)
class LoraAdapter:
    """A standard LoRA adapter, ready to be saved.

    Attributes:
        config: lists its targets individually if a pattern would match other modules; the scale is 1 everywhere.
        tensors: lora_A (k, i) and lora_B (o, k) of every weight, its bias if biases were trained, and the modules
            saved in full, under peft's names.
        layers: the rank and the approximation error of each weight.
        exact: whether the update has low rank by construction and is represented in full.
        notes: sentences about anything unusual.
        program: the target program, a key of :data:`READERS`.
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
        """Write adapter_config.json and adapter_model.safetensors; for diffusers, also the file that pipelines load."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.tensors.items()}
        save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})
        if self.program == "diffusers":
            save_file(named_for_diffusers(tensors, self.base_class), folder / DIFFUSERS_WEIGHTS, {"format": "pt"})
        self.config.save_pretrained(str(folder))


def check_program(name: str) -> str:
    """``name`` if it is in :data:`READERS`.

    Raises:
        ConfigError: ``name`` is unknown; the message gives the nearest known one.
    """
    if name not in READERS:
        raise ConfigError(not_one_of("for", name, READERS))
    return name


def fit(lora: LoraAdapter, program: str) -> LoraAdapter:
    """An equivalent adapter in the form that ``program`` reads.

    Raises:
        ConfigError: the program cannot load part of it.
    """
    reader = READERS[check_program(program)]
    if not reader.modules and lora.config.modules_to_save:
        raise ConfigError(
            f"to-lora: {program} loads only LoRA weights, but this adapter contains "
            f"{', '.join(lora.config.modules_to_save)}, trained in full; merge it instead, or write it for peft"
        )
    if not reader.biases and lora.config.lora_bias:
        raise ConfigError(
            f"to-lora: {program} drops the trained biases of this adapter, so its outputs would differ; merge it "
            "instead, or train without biases (VectorFit: train_bias=False)"
        )
    if not reader.ranks:
        lora = _of_one_rank(lora)
    if reader.largest_rank is not None and lora.config.r > reader.largest_rank:
        raise ConfigError(
            f"to-lora: the rank is {lora.config.r}, but {program} loads at most {reader.largest_rank}; limit it with "
            "--rank, or merge the adapter instead"
        )
    return lora


def _of_one_rank(lora: LoraAdapter) -> LoraAdapter:
    """Every pair padded with zeros to the largest rank, so that a single r and a scale of 1 apply to all."""
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
    """The tensors under the names that a diffusers pipeline expects: ``unet.….lora_A.weight``.

    Args:
        tensors: under peft's names.
        class_name: the class of the adapted model.
    """
    kinds = {"UNet": "unet", "TextModel": "text_encoder"}
    part = next((part for kind, part in kinds.items() if kind in class_name), "transformer")
    return {f"{part}.{name.removeprefix(PEFT_PREFIX)}": tensor for name, tensor in tensors.items()}
