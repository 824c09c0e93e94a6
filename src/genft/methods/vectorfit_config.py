"""VectorFit's configuration (the method is in ``methods/vectorfit.py``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genft.api.config import AdapterConfig, setting
from genft.methods.vector_freezing import HISTORY_FILE
from genft.ops import plan


@dataclass
class VectorFitConfig(AdapterConfig):
    """Configuration of VectorFit; by default all linear weights of every block, with adaptive vector freezing."""

    method = "vectorfit"

    train_sigma: bool = setting(True, "Whether singular values are trained.")
    train_bias: bool = setting(True, "Whether the biases of the adapted weights are trained, if they have one.")
    relative: bool = setting(
        False,
        "Train singular values relative to their initial values, as σ0 (1 + α) instead of σ0 + δ, so that the same "
        "rate means the same relative change for every weight.",
        later=True,
    )
    sigma_lr_ratio: float = setting(
        1.0,
        "Learning rate of singular values as a multiple of the adapter's; it takes effect in genft's own runs.",
        gt=0,
        later=True,
    )
    bias_lr_ratio: float = setting(
        1.0,
        "Learning rate of biases as a multiple of the adapter's; it takes effect in genft's own runs.",
        gt=0,
        later=True,
    )
    scope: str = setting(
        "block",
        "Weights to adapt if target_modules is not given. 'block': all in every layer (q, k, v, attention output, "
        "MLP); 'attention': those of attention.",
        choices=("block", "attention"),
    )
    avf: bool = setting(True, "Whether the vectors that have moved most are frozen temporarily, again and again.")
    avf_start: int = setting(100, "Optimizer steps before the first freezing (unverified constant).", ge=1)
    avf_interval: int = setting(100, "Optimizer steps between freezings (unverified constant).", ge=1)
    avf_top_k: int = setting(5, "Vectors frozen at a time, never all of them (unverified constant).", ge=1)
    avf_events: int = setting(
        10, "Total number of freezings; the vectors of the last one stay frozen (unverified constant).", ge=0
    )
    avf_beta: float = setting(0.99, "Smoothing of the training strengths over steps (unverified constant).", ge=0, lt=1)
    plan: str = setting(
        "auto",
        "How the layers are computed: 'factored' (through U and V), 'materialised' (through W0 + ΔW), 'beside' "
        "(W0 x + ΔW x), or 'auto' (the cheapest for each call).",
        choices=plan.PLANS,
    )
    exact: bool = setting(
        True,
        "Whether to use W0 itself while a weight's singular values are unchanged, so that training starts exactly at "
        "the pretrained function; otherwise the start differs by the rounding of the decomposition, about 1e-5.",
    )
    lean: bool = setting(
        False,
        "Store only the smaller of U and V and use W0 in place of the other: less memory, but float32 bases only, and "
        "directions with tiny singular values become inaccurate.",
    )
    save_bases: bool = setting(
        False, "Save U and V with the adapter, so that it does not depend on how another machine computes them."
    )

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        super().save_pretrained(str(save_directory), **kwargs)
        if history := self.derived().get("avf_history"):
            (Path(save_directory) / HISTORY_FILE).write_text(json.dumps(history) + "\n", encoding="utf-8")

    @property
    def default_scope(self) -> str:
        return self.scope

    def problems(self) -> list[str]:
        problems = super().problems()
        if not (self.train_sigma or self.train_bias):
            problems.append("train_sigma, train_bias: both are off, so nothing would be trained; switch one on")
        if self.lean and not self.exact:
            problems.append("lean, exact: the lean form always computes with W0; set exact=True or lean=False")
        return problems
