"""The part of every configuration that has nothing to do with a method's mathematics: where it is attached.

A method's configuration is a peft configuration with the method's own fields added, each described once in its
``help``; the command line shows the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from peft import PeftConfig
from peft.utils import PeftType

from genft.errors import ConfigError, not_one_of

SliceSpec = str | tuple[int, int]


def setting(default: Any, help: str, *, choices: tuple[str, ...] = (), **kwargs: Any) -> Any:
    """A dataclass field with its one description, and the names it allows where they are few."""
    metadata = {"help": help, "choices": choices}
    if callable(default):
        return field(default_factory=default, metadata=metadata, **kwargs)
    return field(default=default, metadata=metadata, **kwargs)


@dataclass
class AdapterConfig(PeftConfig):
    """Fields that every method of genft shares. Raises :class:`ConfigError` with all problems at once."""

    #: The registered name of the method; also peft's ``peft_type`` in upper case.
    method: ClassVar[str]
    #: Whether ``init_weights=True`` starts exactly at the pretrained function.
    starts_pretrained: ClassVar[bool] = True

    target_modules: list[str] | str | None = setting(
        None,
        "Names (suffixes) of the modules to adapt, a regular expression, or 'all-linear'; "
        "by default what the method's scope says, or query and value of every attention layer.",
    )
    exclude_modules: list[str] | str | None = setting(
        None, "Names (suffixes) or a regular expression of modules to leave alone."
    )
    target_slices: dict[str, Any] | None = setting(
        None,
        "Row slices of fused weights to adapt: {'qkv': ['q', 'v']}, or explicit rows {'qkv': {'q': [0, 768]}}.",
    )
    layers_to_transform: list[int] | int | None = setting(None, "Indices of the layers to adapt; by default all.")
    layers_pattern: list[str] | str | None = setting(
        None, "Name of the list of layers that layers_to_transform counts in, 'blocks' for timm."
    )
    init_weights: bool = setting(True, "True: start exactly at the pretrained function; False: do not (for tests).")
    modules_to_save: list[str] | None = setting(
        None, "Modules trained whole and saved with the adapter, a new classification head for example."
    )
    base_fingerprint: dict[str, Any] | None = setting(
        None,
        "Sketch and hash of every adapted base weight; written when the adapter is made, checked when it is loaded.",
        repr=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(self.method.upper())
        #: What a loaded adapter was trained on; None for a new one. A configuration that records its own
        #: fingerprint stays reusable for another model, so the two are kept apart.
        self.expected_fingerprint = self.base_fingerprint
        #: Sketches of the updates that came with an adapter file, until compared (``bridge/base_check.py``).
        self.expected_sketches: dict[str, Any] = {}
        if isinstance(self.target_modules, set | tuple):
            self.target_modules = sorted(self.target_modules)
        if problems := self.problems():
            raise ConfigError(problems)

    @property
    def default_scope(self) -> str:
        """Which weights are adapted where the user names none: a member of ``bridge.targets.SCOPES``."""
        return "qv"

    def problems(self) -> list[str]:
        """One sentence for every setting that cannot be used. Methods extend this list."""
        found = []
        for f in fields(self):
            choices = f.metadata.get("choices")
            value = getattr(self, f.name)
            if f.type in ("bool", bool) and not isinstance(value, bool):
                found.append(f"{f.name}: received {value!r}; allowed: True, False")
            elif choices and not any(value == c and type(value) is type(c) for c in choices):
                found.append(not_one_of(f.name, value, map(str, choices)))
        if self.target_slices is not None:
            found += _slice_problems(self.target_slices)
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            found.append(
                "layers_to_transform: cannot be used with a regular expression in target_modules; "
                "put the layers into the expression, or give target_modules as a list"
            )
        return found


@dataclass
class PaperStartConfig(AdapterConfig):
    """Of a method that does not start at the pretrained function: prompts, prefixes, near-identity adapters."""

    starts_pretrained = False

    init_weights: bool = setting(
        True,
        "True: start as the paper does, which is not exactly the pretrained function; False: further away (for tests).",
    )


def _slice_problems(slices: Any) -> list[str]:
    where = "target_slices"
    if not isinstance(slices, dict) or not slices:
        return [f"{where}: received {slices!r}; give a mapping such as {{'qkv': ['q', 'v']}}"]
    found = []
    for module, wanted in slices.items():
        rows = wanted.values() if isinstance(wanted, dict) else []
        if not wanted or not isinstance(wanted, list | tuple | dict):
            found.append(f"{where}[{module!r}]: received {wanted!r}; give names ['q', 'v'] or rows {{'q': [0, 768]}}")
        elif not isinstance(wanted, dict) and not all(isinstance(name, str) for name in wanted):
            found.append(f"{where}[{module!r}]: received {wanted!r}; name the slice: {{'q': [0, 768]}}")
        found += [
            f"{where}[{module!r}]: received {r!r}; rows are [start, stop]"
            for r in rows
            if not (isinstance(r, list | tuple) and len(r) == 2 and all(isinstance(n, int) for n in r))
        ]
    return found


def in_range(
    where: str,
    value: Any,
    ok: Callable[[Any], bool],
    allowed: str,
    kind: type | tuple[type, ...] = (int, float),
) -> list[str]:
    """A problem sentence in a list, or an empty list: ``dropout: received 1.5; allowed: 0 <= dropout < 1``."""
    if isinstance(value, bool) or not isinstance(value, kind) or not ok(value):
        return [f"{where}: received {value!r}; allowed: {allowed}"]
    return []
