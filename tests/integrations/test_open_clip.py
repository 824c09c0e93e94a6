"""OpenCLIP: its attention is torch's, whose fast path in evaluation must not go past the adapter."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

import genft

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "open_clip_pairs.py"


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    vision = {"layers": 2, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 16}
    return open_clip.model.CLIP(32, vision, {"context_length": 16, "width": 32, "heads": 2, "layers": 2})


def test_the_example() -> None:
    before, after = runpy.run_path(str(EXAMPLE))["main"](small(), lambda t: open_clip.tokenize(t, 16), 16, 60)
    assert after == 1 > before


def test_the_adapter_takes_effect_in_evaluation_and_merges() -> None:
    model, images = small().eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        base = model.encode_image(images)
        adapted = get_peft_model(
            model, genft.GenFTConfig(target_slices={"attn": ["q", "v"]}, init_weights=False)
        ).eval()
        moved = adapted.encode_image(images)
        assert not torch.allclose(moved, base, atol=1e-4)
        torch.testing.assert_close(adapted.merge_and_unload().encode_image(images), moved, atol=1e-5, rtol=1e-4)
