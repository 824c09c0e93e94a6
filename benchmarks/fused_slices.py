"""Adapting the q and v rows of a fused model against adapting q and v of the same model unfused.

    python benchmarks/fused_slices.py UNFUSED_FOLDER FUSED_FOLDER

UNFUSED_FOLDER holds a transformers vision model with separate q, k and v, FUSED_FOLDER the same weights for timm. For
every weight method it prints the trained parameters of both, and the largest relative differences of their outputs and
gradients.
"""

from __future__ import annotations

import argparse

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForImageClassification

from genft import METHODS


def load(folder: str) -> torch.nn.Module:
    return AutoModelForImageClassification.from_pretrained(folder, num_labels=10, dtype=torch.float32).eval()


def features(model: PeftModel, x: Tensor) -> Tensor:
    """The last hidden states, before any head (the two libraries pool differently)."""
    base = model.base_model.model
    if hasattr(base, "timm_model"):
        return base.timm_model.forward_features(x)
    return next(m for n, m in base.named_children() if n != "classifier")(x).last_hidden_state


def trained(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def by_site(model: PeftModel) -> dict[tuple[int, str], torch.nn.Parameter]:
    """(index of the site in the model, symbol) → tensor, with the same keys for both models."""
    sites = model.base_model.adapters["default"].sites
    tensors = {}
    names = dict(model.base_model.model.named_modules())
    for path, group in sites.items():
        for site in group:
            for symbol, tensor in names[path].factors("default", site).items():
                tensors[site.index, symbol] = tensor
    return tensors


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("unfused")
    parser.add_argument("fused")
    parser.add_argument(
        "--pixels", type=int, default=518, help="an image size at which neither library resizes the position embeddings"
    )
    options = parser.parse_args()
    torch.manual_seed(1)
    x = torch.randn(1, 3, options.pixels, options.pixels)
    print(f"{'method':14} {'parameters':>22} {'outputs':>9} {'gradients':>9}")
    for name, info in METHODS.items():
        if info.family != "weight" or info.method.bias_only:
            continue
        settings = {"init_weights": False}
        if name == "genft":
            settings |= {"act_row": "leaky_relu", "act_col": "gelu", "scaling": 0.1}
        fused = get_peft_model(load(options.fused), info.config(target_slices={"qkv": ["q", "v"]}, **settings))
        unfused = get_peft_model(load(options.unfused), info.config(target_modules=["q_proj", "v_proj"], **settings))
        ours, theirs = by_site(fused), by_site(unfused)
        with torch.no_grad():
            for key, tensor in ours.items():
                tensor.copy_(theirs[key])
        a, b = features(fused, x), features(unfused, x)
        a.square().mean().backward()
        b.square().mean().backward()
        differences = [
            relative(t.grad, theirs[k].grad) for k, t in ours.items() if t.requires_grad and theirs[k].grad is not None
        ]
        counts = [sum(p.numel() for p in trained(m).values()) for m in (fused, unfused)]
        print(f"{name:14} {counts[0]:>10,} = {counts[1]:>9,} {relative(a, b):9.1e} {max(differences):9.1e}")
        assert counts[0] == counts[1]


if __name__ == "__main__":
    main()
