"""SVFT against its equation, its patterns, and its count on DeBERTaV3-base."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from genft import METHODS, TargetError, VectorFitConfig, counts
from genft.api.method import Factors, Site
from genft.methods.svft import SVFT, SVFTConfig
from transcriptions import SHAPES, agree, weight


def svft_equation(w0: Tensor, f: Factors, *, pattern: str, d: int, seed: int = 0) -> Tensor:
    """W0 = U Σ Vᵀ; M is zero outside Ω; ΔW = U M Vᵀ. Entry by entry, by rows."""
    u, _, vh = torch.linalg.svd(w0, full_matrices=False)
    k = len(vh)
    if pattern in ("plain", "banded"):
        band = 0 if pattern == "plain" else d
        omega = [(p, q) for p in range(k) for q in range(k) if abs(p - q) <= band]
    else:
        n = sum(1 for p in range(k) for q in range(k) if abs(p - q) <= d)
        if pattern == "top_k":
            alignment = {(p, q): abs(float(u[:, p] @ vh[q])) for p in range(k) for q in range(k)}
            omega = sorted(sorted(alignment, key=lambda at: -alignment[at])[:n])
        else:
            drawn = torch.randperm(k * k, generator=torch.Generator().manual_seed(seed * 1_000_003))[:n].tolist()
            omega = [divmod(at, k) for at in sorted(drawn)]
    assert len(f["m"]) == len(omega)
    return sum(value * torch.outer(u[:, p], vh[q]) for value, (p, q) in zip(f["m"], omega, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pattern", ["plain", "banded", "random", "top_k"])
def test_svft_is_the_equation(pattern: str, shape: tuple[int, int]) -> None:
    method = SVFT(SVFTConfig(pattern=pattern, off_diagonals=2, seed=5))
    if pattern == "top_k" and shape[0] != shape[1]:
        (problem,) = method.check([Site("layer", *shape)])
        assert "needs square weights; layer is" in problem
        return
    agree(method, weight(*shape), partial(svft_equation, pattern=pattern, d=2, seed=5))


def test_svft_plain_is_vectorfit_without_biases() -> None:
    base, x = nn.Sequential(nn.Linear(6, 4)).double(), torch.randn(3, 6, dtype=torch.float64)
    outputs = []
    for config in (SVFTConfig(target_modules=["0"]), VectorFitConfig(target_modules=["0"], train_bias=False)):
        model = get_peft_model(nn.Sequential(*(nn.Linear(6, 4).double() for _ in base)), config)
        model.base_model.model[0].base_layer.load_state_dict(base[0].state_dict())
        (trained,) = (p for p in model.parameters() if p.requires_grad)
        with torch.no_grad():
            trained.copy_(torch.linspace(-1, 1, 4))
        outputs.append(model(x))
    torch.testing.assert_close(*outputs)
    assert (outputs[0] - base(x)).abs().max() > 0.1


def test_svft_random_differs_by_seed_and_weight() -> None:
    def positions(seed: int, index: int) -> list[int]:
        method = SVFT(SVFTConfig(pattern="random", off_diagonals=1, seed=seed))
        derived = method.derive(Site("layer", 6, 6, index=index), weight(6, 6))
        flat = (6 * derived["rows"] + derived["columns"]).tolist()
        assert len(set(flat)) == len(flat) == 6 * 3 - 2
        return flat

    assert positions(0, 0) == positions(0, 0)
    assert len({tuple(positions(*at)) for at in ((0, 0), (1, 0), (0, 1))}) == 3


def test_a_band_wider_than_the_matrix_is_refused() -> None:
    with pytest.raises(TargetError, match=r"off_diagonals: received 4; M of 0 \(4, 6\) has only 3 on each side"):
        get_peft_model(
            nn.Sequential(nn.Linear(6, 4)), SVFTConfig(target_modules=["0"], pattern="banded", off_diagonals=4)
        )


def test_saved_bases_hold_the_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def base() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 6))

    config = SVFTConfig(target_modules=["0"], pattern="random", init_weights=False, save_bases=True)
    model, x = get_peft_model(base(), config).eval(), torch.randn(2, 6)
    model.save_pretrained(tmp_path)
    reverse = {"rows": lambda t: t.flip(0), "columns": lambda t: t.flip(0)}
    derive = SVFT.derive
    monkeypatch.setattr(
        SVFT, "derive", lambda *args: {n: reverse.get(n, lambda t: t)(t) for n, t in derive(*args).items()}
    )
    with torch.no_grad():
        assert torch.equal(PeftModel.from_pretrained(base(), tmp_path).eval()(x), model(x))


def deberta_v3_base(classes: int) -> Any:
    """DeBERTaV3-base (a vocabulary of 128 tokens; no count depends on it)."""
    shape = hf.DebertaV2Config(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=128
    )
    shape.num_labels = classes
    return hf.DebertaV2ForSequenceClassification(shape)


def test_svft_counts() -> None:
    """The paper prints 0.06 M for SVFT plain on DeBERTaV3-base: 768 for each of six weights in twelve layers; with
    d = 2, 0.28 M."""
    for settings, counted, printed in (
        ({}, 768 * 6 * 12, "0.06"),
        ({"pattern": "banded", "off_diagonals": 2}, (768 * 5 - 6) * 6 * 12, "0.28"),
    ):
        found = counts.count_method(METHODS["svft"], settings, deberta_v3_base).adapter
        assert (found, f"{found / 1e6:.2f}") == (counted, printed)
