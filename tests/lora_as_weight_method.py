"""LoRA written as one of our weight methods, registered for tests only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from genft.bridge import register as bridge
from genft.bridge.config import AdapterConfig, setting
from genft.methods.base import Factor, Factors, Site, WeightMethod, orthonormal_
from genft.methods.registry import METHODS, MethodInfo


@dataclass
class BridgedLoraConfig(AdapterConfig):
    method = "bridgedlora"
    r: int = setting(8, "rank")
    alpha: int = setting(8, "scale is alpha / r")


class BridgedLora(WeightMethod):
    config: BridgedLoraConfig

    def factors(self, site: Site) -> dict[str, Factor]:
        r = self.config.r
        return {"A": Factor((r, site.in_features), orthonormal_), "B": Factor((site.out_features, r), nn.init.zeros_)}

    def delta_weight(self, w0: Tensor, f: Factors, *, dropout_seed: int | Tensor | None = None) -> Tensor:
        return self.config.alpha / self.config.r * f["B"] @ f["A"]

    def low_rank(self, w0: Tensor, f: Factors) -> tuple[Tensor, Tensor]:
        return self.config.alpha / self.config.r * f["B"], f["A"].T


def bridged_lora(model: nn.Module, *, r: int, alpha: int, targets: list[str], **kwargs: Any) -> PeftModel:
    from peft.utils import PeftType

    if "BRIDGEDLORA" not in PeftType.__members__:
        info = MethodInfo("bridgedlora", "weight", "LoRA", "A, B", config=BridgedLoraConfig, method=BridgedLora)
        bridge._register(info)
    assert "bridgedlora" not in METHODS
    torch.manual_seed(1)
    return get_peft_model(model, BridgedLoraConfig(r=r, alpha=alpha, target_modules=targets, **kwargs))
