"""SPT-Deep's start: every prompt is a token that its block reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor

from families import FAMILIES
from genft import METHODS
from genft.data.preprocessing import Preprocessing
from genft.models.load import LoadedModel
from genft.training.attach import attach


@pytest.mark.parametrize(("family", "blocks"), [("vit", "vit.layers"), ("timm", "timm_model.blocks")])
def test_prompts_start_as_tokens_of_training_images(family: str, blocks: str) -> None:
    f = FAMILIES[family]
    pixels = f.batch()["pixel_values"]
    info = METHODS["spt_deep"]
    config = info.config(prompts=7, images=3)  # type: ignore[misc]
    model = get_peft_model(f.build(), config).eval()
    asked: list[int] = []

    def examples(n: int) -> Iterator[dict[str, Tensor]]:
        asked.append(n)
        yield from ({"pixel_values": image[None]} for image in pixels[:n])

    plain = f.build()
    read: list[Tensor] = []
    for block in plain.get_submodule(blocks):
        block.register_forward_pre_hook(lambda module, args: read.append(args[0][:, 1:].flatten(0, 1)))
    with torch.no_grad():
        plain(pixels[:3])
    torch.manual_seed(0)
    info.recipe.initialise(model, config, examples)
    assert asked == [3]
    prompts: dict[str, Any] = model.base_model.own_parameters("default")
    assert len(prompts) == len(read) == 2
    for own, tokens in zip(prompts.values(), read, strict=True):
        nearest = torch.cdist(own.detach(), tokens).min(dim=1)
        assert nearest.values.max() < 1e-4
        assert len(set(nearest.indices.tolist())) == 7
        assert own.requires_grad
    model.train()(**f.batch()).loss.backward()
    assert all(p.grad is not None for p in prompts.values())


def test_a_run_starts_so() -> None:
    """``attach`` asks the recipe once the adapter is on the model."""
    f = FAMILIES["vit"]
    loaded = LoadedModel(None, f.build(), None, Preprocessing(kind="image"), ("classifier",))  # type: ignore[arg-type]
    image = f.batch()["pixel_values"][:1]
    model: Any = attach(loaded, METHODS["spt_deep"], {"prompts": 3}, lambda n: [{"pixel_values": image}])
    with torch.no_grad():
        patches = f.build().vit.embeddings(image)[0, 1:]
    first = next(iter(model.base_model.own_parameters("default").values()))
    assert torch.cdist(first.detach(), patches).min(dim=1).values.max() < 1e-4
