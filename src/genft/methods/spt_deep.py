"""Self-prompt tuning, deep: prompts that start as patch tokens of the block that they enter (arXiv 2402.02382).

    E_l     patch tokens that block l + 1 reads for training images, without prompts
    P_l     prompts of block l + 1, trained; initially random rows of E_l              (p, d)

The rest is VPT-Deep (``methods/vpt.py``). The initialisation needs training images, so ``genft`` performs it in its own
runs (:class:`SelfPrompts`); with the configuration alone, prompts start as in VPT.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from genft.api.config import setting
from genft.api.recipe import Examples, Recipe
from genft.api.registry import register
from genft.methods.vpt import VPTConfig, VPTDeep


@dataclass
class SPTDeepConfig(VPTConfig):
    """Configuration of SPT-Deep; trains p·d parameters per block of width d."""

    method = "spt_deep"

    prompts: int = setting(20, "p: number of prompts.", gt=0)
    images: int = setting(64, "Training images from whose tokens the initial prompts are drawn.", gt=0)


class SelfPrompts(Recipe):
    """Draws the prompts of every block from the tokens that it reads."""

    def initialise(self, model: Any, config: SPTDeepConfig, examples: Examples) -> None:
        prompts: dict[str, nn.Parameter] = model.base_model.own_parameters(model.active_adapter)
        tokens: dict[str, list[Tensor]] = defaultdict(list)
        base, handles = model.get_base_model(), []
        for name in prompts:
            block = base.get_submodule(name.removesuffix(".prompts"))
            watch = partial(_keep, tokens[name], config.prompts)
            handles.append(block.register_forward_pre_hook(watch, with_kwargs=True))
        with torch.no_grad(), model.disable_adapter():
            for inputs in examples(config.images):
                base(**inputs)
        for handle in handles:
            handle.remove()
        for name, parameter in prompts.items():
            drawn = _some(torch.cat(tokens[name]), config.prompts)
            again = -(-config.prompts // len(drawn))  # fewer tokens than prompts: repeat them
            parameter.data.copy_(drawn.repeat(again, 1)[: config.prompts])


def _keep(tokens: list[Tensor], n: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Keep ``n`` of the patch tokens that a block reads for each image; more cannot be drawn from one image."""
    x = args[0] if args else next(iter(kwargs.values()))
    tokens.extend(_some(image[1:], n) for image in x.detach())


def _some(tokens: Tensor, n: int) -> Tensor:
    """``n`` distinct rows at random, or all of them if there are fewer."""
    return tokens[torch.randperm(len(tokens))[:n].to(tokens.device)]


@register(
    "spt_deep",
    config=SPTDeepConfig,
    paper="SPT, arXiv 2402.02382",
    trains="prompts at every block, initialised from the block's own patch tokens",
    group="paper",
    kinds=("image",),
    recipe=SelfPrompts(),
)
class SPTDeep(VPTDeep):
    """VPT-Deep with prompts initialised from patch tokens."""
