"""VAPT: the grid follows from the model, and another number of tokens is refused."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from families import FAMILIES
from genft import METHODS, ConfigError
from genft.methods.vapt import VAPTConfig


@pytest.mark.parametrize("family", ["vit", "dinov2", "timm"])
def test_the_grid_follows_from_the_model(family: str) -> None:
    assert METHODS["vapt"].recipe.settings(FAMILIES[family].build(), 10) == {"grid": 2}  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["dinov2", "timm"])
def test_the_grid_follows_from_the_size_of_the_images(family: str) -> None:
    model = FAMILIES[family].build()
    own = model.config.image_size if family == "dinov2" else model.timm_model.patch_embed.img_size[0]  # type: ignore
    assert METHODS["vapt"].recipe.settings(model, 10, 2 * own) == {"grid": 4}  # type: ignore[arg-type]


def test_another_number_of_tokens_is_refused() -> None:
    model = get_peft_model(FAMILIES["vit"].build(), VAPTConfig())
    with pytest.raises(ConfigError, match=r"grid: received 14, i.e. 196 patches .* blocks read 5 tokens"):
        model(**FAMILIES["vit"].batch())


def test_a_kernel_larger_than_the_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match="kernel: received 3; allowed: at most the grid, which is 2"):
        VAPTConfig(grid=2, kernel=3)


def test_prompts_of_later_blocks_follow_the_image_and_start_at_zero() -> None:
    config = VAPTConfig(grid=2, kernel=1, prompts=4)
    model = get_peft_model(FAMILIES["vit"].build(), config).eval()
    method = model.base_model.adapters["default"].method
    (first,), (second,) = model.base_model.adapters["default"].sites.values()
    layer = model.base_model.model.get_submodule(second.module)
    x = torch.randn(2, 5, 32)
    made = method.prompts(x, layer.factors("default", second), training=False)
    assert made.shape == (2, 4, 32)
    assert not made.any()
    assert set(method.factors(first)) == {"prompts"}
    with torch.no_grad():
        layer.factors("default", second)["token_weight"].normal_()
    made = method.prompts(x, layer.factors("default", second), training=False)
    assert not torch.allclose(made[0], made[1])
