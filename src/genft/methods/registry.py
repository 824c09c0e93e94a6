"""The list of methods. A method is registered by the file that defines it; nothing else keeps a list.

@register("genft", config=GenFTConfig, paper="arXiv 2506.11042", trains="shared and specific factors")
class GenFT(WeightMethod): ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from genft.errors import ConfigError, not_one_of
from genft.methods.base import BlockMethod, Method, WeightMethod

Family = Literal["weight", "block", "peft", "baseline"]
M = TypeVar("M", bound=type[Method])


@dataclass(frozen=True)
class MethodInfo:
    """One row of ``genft list methods``.

    Attributes:
        name: what ``--method`` takes.
        family: "weight" and "block" are ours through the bridge; "peft" is peft's own tuner under our presets;
            "baseline" needs no adapter (full fine-tuning, linear probe).
        config: the peft configuration class; None for a baseline.
        method: the mathematics; None where peft has it.
        paper: where it comes from.
        trains: what is trained, in words.
        defaults: settings that differ from the configuration class's own defaults, with which the method is run
            in the comparisons; each is visible in ``genft explain``.
        mergeable: whether the result can be folded into the base weights.
    """

    name: str
    family: Family
    paper: str
    trains: str
    config: type[Any] | None = None
    method: type[Method] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    mergeable: bool = True


METHODS: dict[str, MethodInfo] = {}


def register(
    name: str,
    *,
    config: type[Any],
    paper: str,
    trains: str,
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[M], M]:
    """Register one of our own methods under ``name``; its family follows from its protocol."""

    def decorate(cls: M) -> M:
        family: Family = "weight" if issubclass(cls, WeightMethod) else "block"
        if family == "block" and not issubclass(cls, BlockMethod):
            raise TypeError(f"{cls.__name__} is neither a WeightMethod nor a BlockMethod")
        add(
            MethodInfo(
                name=name,
                family=family,
                paper=paper,
                trains=trains,
                config=config,
                method=cls,
                defaults=defaults or {},
                mergeable=family == "weight",
            )
        )
        return cls

    return decorate


def add(info: MethodInfo) -> None:
    """Add a method that needs no class of its own (peft's tuners, baselines)."""
    if info.name in METHODS:
        raise ValueError(f"method {info.name!r} is registered twice")
    METHODS[info.name] = info


def get_method(name: str) -> MethodInfo:
    """The method called ``name``; an unknown name is a :class:`~genft.errors.ConfigError` with the nearest one."""
    try:
        return METHODS[name]
    except KeyError:
        raise ConfigError(not_one_of("method", name, METHODS)) from None
