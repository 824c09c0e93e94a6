"""Generating text with a key-value cache: what an adapter adds to the base model, with updates cached or recomputed.

python benchmarks/decode.py --threads 1 --clock cpu
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import common
from genft import GenFTConfig, VectorFitConfig

NONLINEAR = {"form": "paper", "specific_dim": 2, "act_row": "leaky_relu", "act_col": "leaky_relu"}
TARGETS = ["q_proj", "v_proj"]
QV = {"target_modules": TARGETS, "shared_dim": 32, "task_type": "CAUSAL_LM"}
#: A configuration, and the size limit of the update cache (None: the default).
CASES: dict[str, tuple[Any, int | None]] = {
    "base": (None, None),
    "LoRA r=8": (lambda: LoraConfig(r=8, target_modules=TARGETS, task_type="CAUSAL_LM"), None),
    "GenFT": (lambda: GenFTConfig(**QV), None),
    "GenFT, thin factors kept": (lambda: GenFTConfig(**QV, plan="factored"), None),
    "GenFT, nothing kept": (lambda: GenFTConfig(**QV), 0),
    "GenFT nonlinear": (lambda: GenFTConfig(**QV, **NONLINEAR), None),
    "GenFT nonlinear, nothing kept": (lambda: GenFTConfig(**QV, **NONLINEAR), 0),
    "VectorFit": (lambda: VectorFitConfig(avf=False, task_type="CAUSAL_LM"), None),
    "VectorFit, nothing kept": (lambda: VectorFitConfig(avf=False, task_type="CAUSAL_LM"), 0),
}


def model(case: str, d: int, layers: int) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=d,
        intermediate_size=4 * d,
        num_hidden_layers=layers,
        num_attention_heads=d // 64,
        num_key_value_heads=d // 64,
    )
    base = LlamaForCausalLM(config).eval()
    make, limit = CASES[case]
    if make is None:
        return base
    adapted = get_peft_model(base, make()).eval()
    if limit is not None:
        adapted.base_model.update_cache.limit = limit
    return adapted


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--width", type=int, default=768)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--tokens", type=int, default=32, help="tokens to generate after a prompt of 16")
    p.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    args = p.parse_args()
    timing = common.timing(args)
    prompt = torch.randint(5, 2000, (1, 16))
    models = {case: model(case, args.width, args.layers) for case in args.cases}
    settings = {"max_new_tokens": args.tokens, "min_new_tokens": args.tokens, "do_sample": False, "pad_token_id": 0}
    seconds = common.seconds(
        {case: lambda m=m: m.generate(input_ids=prompt, **settings) for case, m in models.items()}, **timing
    )
    rows = [
        {
            "case": case,
            "ms per token": 1e3 * seconds[case] / args.tokens,
            "of base": seconds[case] / seconds["base"],
            "kept MB": m.base_model.update_cache.nbytes / 1e6 if hasattr(m.base_model, "update_cache") else 0.0,
        }
        for case, m in models.items()
    ]
    common.report("decode", rows, args)


if __name__ == "__main__":
    main()
