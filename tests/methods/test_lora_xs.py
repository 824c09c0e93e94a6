"""LoRA-XS against its equation, and its counts on RoBERTa-large."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from torch import Tensor, nn

from genft import METHODS, counts
from genft.api.method import Factors
from genft.methods.lora_xs import LoraXS, LoraXSConfig
from transcriptions import SHAPES, agree, weight


def lora_xs_equation(w0: Tensor, f: Factors, *, r: int, alpha: float) -> Tensor:
    """A = U_r Σ_r, B = V_rᵀ, ΔW = (alpha / r) A R B."""
    u, sigma, vh = torch.linalg.svd(w0, full_matrices=False)
    a, b = u[:, :r] @ torch.diag(sigma[:r]), vh[:r]
    return alpha / r * a @ f["r"] @ b


@pytest.mark.parametrize("shape", SHAPES)
def test_lora_xs_is_the_equation(shape: tuple[int, int]) -> None:
    agree(LoraXS(LoraXSConfig(r=3, alpha=5.0)), weight(*shape), partial(lora_xs_equation, r=3, alpha=5.0))


def test_a_small_weight_uses_all_its_singular_values() -> None:
    with pytest.warns(UserWarning, match=r"r = 5 exceeds the number of singular values of 0 \(4, 6\)"):
        model = get_peft_model(nn.Sequential(nn.Linear(6, 4)), LoraXSConfig(target_modules=["0"], r=5))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 16


def roberta_large(classes: int) -> Any:
    shape = hf.RobertaConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, vocab_size=128
    )
    shape.num_labels = classes
    return hf.RobertaForSequenceClassification(shape)


@pytest.mark.parametrize(("r", "printed"), [(4, 1.5), (8, 6.1), (12, 13.8), (16, 24.6), (20, 38.4), (25, 60.0)])
def test_lora_xs_counts(r: int, printed: float) -> None:
    """r² for each of four weights in the 24 layers of RoBERTa-large; in thousands."""
    # "output.dense" alone would name the output of attention as well
    targets = ["query", "value", "attention.output.dense", "output.dense"]
    found = counts.count_method(METHODS["lora_xs"], {"r": r, "target_modules": targets}, roberta_large).adapter
    assert found == r * r * 4 * 24
    assert round(found / 1e3, 1) == printed
