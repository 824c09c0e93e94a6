"""Check that every factor gets a gradient: try a method on a tiny random weight before attaching it to a model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from genft.api.method import Site, WeightMethod

STEPS = 3


def silent_factors(method: WeightMethod, site: Site) -> list[str]:
    """Names of the factors whose gradient is exactly zero in each of the first three steps.

    Exact zeros do not depend on the values of a random weight or a random gradient, so a factor that is silent here is
    silent on every weight of this kind: A = B = 0, for example, is a saddle point that no step leaves.
    """
    o, i = (6, 6) if site.out_features == site.in_features else (6, 4)
    small = replace(site, out_features=o, in_features=i, start=0)
    # a model may be built on the meta device, and an adapter loaded under no_grad
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.enable_grad():
        torch.manual_seed(0)
        w0 = torch.randn(o, i, dtype=torch.float64)
        factors: dict[str, Tensor] = {}
        for name, factor in method.factors(small).items():
            value = torch.empty(factor.shape)
            with torch.no_grad():
                factor.init(value)
            factors[name] = value.double().requires_grad_()
        silent = set(factors)
        derived = method.derive(small, w0)
        for _ in range(STEPS):
            delta = method.delta_weight(w0, {**factors, **derived})
            if delta is None or not silent:
                return []
            offset = method.delta_bias(None, factors)
            updates = [delta] if offset is None else [delta, offset]
            gradients = torch.autograd.grad(
                updates,
                list(factors.values()),
                [torch.randn_like(update) for update in updates],
                allow_unused=True,
                materialize_grads=True,
            )
            for (name, value), gradient in zip(factors.items(), gradients, strict=True):
                if gradient.abs().max() > 0:
                    silent.discard(name)
                value.data -= 0.1 * gradient
    return sorted(silent)
