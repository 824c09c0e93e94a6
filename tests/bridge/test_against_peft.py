"""peft's own tuners as independent checks of the bridge: their formulas as weight methods give what peft gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from genft.api.config import AdapterConfig
from genft.api.method import Factor, Factors, Site, WeightMethod
from genft.api.registry import MethodInfo
from genft.bridge.register import register

IN, HIDDEN, OUT = 12, 9, 7
RANK, FREQUENCIES = 3, 20
#: Frozen tensors that peft draws at random and our formula must share.
FROZEN: dict[str, Tensor] = {}


@dataclass
class LoraFormulaConfig(AdapterConfig):
    method = "lora_formula"


class LoraFormula(WeightMethod):
    """ΔW = (alpha / r) B A, with alpha = 2 r."""

    def factors(self, site: Site) -> dict[str, Factor]:
        return {
            "lora_A": Factor((RANK, site.in_features), nn.init.normal_),
            "lora_B": Factor((site.out_features, RANK), nn.init.normal_),
        }

    def delta_weight(self, w0: Tensor, f: Factors, *, dropout_seed: int | Tensor | None = None) -> Tensor:
        return 2 * f["lora_B"] @ f["lora_A"]


@dataclass
class VeraFormulaConfig(AdapterConfig):
    method = "vera_formula"


class VeraFormula(WeightMethod):
    """ΔW = diag(b) B diag(d) A, with A and B cut out of what all weights share."""

    def factors(self, site: Site) -> dict[str, Factor]:
        return {
            "vera_lambda_d": Factor((RANK,), nn.init.normal_),
            "vera_lambda_b": Factor((site.out_features,), nn.init.normal_),
        }

    def delta_weight(self, w0: Tensor, f: Factors, *, dropout_seed: int | Tensor | None = None) -> Tensor:
        a, b = FROZEN["vera_A"][:, : w0.shape[1]].to(w0.dtype), FROZEN["vera_B"][: w0.shape[0]].to(w0.dtype)
        return torch.diag(f["vera_lambda_b"]) @ b @ torch.diag(f["vera_lambda_d"]) @ a


@dataclass
class FourierFormulaConfig(AdapterConfig):
    method = "fourier_formula"


class FourierFormula(WeightMethod):
    """ΔW = α · Re(F⁻¹(E)), where E is zero but for the trained coefficients."""

    def factors(self, site: Site) -> dict[str, Factor]:
        return {"fourierft_spectrum": Factor((FREQUENCIES,), nn.init.normal_)}

    def delta_weight(self, w0: Tensor, f: Factors, *, dropout_seed: int | Tensor | None = None) -> Tensor:
        o, i = w0.shape
        rows, columns = FROZEN.get(f"indices {o}", torch.zeros(2, FREQUENCIES))
        j, k = torch.arange(o)[:, None, None], torch.arange(i)[None, :, None]
        angle = 2 * torch.pi * (j * rows / o + k * columns / i)
        return 10.0 * (f["fourierft_spectrum"] * torch.cos(angle)).sum(-1) / (o * i)


@dataclass
class IA3FormulaConfig(AdapterConfig):
    method = "ia3_formula"


class IA3Formula(WeightMethod):
    """W = diag(l) W0 and b = l ⊙ b0 for keys and values (here "0"), W = W0 diag(l) for the MLP ("2")."""

    def factors(self, site: Site) -> dict[str, Factor]:
        shape = (1, site.in_features) if site.module == "2" else (site.out_features, 1)
        return {"ia3_l": Factor(shape, nn.init.ones_)}

    def delta_weight(self, w0: Tensor, f: Factors, *, dropout_seed: int | Tensor | None = None) -> Tensor:
        return (f["ia3_l"] - 1) * w0

    def delta_bias(self, b0: Tensor | None, f: Factors) -> Tensor | None:
        return None if b0 is None or f["ia3_l"].shape[0] == 1 else (f["ia3_l"][:, 0] - 1) * b0


def _share(model: PeftModel) -> None:
    for name, buffer in model.named_buffers():
        if "vera_" in name:
            FROZEN[name.split(".")[-2]] = buffer
    for module in model.modules():
        if hasattr(module, "fourierft_spectrum"):
            FROZEN[f"indices {module.out_features}"] = module.indices["default"]


TARGETS: dict[str, Any] = {"target_modules": ["0", "2"]}
CASES: dict[str, tuple[type, type, Callable[[], peft.PeftConfig]]] = {
    "lora": (LoraFormula, LoraFormulaConfig, lambda: peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, **TARGETS)),
    "vera": (VeraFormula, VeraFormulaConfig, lambda: peft.VeraConfig(r=RANK, **TARGETS)),
    "fourierft": (
        FourierFormula,
        FourierFormulaConfig,
        lambda: peft.FourierFTConfig(n_frequency=FREQUENCIES, scaling=10.0, **TARGETS),
    ),
    "ia3": (IA3Formula, IA3FormulaConfig, lambda: peft.IA3Config(feedforward_modules=["2"], **TARGETS)),
}


def base() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(IN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUT))


SYMBOLS = ("lora_A", "lora_B", "vera_lambda_d", "vera_lambda_b", "fourierft_spectrum", "ia3_l")


def trained(model: nn.Module) -> dict[tuple[str, str], nn.Parameter]:
    """(module, symbol) → parameter: ("2", "lora_A")."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts = set(name.split("."))
            (module,), (symbol,) = parts & {"0", "2"}, parts & set(SYMBOLS)
            found[module, symbol] = parameter
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_same_outputs_gradients_and_merged_weights(name: str) -> None:
    method, config, peft_config = CASES[name]
    register(MethodInfo(config.method, "weight", "-", "-", config=config, method=method), method)
    theirs = get_peft_model(base(), peft_config())
    _share(theirs)
    ours = get_peft_model(base(), config(**TARGETS))
    reference, mine = trained(theirs), trained(ours)
    assert reference.keys() == mine.keys()
    for key, parameter in reference.items():
        nn.init.normal_(parameter)
        mine[key].data.copy_(parameter.data.view_as(mine[key]))
    x = torch.randn(5, IN)
    y = theirs(x)
    assert not torch.allclose(y, base()(x), atol=1e-2)
    torch.testing.assert_close(ours(x), y, atol=1e-5, rtol=1e-4)
    for model in (theirs, ours):
        model(x).square().sum().backward()
    for key, parameter in reference.items():
        torch.testing.assert_close(mine[key].grad.view_as(parameter), parameter.grad, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ours.merge_and_unload()(x), theirs.merge_and_unload()(x), atol=1e-5, rtol=1e-4)
