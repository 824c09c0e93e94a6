"""VectorFit on bases quantised by bitsandbytes: the dequantised weight is decomposed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from genft import BaseMismatchError, VectorFitConfig

bnb = pytest.importorskip("bitsandbytes")


def base(bits: int | None) -> nn.Module:
    linear: dict[int | None, Any] = {
        None: nn.Linear,
        8: lambda i, o: bnb.nn.Linear8bitLt(i, o, has_fp16_weights=False),
        4: lambda i, o: bnb.nn.Linear4bit(i, o, compute_dtype=torch.float32),
    }
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32))
    model = nn.Sequential(linear[bits](64, 64), nn.Tanh(), linear[bits](64, 32))
    model.load_state_dict(plain.state_dict())
    return model.to("cpu")


@pytest.mark.parametrize("bits", [8, 4])
def test_starts_exactly_trains_and_loads(bits: int, tmp_path: Path) -> None:
    x = torch.randn(16, 64)
    model = get_peft_model(base(bits), VectorFitConfig(target_modules=["0", "2"]))
    assert torch.equal(model(x), base(bits)(x))
    target = get_peft_model(base(bits), VectorFitConfig(target_modules=["0", "2"], init_weights=False))(x).detach()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    losses = []
    for _ in range(60):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model.eval()(x)  # bitsandbytes repacks 4-bit weights here, and computes in bf16 from then on
        assert torch.equal(PeftModel.from_pretrained(base(bits), tmp_path).eval()(x), wanted)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_base_of_another_precision_than_that_of_training(bits: int, tmp_path: Path) -> None:
    """It is refused, and both ways out that the message names work."""
    x = torch.randn(16, 64)
    config = VectorFitConfig(target_modules=["0", "2"], init_weights=False)
    get_peft_model(base(bits), config).save_pretrained(tmp_path / "first")
    name = "4bit" if bits == 4 else "int8"
    advice = rf"load the base in {name}, or store the vectors where it was trained: load it there with save_bases=True"
    with pytest.raises(BaseMismatchError, match=advice):
        PeftModel.from_pretrained(base(None).to(torch.bfloat16), tmp_path / "first")
    here = PeftModel.from_pretrained(base(bits), tmp_path / "first").eval()
    wanted = here(x).detach()
    stored = PeftConfig.from_pretrained(tmp_path / "first")
    stored.save_bases = True
    PeftModel.from_pretrained(base(bits), tmp_path / "first", config=stored).save_pretrained(tmp_path / "second")
    loaded = PeftModel.from_pretrained(base(None).to(torch.bfloat16), tmp_path / "second").eval()
    plain = base(None)(x)
    assert (loaded(x.to(torch.bfloat16)).float() - wanted).norm() < 0.25 * (wanted - plain).norm()
