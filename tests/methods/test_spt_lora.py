"""SPT-LoRA: its update, and its choice, against literal transcriptions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from families import FAMILIES
from genft import METHODS, ConfigError
from genft.api.method import Site
from genft.data.preprocessing import Preprocessing
from genft.methods.spt_lora import WHOLE, SPTLora, SPTLoraConfig, choose, pack, unpack
from genft.models.load import LoadedModel
from genft.training.attach import attach


def test_the_update_is_lora_or_single_entries() -> None:
    torch.manual_seed(0)
    w0, b0 = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    where = [1, 7, 19]
    method = SPTLora(SPTLoraConfig(r=2, sensitive={"m": pack(torch.tensor(where)), "m.bias": pack(torch.tensor([3]))}))
    site = Site("m", 5, 4, has_bias=True)
    assert {name: factor.shape for name, factor in method.factors(site).items()} == {"entries": (3,), "bias": (1,)}
    entries = torch.randn(3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(1, dtype=torch.float64, requires_grad=True)
    f = {"entries": entries, "bias": bias, **method.derive(site, w0)}
    delta, offset = method.delta_weight(w0, f), method.delta_bias(b0, f)
    assert delta is not None
    assert offset is not None
    wanted = torch.zeros(5, 4, dtype=torch.float64)
    for k, p in enumerate(where):
        wanted[p // 4, p % 4] = entries.detach()[k]
    assert torch.equal(delta.detach(), wanted)
    assert offset.tolist() == [0, 0, 0, bias.item(), 0]
    g = torch.randn(5, 4, dtype=torch.float64)
    (got,) = torch.autograd.grad(delta, entries, g)
    assert torch.equal(got, torch.stack([g[p // 4, p % 4] for p in where]))

    lora = SPTLora(SPTLoraConfig(r=2))
    a, b = torch.randn(2, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    delta = lora.delta_weight(w0, {"A": a, "B": b})
    assert delta is not None
    x = torch.randn(4, dtype=torch.float64)
    torch.testing.assert_close(delta @ x, b @ (a @ x))


def chosen_literally(scores: dict[str, Tensor], budget: int, r: int, alpha: float, beta: float) -> dict[str, Any]:
    """One pass over all taus, entry by entry."""
    entries = sorted(
        ((float(v), name, k) for name, s in scores.items() for k, v in enumerate(s.flatten())), reverse=True
    )
    best: tuple[float, dict[str, Any]] = math.inf, {}
    for step in range(1, 201):
        tau = step * budget // 50
        if not 0 < tau <= len(entries):
            continue
        sensitive: dict[str, list[int]] = {}
        for _, name, k in entries[:tau]:
            sensitive.setdefault(name, []).append(k)
        total, chosen = 0.0, dict[str, Any]()
        for name, positions in sensitive.items():
            shape = scores[name].shape
            whole = shape[0] if len(shape) == 1 else r * (shape[0] + shape[1])
            if len(positions) >= (shape[0] / beta if len(shape) == 1 else whole / alpha):
                chosen[name], total = WHOLE, total + whole
            else:
                chosen[name], total = sorted(positions), total + len(positions)
        if abs(total - budget) < best[0]:
            best = abs(total - budget), chosen
    return best[1]


@pytest.mark.parametrize("budget", [50, 120, 400])
def test_the_choice_is_the_papers(budget: int) -> None:
    torch.manual_seed(1)
    scores = {
        "a": torch.rand(12, 9) ** 2 * 3, "a.bias": torch.rand(12), "b": torch.rand(7, 20) ** 4, "b.bias": torch.rand(7)
    }  # fmt: skip
    config = SPTLoraConfig(r=2, alpha=10.0, beta=5.0, budget=budget)
    chosen = {k: v if v == WHOLE else unpack(v, 999).tolist() for k, v in choose(scores, config).items()}
    assert chosen == chosen_literally(scores, budget, 2, 10.0, 5.0)


def test_positions_survive_packing_and_strangers_get_nothing() -> None:
    positions = torch.tensor([0, 1, 5, 700_000])
    assert torch.equal(unpack(pack(positions), 4), positions)
    assert len(unpack(pack(positions), 3)) == 0
    assert len(unpack("no base64!", 9)) == 0
    with pytest.raises(ConfigError, match="alpha: received 4; must be at least r = 8"):
        SPTLoraConfig(alpha=4.0)


@pytest.mark.parametrize("family", ["vit", "timm", "dinov2", "bert"])
def test_a_run_chooses_saves_and_merges(family: str, tmp_path: Any) -> None:
    f = FAMILIES[family]
    base = f.build()
    loaded = LoadedModel(None, base, None, Preprocessing(kind="image"), f.head)  # type: ignore[arg-type]
    batch = f.batch()
    asked = []

    def losses(n: int, size: int) -> Iterator[Tensor]:
        asked.append((n, size))
        for _ in range(n):
            yield base(**batch).loss  # type: ignore[operator]

    settings = {"r": 4, "budget": 900, "batches": 2, "batch_size": 4}
    model: Any = attach(loaded, METHODS["spt_lora"], settings, lambda n: [], losses)
    assert asked == [(2, 4)]
    config = model.peft_config["default"]
    assert config.sensitive
    assert {v == WHOLE for v in config.sensitive.values()} == {True, False}
    own = [p for n, p in model.named_parameters() if p.requires_grad and "spt_lora_" in n]
    # whole matrices come at once, so small models reach a budget only roughly
    assert 600 < sum(p.numel() for p in own) < 1000
    optimizer = torch.optim.SGD(own, lr=1.0)
    model.train()(**batch).loss.backward()
    assert all(p.grad is not None for p in own)
    optimizer.step()
    model.eval()
    with torch.no_grad():
        wanted = model(**batch).logits
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(f.build(), tmp_path).eval()
        assert torch.equal(again(**batch).logits, wanted)
        torch.testing.assert_close(again.merge_and_unload()(**batch).logits, wanted, atol=2e-5, rtol=1e-4)


def test_an_adapter_of_another_model_is_refused() -> None:
    f = FAMILIES["vit"]
    with pytest.raises(ConfigError, match="sensitive: 'elsewhere' is no adapted weight"):
        get_peft_model(f.build(), SPTLoraConfig(sensitive={"elsewhere": WHOLE}))
