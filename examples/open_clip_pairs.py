"""Adapt OpenCLIP, whose attention is torch's nn.MultiheadAttention, to pairs of images and captions.

peft's own tuners adapt the whole fused in_proj weight; here q and v of both towers are adapted, as rows of it.

    pip install genft open_clip_torch
    python examples/open_clip_pairs.py

The weights are random, so that nothing is downloaded: pass pretrained="laion2b_s34b_b79k" to use real ones.
"""

from __future__ import annotations

from typing import Any

import open_clip
import torch
from peft import get_peft_model
from torch import Tensor
from torch.nn import functional as F

import genft

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "yellow": (1.0, 1.0, 0.0)}


def pairs(size: int, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Images (n, 3, size, size) of one colour each, with a little noise, and their captions as tokens (n, length)."""
    images = torch.stack([torch.tensor(rgb)[:, None, None].expand(3, size, size) for rgb in COLOURS.values()])
    return images + 0.1 * torch.randn_like(images), tokenizer([f"a {name} square" for name in COLOURS])


def loss(model: Any, images: Tensor, texts: Tensor) -> Tensor:
    """The contrastive loss of CLIP."""
    image, text, scale = model(images, texts)
    logits, target = scale * image @ text.T, torch.arange(len(image))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def accuracy(model: Any, images: Tensor, texts: Tensor) -> float:
    """The share of images whose own caption is nearest."""
    image, text, _ = model.eval()(images, texts)
    return float(((image @ text.T).argmax(1) == torch.arange(len(image))).float().mean())


def main(model: Any = None, tokenizer: Any = None, size: int = 224, steps: int = 30) -> tuple[float, float]:
    torch.manual_seed(0)
    if model is None:
        model = open_clip.create_model("ViT-B-32", pretrained=None)
        tokenizer = open_clip.get_tokenizer("ViT-B-32")
    config = genft.GenFTConfig(target_slices={"attn": ["q", "v"]})  # every module called attn, in both towers
    model = get_peft_model(model, config)
    model.print_trainable_parameters()

    images, texts = pairs(size, tokenizer)
    before = accuracy(model, images, texts)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, images, texts).backward()
        optimizer.step()
    after = accuracy(model, images, texts)
    print(f"own caption nearest: {before:.2f} before, {after:.2f} after {steps} steps")

    merged = model.merge_and_unload()  # a plain OpenCLIP model again
    assert accuracy(merged, images, texts) == after
    return before, after


if __name__ == "__main__":
    main()
