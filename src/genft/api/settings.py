"""A method's settings for the command line, presets and results: names, types, defaults, parsing.

The settings of a method are the fields of its configuration class, except those that genft fills in or that describe
the saved file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from genft.api.config import former_values, takes_whole_numbers
from genft.api.registry import MethodInfo
from genft.errors import ConfigError, nearest, not_one_of

#: Fields of a peft configuration that genft fills in, or that describe the file rather than the method.
_FILLED_IN = {"task_type", "modules_to_save", "inference_mode"}
_BOOKKEEPING = {
    "peft_type",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "auto_mapping",
    "base_fingerprint",
}


class SettingInfo(typing.NamedTuple):
    """One setting of a method, for help and documentation.

    Attributes:
        type: its type in words, such as ``a whole number``.
        default: the default in comparisons, as a JSON value.
        help: its description.
        allowed: the allowed values in words, such as ``0 <= dropout < 1``; empty if the type is sufficient.
    """

    type: str
    default: Any
    help: str
    allowed: str


def describe_settings(info: MethodInfo) -> dict[str, SettingInfo]:
    """Every setting of a method, in the order of its configuration class."""
    types_by_name, defaults = setting_types(info), {**default_settings(info), **info.defaults}
    described = {}
    for f in _fields(info):
        bounds, choices = f.metadata.get("bounds"), f.metadata.get("choices")
        allowed = ", ".join(map(str, choices)) if choices else ""
        if bounds:
            allowed = bounds.in_words(f.name, whole=takes_whole_numbers(f))
        described[f.name] = SettingInfo(
            type_name(types_by_name[f.name]), plain(defaults.get(f.name)), f.metadata.get("help", ""), allowed
        )
    return described


def setting_types(info: MethodInfo) -> dict[str, Any]:
    """The settings of a method with their types; a baseline has none."""
    hints = typing.get_type_hints(info.config) if info.config else {}
    return {f.name: hints[f.name] for f in _fields(info)}


def default_settings(info: MethodInfo) -> dict[str, Any]:
    """The settings of a method with the defaults of its configuration class."""
    values = {
        f.name: f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        for f in _fields(info)
    }
    return {name: value for name, value in values.items() if value is not dataclasses.MISSING}


def full_settings(info: MethodInfo, settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` completed with the defaults of all others, as JSON values."""
    return {name: plain(value) for name, value in {**default_settings(info), **settings}.items()}


def key_settings(info: MethodInfo, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide a result, for the key under which it is stored.

    ``plan`` is left out, because it affects speed and not the result; so is a setting that was added later, while it
    has the value that results without it were made with, or no effect.
    """
    values = full_settings(info, settings)
    former = former_values(_fields(info))
    left_out = {"plan"}
    for f in _fields(info):
        idle = any(values.get(other) != value for other, value in f.metadata.get("needs", {}).items())
        if f.name in former and (idle or values.get(f.name) == former[f.name]):
            left_out.add(f.name)
    return {name: value for name, value in values.items() if name not in left_out}


def plain(value: Any) -> Any:
    """``value`` as a JSON value: sets are sorted, nested configurations become dictionaries."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def check_settings(info: MethodInfo, settings: Iterable[str], training_options: Collection[str] = ()) -> None:
    """Refuse settings that the method does not have, all at once.

    Args:
        info: the method.
        settings: names of settings.
        training_options: names of training options, for which the error message names the right flag.

    Raises:
        ConfigError: one sentence per name.
    """
    known = setting_types(info)
    problems = []
    for key in settings:
        if key not in known and key in training_options:
            flag = key.replace("_", "-")
            problems.append(f"--set {key}: belongs to training, not to the method {info.name!r}; use --{flag}")
        elif key not in known and not known:
            problems.append(f"--set {key}: the method {info.name!r} has no settings")
        elif key not in known:
            close = nearest(key, known)
            problems.append(
                f"--set {key}: the method {info.name!r} has no such setting"
                + (f"; nearest: {close!r}" if close else "")
                + f"; all: `genft list methods {info.name}`"
            )
    if problems:
        raise ConfigError(problems)


def parse_settings(info: MethodInfo, pairs: Iterable[str], training_options: Collection[str] = ()) -> dict[str, Any]:
    """``["shared_dim=8", "target_modules=query,value"]`` → values of the settings' types.

    Raises:
        ConfigError: one sentence for every pair that cannot be parsed, or whose setting does not exist.
    """
    problems, texts = [], {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if equals:
            texts[key.strip().replace("-", "_")] = text.strip()
        else:
            problems.append(f"--set {pair}: must be key=value")
    if problems:
        raise ConfigError(problems)
    check_settings(info, texts, training_options)
    hints, values = setting_types(info), {}
    for key, text in texts.items():
        try:
            values[key] = _parse(hints[key], text)
        except ValueError as e:
            problems.append(f"--set {key}: {e}")
    if problems:
        raise ConfigError(problems)
    return values


def split_outside_brackets(text: str) -> list[str]:
    """``"a,b[c=1,d=2]"`` → ``["a", "b[c=1,d=2]"]``."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


def type_name(hint: Any) -> str:
    """The type of a setting in words."""
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        types.NoneType: "none",
    }
    return " or ".join(names.get(o, str(o).replace("typing.", "")) for o in _options(hint))


def _fields(info: MethodInfo) -> list[dataclasses.Field[Any]]:
    if info.config is None:
        return []
    return [f for f in dataclasses.fields(info.config) if f.init and f.name not in _FILLED_IN | _BOOKKEEPING]


def _parse(hint: Any, text: str) -> Any:
    """``text`` as a value of type ``hint``: parsed as JSON, ``none``, a comma-separated list, or the text itself."""
    options = set(_options(hint))
    literals = [value for o in options if typing.get_origin(o) is Literal for value in typing.get_args(o)]
    candidates: list[Any] = []
    if text.lower() in ("none", "null") and types.NoneType in options:
        return None
    with contextlib.suppress(json.JSONDecodeError):
        candidates.append(json.loads(text.lower() if bool in options else text))
    takes_list = any((typing.get_origin(o) or o) in (list, set, tuple) for o in options)
    # one plain name is a list of one; text with other characters may be a regular expression
    one_name = re.fullmatch(r"[\w.]+", text) is not None and text != "all-linear"
    if takes_list and ("," in text or str not in options or one_name):
        candidates.append([part.strip() for part in text.split(",") if part.strip()])
    candidates.append(text)
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        raise ValueError("cannot be set on the command line; use Python") from None
    for candidate in candidates:
        try:
            return adapter.validate_python(candidate)
        except ValidationError:
            continue
    if literals:
        raise ValueError(not_one_of("value", text, literals))
    raise ValueError(f"{text!r} is not {type_name(hint)}")


def _options(hint: Any) -> Iterable[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            yield from _options(option)
    else:
        yield hint
