"""The registry of methods. A method is registered by the file that defines it; there is no other list.

@register("genft", config=GenFTConfig, paper="arXiv 2506.11042", trains="shared and specific factors")
class GenFT(WeightMethod): ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from peft import PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

from genft.api.method import BlockMethod, Method, WeightMethod
from genft.api.recipe import Recipe
from genft.errors import ConfigError, not_one_of

Family = Literal["weight", "block", "peft", "baseline"]
#: "paper": a row of the tables of GenFT's paper; "relative": starts from W0 too, as GenFT does; "other": the rest.
Group = Literal["paper", "relative", "other"]
M = TypeVar("M", bound=type[Method[Any, Any]])


@dataclass(frozen=True)
class MethodInfo:
    """One row of ``genft list methods``.

    Attributes:
        name: the name for ``--method``.
        family: "weight" and "block" are ours, attached by the bridge; "peft" is peft's own tuner under our presets;
            "baseline" needs no adapter (full fine-tuning, linear probe).
        group: the field in which readers know it.
        config: the peft configuration class, or None for a baseline.
        method: the class with the mathematics, or None for peft's methods and baselines.
        paper: the source of the method.
        trains: a phrase for what is trained.
        defaults: settings used in comparisons that differ from the configuration class's own defaults;
            ``genft explain`` shows each of them.
        mergeable: whether the result can be folded into the base weights.
        kinds: the kinds of input that it supports.
        recipe: what it needs from a training run besides gradients.
        head_only: whether the head is all that it trains, so that ``learning_rate`` is the head's.
    """

    name: str
    family: Family
    paper: str
    trains: str
    group: Group = "other"
    config: type[Any] | None = None
    method: type[Method[Any, Any]] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    mergeable: bool = True
    kinds: tuple[str, ...] = ("text", "image")
    recipe: Recipe = field(default_factory=Recipe)
    head_only: bool = False

    @property
    def origin(self) -> str:
        """The library that implements it."""
        return {"peft": "peft", "baseline": "transformers"}.get(self.family, "genft")

    def check_kind(self, kind: str) -> None:
        """Raise :class:`~genft.errors.ConfigError` if the method does not work on inputs of this kind."""
        if kind not in self.kinds:
            raise ConfigError(f"method: {self.name!r} works on {' and '.join(self.kinds)}, and this task has {kind}s")


METHODS: dict[str, MethodInfo] = {}
#: The prefix for peft's own methods that are not in the registry: "peft:RANDLORA".
PEFT = "peft:"


def register(
    name: str,
    *,
    config: type[Any],
    paper: str,
    trains: str,
    group: Group = "other",
    defaults: Mapping[str, Any] | None = None,
    kinds: tuple[str, ...] = ("text", "image"),
    recipe: Recipe | None = None,
) -> Callable[[M], M]:
    """Register one of our own methods as ``name``; its family follows from its protocol."""

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
                group=group,
                config=config,
                method=cls,
                defaults=defaults or {},
                mergeable=family == "weight",
                kinds=kinds,
                recipe=recipe or Recipe(),
            )
        )
        return cls

    return decorate


def add(info: MethodInfo) -> None:
    """Add a method without a class of its own (peft's tuners, baselines)."""
    if info.name in METHODS:
        raise ValueError(f"method {info.name!r} is registered twice")
    METHODS[info.name] = info


def get_method(name: str) -> MethodInfo:
    """The method called ``name``, or peft's own ``peft:NAME``.

    Raises:
        ConfigError: the name is unknown; the message suggests the nearest one.
    """
    if name.startswith(PEFT):
        return _peft_method(name)
    try:
        return METHODS[name]
    except KeyError:
        raise ConfigError(not_one_of("method", name, METHODS)) from None


def _peft_method(name: str) -> MethodInfo:
    """A method of peft that is not in the registry, with peft's own defaults."""
    configs = {
        f"{PEFT}{kind.value}": config
        for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if config.__module__.startswith("peft.")
    }
    if name not in configs:
        raise ConfigError(not_one_of("method", name, configs))
    kind = PeftType(name.removeprefix(PEFT))
    prompts = issubclass(configs[name], PromptLearningConfig)
    return MethodInfo(
        name=name,
        family="peft",
        paper=f"peft's documentation of {configs[name].__name__}",
        trains="what peft's own tuner trains",
        config=configs[name],
        mergeable=hasattr(PEFT_TYPE_TO_TUNER_MAPPING[kind], "merge_and_unload") and not prompts,
        kinds=("text",) if prompts else ("text", "image"),
    )
