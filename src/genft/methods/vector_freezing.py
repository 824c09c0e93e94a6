"""Adaptive vector freezing (AVF) of VectorFit: the vectors that have moved most are paused while the others catch up.

    S_v(t) = ‖v(t) − v(0)‖₁ / dim v,   S̃ ← β S̃ + (1 − β) S after every optimizer step

After ``avf_start`` steps, and every ``avf_interval`` steps from then on, the ``avf_top_k`` vectors with the largest S̃
are frozen until the next event, for at most ``avf_events`` events (arXiv 2503.19530).

No code has to call this. A hook that torch runs before the step of every optimizer finds the vectors among its
parameters and clears the gradients of the frozen ones, so that the optimizer skips them: no update, no momentum, no
weight decay. ``requires_grad`` never changes, because DDP and compiled graphs do not support that, so peft's switches
have nothing to undo. Gradients are cleared after clipping, whose norm therefore includes frozen vectors. In DDP, all
processes hold the same vectors and decide identically.

The state is stored in the optimizer's parameter group, next to its learning rate, so it is saved and restored with the
optimizer's state, by transformers.Trainer and by hand-written loops alike. One optimizer may hold the vectors of
several models: the state of each is stored under the position of its first vector among the optimizer's parameters,
which a checkpoint preserves. Within a state, everything is keyed by the vector's name, so vectors may come and go.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

HISTORY_FILE = "avf_history.json"
KEY = "genft_avf"

State = dict[str, Any]


@runtime_checkable
class FreezingSettings(Protocol):
    """The settings that AVF reads from a configuration."""

    avf_start: int
    avf_interval: int
    avf_top_k: int
    avf_events: int
    avf_beta: float


class AdaptiveVectorFreezing:
    """AVF of one adapter.

    Args:
        settings: steps, events, and the number of frozen vectors.
        adapter_name: peft's name of the adapter.
        vectors: looks up the trained vectors by name, as offsets v − v(0).
    """

    def __init__(
        self, settings: FreezingSettings, adapter_name: str, vectors: Callable[[], dict[str, nn.Parameter]]
    ) -> None:
        self.settings = settings
        self.adapter_name = adapter_name
        self.vectors = vectors
        self._states: dict[int, State] = {}  # by the id of the optimizer that holds them
        self._watching = True  # until an optimizer that holds the vectors has stepped
        self._forwards = 0
        self._moves = 0
        self._seen: list[Tensor] = []
        _LIVE.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_states": {}}  # a copied model is in no optimizer yet

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _LIVE.add(self)  # a copied model freezes its own vectors

    @property
    def history(self) -> dict[str, Any] | None:
        """``{"vectors": names, "events": [...]}`` of all optimizers together, or None before the first step.

        An event holds "step" (optimizer steps before it), "frozen" (names), and "strength": the last known S̃ of every
        vector, in the order of "vectors".
        """
        if not self._states:
            return None
        names, by_step = list(self.vectors()), dict[int, tuple[list[str], dict[str, float]]]()
        for state in self._states.values():
            for event in state["events"]:
                frozen, strength = by_step.setdefault(event["step"], ([], {}))
                frozen += event["frozen"]
                strength.update(
                    zip(state["names"], event["strength"], strict=False)
                )  # names that were added later come last
        known, events = dict.fromkeys(names, 0.0), []
        for step, (frozen, strength) in sorted(by_step.items()):
            known |= strength
            events.append({"step": step, "frozen": frozen, "strength": [known[name] for name in names]})
        return {"vectors": names, "events": events}

    def before_step(self, optimizer: Optimizer) -> list[nn.Parameter]:
        """Count a step of ``optimizer``, freeze again if it is time, and return the vectors frozen in this step."""
        position = {id(p): n for n, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
        held = {name: p for name, p in self.vectors().items() if id(p) in position}
        if not held or not any(p.requires_grad for p in held.values()):
            return []
        self._watching, self._seen = False, []
        label = f"{self.adapter_name}@{min(position[id(p)] for p in held.values())}"
        first = next(iter(held.values()))
        home = next((g for g in optimizer.param_groups if label in g.get(KEY, {})), None) or next(
            g for g in optimizer.param_groups if any(p is first for p in g["params"])
        )
        states = home.get(KEY, {})
        # a checkpoint of an earlier version stores only the adapter's name
        before = states.get(label, states.get(self.adapter_name))
        state = self._advance(before, {name: p for name, p in held.items() if p.requires_grad})
        home[KEY] = {**states, label: state}  # a new dict, so that a state dict taken earlier does not change
        self._remember(optimizer, state)
        return [held[name] for name in state["frozen"] if name in held]

    @torch.no_grad()
    def _advance(self, state: State | None, trained: dict[str, nn.Parameter]) -> State:
        """The state before the coming step, computed from the state before the last step.

        A vector that the user has frozen keeps its strength and is not ranked; a new one starts at zero.
        """
        names = list(trained)
        if state is None:
            return {"steps": 0, "names": names, "strength": torch.zeros(len(names)), "frozen": [], "events": []}
        c, steps, now = self.settings, state["steps"] + 1, strengths(list(trained.values()))
        smoothed, known = state["strength"].to(now.device), state.get("names", names)
        if known == names:
            smoothed = torch.lerp(smoothed, now, 1 - c.avf_beta)
        else:
            known = [*known, *(name for name in names if name not in known)]
            smoothed = torch.cat([smoothed, smoothed.new_zeros(len(known) - len(smoothed))])
            places = torch.tensor([known.index(name) for name in names], device=now.device)
            smoothed[places] = torch.lerp(smoothed[places], now, 1 - c.avf_beta)
        frozen, events = state["frozen"], state["events"]
        if steps >= c.avf_start and (steps - c.avf_start) % c.avf_interval == 0 and len(events) < c.avf_events:
            values = smoothed.tolist()
            strength = dict(zip(known, values, strict=True))
            frozen = sorted(names, key=lambda name: -strength[name])[: min(c.avf_top_k, len(names) - 1)]
            events = [*events, {"step": steps, "frozen": frozen, "strength": values}]
        return {"steps": steps, "names": known, "strength": smoothed, "frozen": frozen, "events": events}

    def _remember(self, optimizer: Optimizer, state: State) -> None:
        """Store the state for the history; it replaces that of another optimizer that held the same vectors before."""
        for other, known in list(self._states.items()):
            if other != id(optimizer) and not set(known["names"]).isdisjoint(state["names"]):
                del self._states[other]
        self._states[id(optimizer)] = state

    def before_forward(self) -> None:
        """Warn, once, if the vectors are trained by something that AVF cannot see."""
        if not self._watching or not torch.is_grad_enabled():
            return
        self._forwards += 1
        if self._forwards > 16 and self._forwards.bit_count() > 1:  # check the first passes, then less and less often
            return
        now = [p.detach().clone() for p in self.vectors().values() if p.requires_grad and not p.is_meta]
        if len(now) == len(self._seen):
            self._moves += not all(map(torch.equal, self._seen, now))
        self._seen = now
        if self._moves == 2:  # a single change may be the user setting values
            self._watching, self._seen = False, []
            warnings.warn(
                f"VectorFit: ADAPTIVE VECTOR FREEZING IS NOT RUNNING. The vectors of adapter {self.adapter_name!r} "
                "change, but no torch optimizer that holds them has stepped. Train them with a torch.optim optimizer "
                "over the model's own parameters, or set avf=False",
                UserWarning,
                stacklevel=2,
            )


def strengths(offsets: list[nn.Parameter]) -> Float[Tensor, " n"]:
    """S of every vector (n,), the mean absolute value of its offset, in float32."""
    norms = torch._foreach_norm(list[Tensor](offsets), 1)
    sizes = torch.tensor([p.numel() for p in offsets], device=norms[0].device)
    summed = torch.stack([n.to(sizes.device) for n in norms])
    return (summed.full_tensor() if isinstance(summed, DTensor) else summed).float() / sizes


_LIVE: weakref.WeakSet[AdaptiveVectorFreezing] = weakref.WeakSet()


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """Runs before the step of every torch optimizer in this process; ``args`` starts with the optimizer."""
    frozen = [p for avf in list(_LIVE) for p in avf.before_step(optimizer)]

    def clear() -> None:
        for p in frozen:
            p.grad = None

    clear()
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None or not frozen:
        return None

    def closure_and_clear() -> Any:  # LBFGS and Lightning compute the gradients inside the step
        loss = closure()
        clear()
        return loss

    return args[:1], {**kwargs, "closure": closure_and_clear}


register_optimizer_step_pre_hook(_before_step)
