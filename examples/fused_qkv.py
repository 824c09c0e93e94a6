"""Adapt only the query and value rows of a fused qkv weight: what peft's own tuners cannot target.

A timm vision transformer, random here; for a pretrained one use
TimmWrapperForImageClassification.from_pretrained("timm/vit_base_patch16_224.augreg_in21k").
"""

import torch
from peft import get_peft_model
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from genft import GenFTConfig


def main() -> dict[str, int]:
    size = {"img_size": 32, "embed_dim": 64, "depth": 2, "num_heads": 4}
    config = TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args=size, num_labels=10)
    model = get_peft_model(
        TimmWrapperForImageClassification(config),
        GenFTConfig(target_slices={"qkv": ["q", "v"]}, shared_dim=8, modules_to_save=["head"]),
    )
    model(pixel_values=torch.randn(2, 3, 32, 32), labels=torch.tensor([3, 7])).loss.backward()
    counts = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    for name, count in counts.items():
        print(f"{count:6}  {name.removeprefix('base_model.')}")
    return counts


if __name__ == "__main__":
    main()
