"""Adaptive vector freezing (AVF) of VectorFit: the vectors that have moved most pause while the others catch up.

    S_v(t) = ‖v(t) − v(0)‖₁ / dim v,   S̃ ← β S̃ + (1 − β) S after every optimizer step

After ``avf_start`` steps, and every ``avf_interval`` steps from then on, the ``avf_top_k`` vectors of largest S̃ are
frozen until the next time, ``avf_events`` times at most (arXiv 2503.19530).

Nobody has to call this. A hook that torch runs before the step of every optimizer finds the vectors among its
parameters and clears the gradients of the frozen ones, so that the optimizer skips them: no update, no momentum, no
weight decay. ``requires_grad`` never changes, which DDP and compiled graphs could not bear, and peft's switches of
adapters have nothing to undo. Gradients are cleared after clipping, whose norm therefore counts frozen vectors. In DDP
all processes hold the same vectors and decide alike.

The state lives in the optimizer's parameter group, beside its learning rate: it is saved and restored with the
optimizer's state, by transformers.Trainer and by hand-written loops alike.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

HISTORY_FILE = "avf_history.json"
KEY = "genft_avf"


class AdaptiveVectorFreezing:
    """AVF of one adapter.

    Args:
        config: holds ``avf_start``, ``avf_interval``, ``avf_top_k``, ``avf_events``, ``avf_beta``, and gets
            ``avf_history``.
        adapter_name: peft's name of the adapter.
        vectors: looks up the trained vectors by name, as offsets v − v(0).
    """

    def __init__(self, config: Any, adapter_name: str, vectors: Callable[[], dict[str, nn.Parameter]]) -> None:
        self.config = config
        self.adapter_name = adapter_name
        self.vectors = vectors
        self._watching = True  # until an optimizer that holds the vectors has stepped
        self._forwards = 0
        self._moves = 0
        self._seen: list[Tensor] = []
        _LIVE.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _LIVE.add(self)  # the copy of a model freezes its own vectors

    def before_step(self, optimizer: Optimizer) -> list[nn.Parameter]:
        """Count a step of ``optimizer``, freeze anew where it is time, and return what is frozen in this step."""
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        held = {name: p for name, p in self.vectors().items() if id(p) in group_of and p.requires_grad}
        if not held:
            return []
        self._watching, self._seen = False, []
        group = group_of[id(next(iter(held.values())))]
        states = group.get(KEY, {})
        state = self._advance(states.get(self.adapter_name), held)
        group[KEY] = {**states, self.adapter_name: state}  # anew, so that a state dict taken earlier stays as it was
        self.config.avf_history = {"vectors": list(held), "events": state["events"]}
        return [held[name] for name in state["frozen"] if name in held]

    @torch.no_grad()
    def _advance(self, state: dict[str, Any] | None, held: dict[str, nn.Parameter]) -> dict[str, Any]:
        """The state before the coming step, from that before the last one."""
        if state is None:
            return {"steps": 0, "strength": torch.zeros(len(held)), "frozen": [], "events": []}
        c, steps = self.config, state["steps"] + 1
        now = strengths(list(held.values()))
        smoothed = torch.lerp(state["strength"].to(now.device), now, 1 - c.avf_beta)
        frozen, events = state["frozen"], state["events"]
        if steps >= c.avf_start and (steps - c.avf_start) % c.avf_interval == 0 and len(events) < c.avf_events:
            names, values = list(held), smoothed.tolist()
            strongest = sorted(range(len(names)), key=lambda n: -values[n])
            frozen = [names[n] for n in strongest[: min(c.avf_top_k, len(names) - 1)]]
            events = [*events, {"step": steps, "frozen": frozen, "strength": values}]
        return {"steps": steps, "strength": smoothed, "frozen": frozen, "events": events}

    def before_forward(self) -> None:
        """Say, once, where the vectors are trained by something that AVF cannot see."""
        if not self._watching or not torch.is_grad_enabled():
            return
        self._forwards += 1
        if self._forwards > 16 and self._forwards.bit_count() > 1:  # look at the first ones, then ever more rarely
            return
        now = [p.detach().clone() for p in self.vectors().values() if p.requires_grad]
        if len(now) == len(self._seen):
            self._moves += not all(map(torch.equal, self._seen, now))
        self._seen = now
        if self._moves == 2:  # once may be someone setting values
            self._watching, self._seen = False, []
            warnings.warn(
                f"VectorFit: ADAPTIVE VECTOR FREEZING IS NOT RUNNING. The vectors of adapter {self.adapter_name!r} "
                "change, but no torch optimizer that holds them has stepped. Train them with a torch.optim optimizer "
                "over the model's own parameters, or set avf=False",
                UserWarning,
                stacklevel=2,
            )


def strengths(offsets: list[nn.Parameter]) -> Tensor:
    """S of every vector from its offset: the mean of its absolute values (n,), in float32."""
    norms = torch._foreach_norm(list[Tensor](offsets), 1)
    sizes = torch.tensor([p.numel() for p in offsets], device=norms[0].device)
    summed = torch.stack([n.to(sizes.device) for n in norms])
    return (summed.full_tensor() if isinstance(summed, DTensor) else summed).float() / sizes


def save_history(history: dict[str, Any], folder: str | Path) -> None:
    """Write the history as avf_history.json.

    Args:
        history: ``{"vectors": names, "events": [...]}``; an event holds "step" (optimizer steps before it), "frozen"
            (names), and "strength" (S̃ of every vector then, in the order of "vectors").
        folder: where the adapter is saved.
    """
    (Path(folder) / HISTORY_FILE).write_text(json.dumps(history) + "\n", encoding="utf-8")


_LIVE: WeakSet[AdaptiveVectorFreezing] = WeakSet()


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """Runs before the step of every torch optimizer in this process; ``args`` begin with the optimizer."""
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
