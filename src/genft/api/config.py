"""The part of every configuration that is independent of a method's mathematics: where the method is attached.

A method's configuration is a peft configuration plus the method's own fields. Each field is described once, in its
``help``, which the command line shows too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from peft import PeftConfig
from peft.utils import PeftType
from typing_extensions import Self

from genft.api.card import AUTO_CLASSES, write_card
from genft.errors import ConfigError, not_one_of

C = TypeVar("C", bound="AdapterConfig")


@dataclass(frozen=True)
class Bounds:
    """The numbers that a setting allows; None means no bound. Numbers must always be finite."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    ne: float | None = None

    def allow(self, value: Any, *, whole: bool = False) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            return False
        return (
            math.isfinite(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
            and value != self.ne
        )

    def in_words(self, name: str, *, whole: bool = False) -> str:
        """``0 <= dropout < 1``, ``a whole number above 0``, ``any number but 0``."""
        lower = f"{self.ge:g} <= " if self.ge is not None else f"{self.gt:g} < " if self.gt is not None else ""
        upper = f" <= {self.le:g}" if self.le is not None else f" < {self.lt:g}" if self.lt is not None else ""
        number = "a whole number" if whole else "a number"
        if lower and upper:
            return f"{lower}{name}{upper}"
        if upper:
            return f"{number}{upper}"
        if lower:
            return f"{number}, {self.ge:g} or more" if self.ge is not None else f"{number} above {self.gt:g}"
        return f"any number but {self.ne:g}" if self.ne is not None else number


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[bool | int | str, ...] = (),
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    ne: float | None = None,
    later: bool = False,
    formerly: Any = MISSING,
    needs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """A dataclass field with its description and allowed values, which the command line shows.

    Args:
        choices: the allowed values, if there are few.
        ge, gt, le, lt, ne: bounds of a number (at least, above, at most, below, other than).
        later: whether the setting was added after results and adapters had been stored, which therefore lack it.
        formerly: the value that they were made with, if it is not the default. A result's key leaves a later setting
            out while it has this value, so that those results keep their keys.
        needs: the value of another setting without which this one has no effect.
    """
    bounds = Bounds(ge, gt, le, lt, ne)
    metadata = {
        "help": help,
        "choices": choices,
        "bounds": None if bounds == Bounds() else bounds,
        "needs": needs or {},
        "formerly": default if later and formerly is MISSING else formerly,
    }
    if callable(default):
        return field(default_factory=default, metadata=metadata, **kwargs)
    return field(default=default, metadata=metadata, **kwargs)


#: Settings of peft's LoRA that no method of genft has, and why.
NOT_SUPPORTED = {
    "target_parameters": "methods of genft adapt modules, not single parameters; name the modules in target_modules",
    "ensure_weight_tying": "methods of genft adapt no embeddings, so there are no tied weights to keep together",
}


def setting_problems(config: Any) -> list[str]:
    """One sentence for every field of ``config`` whose value its :func:`setting` does not allow."""
    problems = []
    for f in fields(config):
        value, bounds, choices = getattr(config, f.name), f.metadata.get("bounds"), f.metadata.get("choices")
        if f.type in ("bool", bool) and not isinstance(value, bool):
            problems.append(f"{f.name}: received {value!r}; allowed: True, False")
        elif choices and not any(value == c and type(value) is type(c) for c in choices):
            problems.append(not_one_of(f.name, value, map(str, choices)))
        elif bounds and not (value is None and "None" in str(f.type)):
            whole = takes_whole_numbers(f)
            if not bounds.allow(value, whole=whole):
                problems.append(f"{f.name}: received {value!r}; allowed: {bounds.in_words(f.name, whole=whole)}")
    return problems


def former_values(settings: Iterable[Field[Any]]) -> dict[str, Any]:
    """The values of later settings that results and adapters without them were made with, by name."""
    former = {f.name: f.metadata.get("formerly", MISSING) for f in settings}
    return {name: value for name, value in former.items() if value is not MISSING}


def takes_whole_numbers(f: Field[Any]) -> bool:
    return f.type is int or str(f.type).split(" | ")[0] == "int"


@dataclass
class AdapterConfig(PeftConfig):
    """Fields that all methods of genft share. Raises :class:`ConfigError` with all problems at once.

    genft never modifies a configuration: every adapter has its own copy (:meth:`owned`), and values derived from the
    base model appear only in what that copy saves. So one configuration can be used for any number of models. peft
    does modify it before genft sees it: ``get_peft_model`` sets ``base_model_name_or_path`` (and ``revision``, if
    given), classification models add their head to ``modules_to_save``, and ``load_adapter`` sets ``inference_mode``;
    peft's other changes go to the copy.
    """

    #: The registered name of the method; also peft's ``peft_type`` in upper case.
    method: ClassVar[str]
    #: Whether ``init_weights=True`` starts exactly at the pretrained function.
    starts_pretrained: ClassVar[bool] = True

    target_modules: list[str] | str | None = setting(
        None,
        "Names (suffixes) of the modules to adapt, a regular expression, or 'all-linear'; "
        "by default the weights of the method's scope, or query and value of every attention layer.",
    )
    exclude_modules: list[str] | str | None = setting(
        None, "Names (suffixes) of modules to exclude, or a regular expression."
    )
    target_slices: dict[str, Any] | None = setting(
        None,
        "Row slices of fused weights to adapt: {'qkv': ['q', 'v']}, or explicit rows {'qkv': {'q': [0, 768]}}.",
    )
    layers_to_transform: list[int] | int | None = setting(None, "Indices of the layers to adapt; by default all.")
    layers_pattern: list[str] | str | None = setting(
        None, "Name of the list of layers that layers_to_transform indexes, such as 'blocks' for timm."
    )
    init_weights: bool = setting(True, "True: start exactly at the pretrained function; False: do not (for tests).")
    modules_to_save: list[str] | None = setting(
        None, "Modules that are trained in full and saved with the adapter, such as a new classification head."
    )
    trainable_token_indices: list[int] | dict[str, list[int]] | None = setting(
        None,
        "Ids of tokens whose embeddings are trained as well, such as those that a chat template adds; by the name of "
        "the embedding if it has another than the input embedding's.",
        later=True,
    )
    base_fingerprint: dict[str, Any] | None = setting(
        None,
        "Sketch and checksum of every adapted base weight, in files of genft 0.1; now they are in the adapter file.",
        repr=False,
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if refused := [f"{name}: {why}" for name, why in NOT_SUPPORTED.items() if kwargs.get(name)]:
            raise ConfigError(refused)
        new = super().__new__(cls)
        if kwargs.get("base_fingerprint") is not None:  # the content of a file of genft 0.1
            vars(new)["_formerly"] = former_values(f for f in fields(cls) if f.name not in kwargs)
        return new

    def __post_init__(self) -> None:
        vars(self).update(vars(self).pop("_formerly", {}))
        super().__post_init__()
        self.peft_type = PeftType(self.method.upper())
        #: Returns the values that the adapter owning this copy derived from its base model, by name.
        self.derived: Callable[[], Mapping[str, Any]] = dict
        if isinstance(self.target_modules, set | tuple):
            self.target_modules = sorted(self.target_modules)
        if problems := self.problems():
            raise ConfigError(problems)

    def owned(self: C, derived: Callable[[], Mapping[str, Any]]) -> C:
        """A copy for one adapter.

        Args:
            derived: returns the values that the adapter derives from its base model. Values named like settings
                replace these in what the copy saves; others are for a method's own ``save_pretrained``.
        """
        twin = copy.copy(self)
        # the derived values of another adapter stay with that adapter
        settings = {name: value for name, value in vars(self).items() if name != "derived"}
        vars(twin).update(copy.deepcopy(settings), derived=derived)
        return twin

    def to_dict(self) -> dict[str, Any]:
        """The settings to save, including values derived from the base model."""
        names = {f.name for f in fields(self)}
        return super().to_dict() | {name: value for name, value in self.derived().items() if name in names}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Save as peft does, and say in the folder's card how to load the adapter, whoever saves it."""
        named = (kwargs.get("auto_mapping_dict") or self.auto_mapping or {}).get("base_model_class")
        super().save_pretrained(save_directory, **kwargs)
        self.write_card(save_directory, named)

    def write_card(self, folder: str, base_class: str | None = None) -> None:
        """Write, or complete, the README.md of the folder that an adapter is saved in."""
        class_name = AUTO_CLASSES.get(str(self.task_type)) or base_class or "AutoModel"
        write_card(Path(folder), self.method, self.base_model_name_or_path, class_name)

    @property
    def default_scope(self) -> str:
        """The weights to adapt if the user names none: a member of ``models.architectures.SCOPES``."""
        return "qv"

    def problems(self) -> list[str]:
        """One sentence for every setting that cannot be used. Methods extend this list."""
        problems = setting_problems(self)
        if self.target_slices is not None:
            problems += _slice_problems(self.target_slices)
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            problems.append(
                "layers_to_transform: cannot be used with a regular expression in target_modules; "
                "put the layers into the expression, or give target_modules as a list"
            )
        return problems


@dataclass
class PaperStartConfig(AdapterConfig):
    """Configuration of methods that do not start at the pretrained function: prompts, prefixes, near-identity
    adapters."""

    starts_pretrained = False

    init_weights: bool = setting(
        True,
        "True: start as the paper does, which is not exactly the pretrained function; False: further away (for tests).",
    )


def _slice_problems(slices: Any) -> list[str]:
    where = "target_slices"
    if not isinstance(slices, dict) or not slices:
        return [f"{where}: received {slices!r}; give a mapping such as {{'qkv': ['q', 'v']}}"]
    problems = []
    for module, wanted in slices.items():
        rows = wanted.values() if isinstance(wanted, dict) else []
        if not wanted or not isinstance(wanted, list | tuple | dict):
            problems.append(
                f"{where}[{module!r}]: received {wanted!r}; give names ['q', 'v'] or rows {{'q': [0, 768]}}"
            )
        elif not isinstance(wanted, dict) and not all(isinstance(name, str) for name in wanted):
            problems.append(f"{where}[{module!r}]: received {wanted!r}; name the slice: {{'q': [0, 768]}}")
        else:
            problems += [
                f"{where}[{module!r}]: received the name {name!r}; a slice is named without dots"
                for name in wanted
                if not name or "." in str(name)
            ]
        problems += [
            f"{where}[{module!r}]: received {r!r}; rows are [start, stop]"
            for r in rows
            if not (isinstance(r, list | tuple) and len(r) == 2 and all(isinstance(n, int) for n in r))
        ]
    return problems
