"""Every method on a GPU, against the same model on the CPU. Skipped where there is none."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from families import FAMILIES
from test_conformance import (
    MOVED,
    VARIANTS,
    adapted,
    evaluate,
    exact,
    mergeable,
    output,
    pairs,
    tolerance,
    train,
    trained,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")

FEW = [name for name in ("bert", "vit", "timm", "llama") if name in FAMILIES]
#: A shift of zero where a weight has no bias: cuBLAS takes another kernel, which rounds otherwise.
OTHER_KERNELS = [("ssf", "llama")]
#: Methods whose masks are drawn on the device differ from the CPU's.
REPEATABLE = [v for v in VARIANTS if v not in ("genft-nonlinear",)]


@pytest.fixture(autouse=True)
def float32() -> Iterator[None]:
    """Convolutions may use TF32 by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on_gpu(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cuda() for name, value in batch.items()}


def gradients(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    model(**batch).loss.backward()
    return {name: p.grad.cpu() for name, p in trained(model).items() if p.grad is not None}


def moved(variant: str, family: str) -> PeftModel:
    """Away from the start, where every factor has a gradient."""
    f = FAMILIES[family]
    model = adapted(variant, f, **(MOVED if variant in exact else {}))
    return model.eval()


@pairs(exact, FEW)
def test_starts_at_the_pretrained_function(variant: str, family: str) -> None:
    f = FAMILIES[family]
    batch = on_gpu(f.batch())
    base, start = output(f.build().cuda(), batch), output(adapted(variant, f).cuda(), batch)
    if (variant, family) in OTHER_KERNELS:
        torch.testing.assert_close(start, base, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(start, base)


@pairs(REPEATABLE, FEW)
def test_outputs_and_gradients_are_the_cpus(variant: str, family: str) -> None:
    f = FAMILIES[family]
    model, batch = moved(variant, family), f.batch()
    there = copy.deepcopy(model).cuda()
    torch.testing.assert_close(output(there, on_gpu(batch)).cpu(), output(model, batch), atol=1e-4, rtol=1e-3)
    here, other = gradients(model, batch), gradients(there, on_gpu(batch))
    assert here.keys() == other.keys()
    largest = max(float(gradient.abs().max()) for gradient in here.values())
    for name, gradient in here.items():
        # some gradients are rounding errors around zero: softmax does not see a bias of the keys
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        torch.testing.assert_close(other[name] / scale, gradient / scale, atol=1e-3, rtol=1e-3, msg=name)


@pairs(mergeable, FEW)
def test_merging_changes_nothing_and_unmerging_restores_every_bit(variant: str, family: str) -> None:
    f = FAMILIES[family]
    model, batch = moved(variant, family).cuda(), on_gpu(f.batch())
    before, weights = output(model, batch), copy.deepcopy(model.state_dict())
    model.merge_adapter()
    torch.testing.assert_close(output(model, batch), before, **tolerance(torch.float32))
    model.unmerge_adapter()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pairs(families=FEW)
def test_trains_in_bf16_autocast_and_is_saved(variant: str, family: str, tmp_path: Path) -> None:
    f = FAMILIES[family]
    model, batch = adapted(variant, f).cuda(), on_gpu(f.batch())
    start = evaluate(model, batch)
    with torch.autocast("cuda", torch.bfloat16):
        train(model, batch, lr=1e-3 if variant == "mam" else 5e-3)  # its prefix network overshoots at 5e-3
    assert evaluate(model, batch) < start
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(f.build(), str(tmp_path)).eval()
    torch.testing.assert_close(output(again.cuda(), batch), output(model, batch), atol=1e-5, rtol=1e-4)
