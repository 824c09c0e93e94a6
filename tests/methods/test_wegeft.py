"""WeGeFT against its equation and against GenFT's row stage, and its count on RoBERTa-base."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from families import FAMILIES
from genft import METHODS, GenFTConfig, counts
from genft.api.method import Factors, Site
from genft.methods.wegeft import WeGeFT, WeGeFTConfig
from transcriptions import SHAPES, agree, weight


def wegeft_equation(w0: Tensor, f: Factors) -> Tensor:
    """ΔW = W0 φ ψ."""
    phi, psi_t = (f["u_in"], f["u_out"]) if "u_in" in f else (f["a_row"], f["b_row"])
    return w0 @ (phi @ psi_t.T)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", [{"shared_dim": 3}, {"shared_dim": 0, "specific_dim": 3}])
def test_wegeft_is_the_equation(settings: dict[str, Any], shape: tuple[int, int]) -> None:
    agree(WeGeFT(WeGeFTConfig(**settings)), weight(*shape), wegeft_equation)


@pytest.mark.parametrize("settings", [{"shared_dim": 8, "specific_dim": 0}, {"shared_dim": 0, "specific_dim": 2}])
def test_wegeft_is_genft_with_the_row_stage_alone(settings: dict[str, Any]) -> None:
    """Outputs and counts agree with GenFT's own configuration, for all weights sharing one φ and ψ."""
    row_stage = {"form": "paper", "scope": "qv", "col_stage": False, "w0_ratio": 1.0, "scaling": 1.0, "init_gain": 1.0}
    models = []
    for config in (WeGeFTConfig(share="all", **settings), GenFTConfig(**row_stage, **settings)):
        torch.manual_seed(0)
        model = get_peft_model(FAMILIES["vit"].build(), config).eval()
        torch.manual_seed(1)
        for p in model.parameters():
            if p.requires_grad:
                nn.init.normal_(p, std=0.3)
        models.append(model)
    trained = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in models]
    assert trained[0] == trained[1] > 0
    batch = FAMILIES["vit"].batch()
    first, second = (m(**batch).logits for m in models)
    assert torch.equal(first, second)
    with models[0].disable_adapter():
        assert (models[0](**batch).logits - first).abs().max() > 1e-3


def test_wegeft_starts_as_the_paper_does() -> None:
    """φ as nn.Linear's weight (r, i), ψ zero; the queries of all layers share a pair, the values another."""
    method = WeGeFT(WeGeFTConfig(shared_dim=4))
    query, value = (method.factors(Site(f"layer.{role}", 6, 9)) for role in ("query", "value"))
    assert {f.shared_as for f in query.values()} == {"u_in_9_query", "u_out_9_query"}
    assert not {f.shared_as for f in query.values()} & {f.shared_as for f in value.values()}
    phi, psi = torch.empty(9, 4), torch.empty(9, 4)
    with torch.no_grad():
        query["u_in"].init(phi)
        query["u_out"].init(psi)
    assert 0.2 < float(phi.abs().max()) <= 9**-0.5
    assert not psi.any()


def test_wegeft_counts() -> None:
    """2·d·r for queries and for values: 4·768·32 on RoBERTa-base, in however many layers."""
    assert counts.count_method(METHODS["wegeft"], {}, counts.roberta_base).adapter == 4 * 768 * 32
