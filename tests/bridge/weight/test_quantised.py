"""Bases quantised by bitsandbytes, on the CPU: the update is generated from the dequantised weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from genft import BaseMismatchError, GenFTConfig, MergeError

bnb = pytest.importorskip("bitsandbytes")

FORMS: list[dict[str, Any]] = [{"relative_limit": 0.5}, {"act_row": "tanh", "act_col": "gelu", "dropout": 0.1}]


def plain(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32)).eval()


def quantised(bits: int, seed: int = 0, packed: bool = True) -> nn.Module:
    linear: Any = (
        (lambda i, o: bnb.nn.Linear8bitLt(i, o, has_fp16_weights=False))
        if bits == 8
        else (lambda i, o: bnb.nn.Linear4bit(i, o, compute_dtype=torch.float32))
    )
    model = nn.Sequential(linear(64, 64), nn.Tanh(), linear(64, 32))
    model.load_state_dict(plain(seed).state_dict())
    model = model.to("cpu").eval()
    if packed:
        with torch.no_grad():
            model(torch.randn(2, 64))  # bitsandbytes repacks for the CPU in the first call in evaluation
    return model


def adapted(base: nn.Module, **settings: Any) -> PeftModel:
    torch.manual_seed(1)
    config = GenFTConfig(target_modules=["0", "2"], shared_dim=4, init_weights=False, **settings)
    return get_peft_model(base, config).eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.02), (4, 0.3)])
def test_trains_saves_merges_and_unmerges(bits: int, tolerance: float, form: dict[str, Any], tmp_path: Path) -> None:
    x = torch.randn(5, 64)
    with torch.no_grad():
        base = quantised(bits)(x)
        rounding = (plain()(x) - base).abs().max()
        model = adapted(quantised(bits), **form)
        wanted = model(x)
        assert (wanted - adapted(plain(), **form)(x)).abs().max() < tolerance
        assert (wanted - base).abs().max() > 0.03
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        for again in (quantised(bits), plain()):
            loaded = PeftModel.from_pretrained(again, tmp_path).eval()
            torch.testing.assert_close(loaded(x), wanted, atol=2 * float(rounding), rtol=0)
        model.merge_adapter()
        torch.testing.assert_close(model(x), wanted, atol=2 * float(rounding), rtol=0)
        with pytest.raises(MergeError, match="can hold only one merged adapter"):
            model.base_model.model[0].frozen_weight()
        model.unmerge_adapter()
        torch.testing.assert_close(model(x), wanted, atol=1e-6, rtol=1e-5)
    # bitsandbytes 0.50 cannot go back to training with a bias after it has repacked, with or without an adapter
    model = adapted(quantised(bits, packed=False), **form)
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("bits", [8, 4])
def test_another_quantised_base_is_refused(bits: int, tmp_path: Path) -> None:
    adapted(plain()).save_pretrained(tmp_path)
    PeftModel.from_pretrained(quantised(bits), tmp_path)
    with pytest.raises(BaseMismatchError, match="away from the one the adapter was trained on"):
        PeftModel.from_pretrained(quantised(bits, seed=3), tmp_path)
