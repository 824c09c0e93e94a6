"""Trained parameters and bytes kept for the backward pass, for a decoder of seven billion parameters.

    python benchmarks/decoder_7b.py

Everything happens on torch's meta device, without values: the whole model for the counts, one layer of it for the
bytes. "Kept" counts every storage that autograd saves once, without parameters and tensors derived from W0, beyond
what the frozen base keeps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import common
from genft import GenFTConfig, VectorFitConfig

QUERY_VALUE = ["q_proj", "v_proj"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, Callable[[], Any] | None] = {
    "frozen base": None,
    "GenFT, default": lambda: GenFTConfig(),
    "GenFT, scope attention": lambda: GenFTConfig(scope="attention"),
    "GenFT, a = 27": lambda: GenFTConfig(shared_dim=27),
    "GenFT, leaky_relu rows": lambda: GenFTConfig(act_row="leaky_relu"),
    "VectorFit, default": lambda: VectorFitConfig(),
    "LoRA r = 8, q and v": lambda: LoraConfig(r=8, target_modules=QUERY_VALUE),
    "LoRA r = 8, all linear": lambda: LoraConfig(r=8, target_modules=ALL),
    "LoRA r = 1, all linear": lambda: LoraConfig(r=1, target_modules=ALL),
}


def model(layers: int, config: Any) -> nn.Module:
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32_000}
    with torch.device("meta"):
        base = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **sizes)).to(torch.bfloat16)
    return base.requires_grad_(False) if config is None else get_peft_model(base, config)


def kept(adapted: nn.Module, tokens: int) -> int:
    """Bytes that autograd saves in a forward pass of the layers over ``tokens`` tokens."""
    derived = (t for m in adapted.modules() for t in getattr(m, "tensors", {}).values())  # VectorFit's U and V
    hidden = torch.empty(1, tokens, 4096, dtype=torch.bfloat16, device="meta", requires_grad=True)
    mask = torch.empty(1, 1, tokens, tokens, dtype=torch.bfloat16, device="meta")  # making one needs values
    adapted.train()
    return common.kept_bytes(
        lambda: adapted(inputs_embeds=hidden, attention_mask=mask, use_cache=False, logits_to_keep=1),
        exclude=(*adapted.parameters(), *adapted.buffers(), *derived),
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, nargs="+", default=[256, 1024, 4096])
    given = options.parse_args()
    print("| | trained | " + " | ".join(f"kept by a layer, {n:,} tokens" for n in given.tokens) + " |")
    print("|---|---:|" + "---:|" * len(given.tokens))
    base: dict[int, int] = {}
    for name, make in CASES.items():
        trained = sum(p.numel() for p in model(32, make and make()).parameters() if p.requires_grad)
        layer = model(1, make and make())
        sizes = {n: kept(layer, n) for n in given.tokens}
        if make is None:
            base = sizes
            continue
        cells = (f"{(sizes[n] - base[n]) / 1e6:,.1f} MB" for n in given.tokens)
        print(f"| {name} | {trained:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
