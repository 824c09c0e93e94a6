"""Methods that peft has itself, and the two baselines that need no adapter: named here, nothing re-implemented."""

from __future__ import annotations

import peft

from genft.methods.registry import MethodInfo, add

add(MethodInfo(name="full", family="baseline", paper="-", trains="every parameter of the model", mergeable=False))
add(
    MethodInfo(
        name="linear",
        family="baseline",
        paper="-",
        trains="the head alone, on frozen features",
        mergeable=False,
    )
)
add(
    MethodInfo(
        name="lora",
        family="peft",
        paper="LoRA, arXiv 2106.09685",
        trains="low-rank factors A, B of ΔW",
        config=peft.LoraConfig,
    )
)
add(
    MethodInfo(
        name="ia3",
        family="peft",
        paper="(IA)³, arXiv 2205.05638",
        trains="vectors that scale keys, values and MLP activations",
        config=peft.IA3Config,
    )
)
