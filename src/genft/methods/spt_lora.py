"""SPT-LoRA: sensitivity decides what is trained in every weight (arXiv 2303.08566, Sections 3.1 and 3.2).

    s        Σ over batches of (∂loss / ∂w)², for every entry w of the adapted weights and biases
    τ        how many entries are sensitive: those with the largest s
    matrix   (o, i): LoRA of rank r, if at least r (o + i) / α of its entries are sensitive; otherwise these alone
    vector   (n,): trained whole, if at least n / β of its entries are sensitive; otherwise these alone

τ is chosen so that the number of trained parameters is closest to ``budget``. The choice needs labelled examples, so
``genft`` makes it in its own runs (:class:`Sensitivity`); with the configuration alone, everything counts as sensitive.
"""

from __future__ import annotations

import base64
import functools
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from genft.api.config import AdapterConfig, setting
from genft.api.method import Factor, Factors, Site, WeightMethod
from genft.api.recipe import Losses, Recipe
from genft.api.registry import register
from genft.models.architectures import default_targets, ends_with, fused_layout, linear_names
from genft.models.weights import FrozenWeight
from genft.ops.initial import linear_

WHOLE = "whole"


@dataclass
class SPTLoraConfig(AdapterConfig):
    """Configuration of SPT-LoRA; by default the linear weights inside the transformer's blocks, and their biases."""

    method = "spt_lora"

    r: int = setting(8, "Rank of LoRA on a sensitive matrix.", gt=0)
    budget: int = setting(400_000, "The number of trained parameters that the choice aims at.", gt=0)
    alpha: float = setting(10.0, "α: a matrix gets LoRA if r (o + i) / α entries are sensitive; at least r.", gt=0)
    beta: float = setting(5.0, "β: a bias of n numbers is trained whole if n / β are sensitive.", ge=1)
    batches: int = setting(8, "Batches of training examples over which the sensitivity is summed.", gt=0)
    batch_size: int = setting(64, "Examples in each of these batches.", gt=0)
    sensitive: dict[str, str] | None = setting(
        None,
        "What is trained: 'whole' or the packed positions of single entries, by weight ('path', 'path[slice]') and "
        "bias ('path.bias'); a run fills it in, and it is saved with the adapter.",
        repr=False,
    )

    @property
    def default_scope(self) -> str:
        return "block"

    def problems(self) -> list[str]:
        problems = super().problems()
        if not problems and self.alpha < self.r:
            problems.append(
                f"alpha: received {self.alpha:g}; must be at least r = {self.r}, so that single entries stay few"
            )
        return problems


def pack(positions: Tensor) -> str:
    """Ascending positions (n,) as text: their differences, compressed."""
    steps = np.diff(positions.cpu().numpy(), prepend=0).astype("<u4")
    return base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode()


@functools.lru_cache(maxsize=4096)
def unpack(text: str, most: int) -> Tensor:
    """The positions that :func:`pack` wrote; none if there are more than ``most`` or the text is something else."""
    try:
        expand = zlib.decompressobj()
        steps = np.frombuffer(expand.decompress(base64.b64decode(text, validate=True), 4 * most), "<u4")
    except (ValueError, zlib.error):
        return torch.empty(0, dtype=torch.long)
    done = expand.eof and not (len(steps) > 1 and (steps[1:] == 0).any())
    return torch.from_numpy(np.cumsum(steps.astype(np.int64))) if done else torch.empty(0, dtype=torch.long)


class Part(NamedTuple):
    """A weight or a bias that may be trained: its name in ``sensitive``, its shape, and its numbers in the model."""

    name: str
    shape: tuple[int, ...]
    parameter: nn.Parameter
    rows: slice


class Sensitivity(Recipe):
    """Finds out what is sensitive, before the adapter is attached."""

    def found_in_training(self, model: Any, config: SPTLoraConfig, losses: Losses) -> dict[str, Any]:
        if config.sensitive is not None:
            return {}
        found = parts(model, config)
        parameters = list({id(part.parameter): part.parameter for part in found}.values())
        sums = {id(p): torch.zeros_like(p, dtype=torch.float32) for p in parameters}
        for loss in losses(config.batches, config.batch_size):
            for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                sums[id(p)] += gradient.float() ** 2
        scores = {part.name: sums[id(part.parameter)][part.rows] for part in found}
        return {"sensitive": choose(scores, config)}


def parts(model: Any, config: SPTLoraConfig) -> list[Part]:
    """The adapted weights, or row slices of them, and their biases."""
    targets: Any = config.target_modules
    slices: Any = config.target_slices
    if targets is None:
        targets, slices = (
            (sorted(slices), slices) if slices else default_targets(model, model.config.model_type, "block")
        )
    found = []
    for path in linear_names(model):
        hit = re.fullmatch(targets, path) if isinstance(targets, str) else any(ends_with(path, t) for t in targets)
        if not hit:
            continue
        w0 = FrozenWeight.of(model.get_submodule(path))
        module: Any = w0.module
        rows: dict[str | None, tuple[int, int]] = {None: (0, w0.out_features)}
        wanted = next((value for key, value in (slices or {}).items() if ends_with(path, key)), None)
        if isinstance(wanted, dict):
            rows = dict(wanted)
        elif wanted is not None:
            layout = fused_layout(path, w0.module, model, w0.out_features, w0.in_features)
            rows = {name: layout[name] for name in wanted}
        for name, (start, stop) in rows.items():
            site = Site(path, stop - start, w0.in_features, name, start)
            of_site = slice(start, stop)
            found.append(Part(str(site), (stop - start, w0.in_features), module.weight, of_site))
            if module.bias is not None:
                found.append(Part(f"{site}.bias", (stop - start,), module.bias, of_site))
    return found


def choose(scores: Mapping[str, Tensor], config: SPTLoraConfig) -> dict[str, str]:
    """What is trained, from the sensitivity of every entry of every weight (o, i) and bias (n,), by name.

    τ is the multiple of budget / 50, up to four times the budget, whose choice trains the number of parameters that is
    closest to it.
    """
    sizes = [score.numel() for score in scores.values()]
    flat = torch.cat([score.flatten() for score in scores.values()])
    most = torch.arange(1, 201) * config.budget // 50
    order = flat.topk(min(int(most[-1]), len(flat))).indices.cpu()
    owner = torch.searchsorted(torch.tensor(sizes).cumsum(0), order, right=True)

    def count(tau: int) -> Tensor:
        return torch.bincount(owner[:tau], minlength=len(sizes))

    shapes = [tuple(score.shape) for score in scores.values()]
    enough = torch.tensor([_enough(shape, config) for shape in shapes])
    cost = torch.tensor([_cost_of_whole(shape, config) for shape in shapes])

    def trained(tau: int) -> int:
        sensitive = count(tau)
        return int(torch.where(sensitive >= enough, cost, sensitive).sum())

    taus = [int(tau) for tau in most if 0 < tau <= len(flat)] or [len(flat)]
    tau = min(taus, key=lambda tau: abs(trained(tau) - config.budget))
    sensitive, chosen = count(tau), {}
    starts = torch.tensor([0, *sizes]).cumsum(0)
    for part, name in enumerate(scores):
        if sensitive[part] >= enough[part]:
            chosen[name] = WHOLE
        elif sensitive[part]:
            chosen[name] = pack((order[:tau][owner[:tau] == part] - starts[part]).sort().values)
    return chosen


def _enough(shape: Sequence[int], config: SPTLoraConfig) -> float:
    """How many sensitive entries make a matrix or a vector be trained as a whole."""
    return shape[0] / config.beta if len(shape) == 1 else config.r * sum(shape) / config.alpha


def _cost_of_whole(shape: Sequence[int], config: SPTLoraConfig) -> int:
    return shape[0] if len(shape) == 1 else config.r * sum(shape)


@register(
    "spt_lora",
    config=SPTLoraConfig,
    paper="SPT, arXiv 2303.08566",
    trains="LoRA on the weights that are most sensitive to the task, and single entries of the others",
    group="paper",
    recipe=Sensitivity(),
)
class SPTLora(WeightMethod[SPTLoraConfig]):
    """ΔW = B A, or ΔW with the trained ``entries`` at the sensitive positions; Δb likewise."""

    def factors(self, site: Site) -> dict[str, Factor]:
        zero = nn.init.zeros_ if self.config.init_weights else functools.partial(nn.init.normal_, std=0.1)
        factors: dict[str, Factor] = {}
        weight, bias = self._positions(site, bias=False), self._positions(site, bias=True)
        if weight is None:
            factors["A"] = Factor((self.config.r, site.in_features), linear_)
            factors["B"] = Factor((site.out_features, self.config.r), zero)
        elif len(weight):
            factors["entries"] = Factor((len(weight),), zero)
        if bias is None or len(bias):
            factors["bias"] = Factor((site.out_features if bias is None else len(bias),), zero)
        return factors

    def _positions(self, site: Site, *, bias: bool) -> Tensor | None:
        """The trained positions of a site's weight, row by row, or of its bias; None if it is trained whole."""
        if bias and not site.has_bias:
            return torch.empty(0, dtype=torch.long)
        if self.config.sensitive is None:
            return None
        text = self.config.sensitive.get(f"{site}.bias" if bias else str(site), "")
        if text == WHOLE:
            return None
        size = site.out_features * (1 if bias else site.in_features)
        positions = (
            unpack(text, self.config.r * (site.out_features + site.in_features)) if text else torch.empty(0).long()
        )
        return positions[positions < size]

    def check(self, sites: Sequence[Site]) -> list[str]:
        if self.config.sensitive is None:
            return []
        named = {name for site in sites for name in (str(site), f"{site}.bias")}
        lost = [name for name in self.config.sensitive if name not in named]
        return [f"sensitive: {lost[0]!r} is no adapted weight or bias of this model"] if lost else []

    def derive(self, site: Site, w0: Tensor) -> dict[str, Tensor]:
        found = {"positions": self._positions(site, bias=False), "bias_positions": self._positions(site, bias=True)}
        return {name: p.to(w0.device) for name, p in found.items() if p is not None and len(p)}

    def delta_weight(
        self, w0: Float[Tensor, "o i"], f: Factors, *, dropout_seed: int | Tensor | None = None
    ) -> Float[Tensor, "o i"] | None:
        if "A" in f:
            return f["B"] @ f["A"]
        if "entries" not in f:
            return None
        return _placed(f["entries"], f["positions"], w0.numel()).view(w0.shape)

    def low_rank(
        self, w0: Float[Tensor, "o i"], f: Factors
    ) -> tuple[Float[Tensor, "o k"], Float[Tensor, "i k"]] | None:
        return (f["B"], f["A"].T) if "A" in f else None

    def delta_bias(self, b0: Float[Tensor, " o"] | None, f: Factors) -> Float[Tensor, " o"] | None:
        if "bias_positions" in f and "bias" in f and b0 is not None:
            return _placed(f["bias"], f["bias_positions"], len(b0))
        return f.get("bias")


def _placed(values: Tensor, positions: Tensor, size: int) -> Tensor:
    """``values`` at ``positions`` of a vector of zeros."""
    return values.new_zeros(size).index_put((positions,), values)
