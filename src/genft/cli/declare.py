"""Command-line options declared as records, and the decorator that turns these into a command's parameters.

A group of options is a record (:class:`Options`) whose fields are made by :func:`option` and :func:`argument`. A
command lists the groups that it takes as typed arguments and receives them filled in::

    @takes_options
    def report(output: OutputOptions, tables: TableOptions) -> None: ...

A group may contain groups. ``Given[Training]`` holds those fields of another record that the user has set, with one
option per field; presets fill in the rest.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, TypeVar

import typer
from pydantic import Field
from pydantic.fields import FieldInfo
from rich.markup import escape

from genft.records import Record

R = TypeVar("R", bound=Record)
_SIMPLE = (bool, int, float, str, Path)
_METAVARS = {int: "N", float: "X", Path: "PATH"}


class Options(Record):
    """A group of options; ``panel`` is the heading under which ``--help`` shows them."""

    panel: ClassVar[str | None] = None


@dataclass(frozen=True)
class Given(Generic[R]):
    """The fields of ``record`` that the user has set, as typed on the command line and not yet validated."""

    record: type[R]
    values: Mapping[str, Any]


class _Display(Record):
    """What the command line needs to know about a field besides its type, its default and its description."""

    names: tuple[str, ...] = ()
    metavar: str | None = None
    shown_default: str | None = None
    is_argument: bool = False


def option(
    description: str,
    default: Any = ...,
    *,
    names: tuple[str, ...] = (),
    metavar: str | None = None,
    shown_default: str | None = None,
    ge: float | None = None,
) -> Any:
    """A field that is an option.

    Args:
        description: one or more sentences for ``--help``.
        default: the value if the option is not given; without a default, the option is required.
        names: the option's names, if they differ from ``--field-name``.
        metavar: the placeholder for the value in ``--help``.
        shown_default: the default in words, if ``default`` itself does not explain it.
        ge: the smallest allowed value.
    """
    display = _Display(names=names, metavar=metavar, shown_default=shown_default)
    return Field(default, description=description, ge=ge, json_schema_extra=display.model_dump(mode="json"))


def argument(description: str, default: Any = ..., *, metavar: str, shown_default: str | None = None) -> Any:
    """A field that is a positional argument."""
    display = _Display(metavar=metavar, shown_default=shown_default, is_argument=True)
    return Field(default, description=description, json_schema_extra=display.model_dump(mode="json"))


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let typer fill the arguments of ``command``, each of them a group of options, from the command line."""
    groups = {name: p.annotation for name, p in inspect.signature(command, eval_str=True).parameters.items()}
    parameters = [p for group in groups.values() for p in _parameters(group)]
    names = [p.name for p in parameters]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TypeError(f"{command.__name__}: {twice[0]} is declared in two of its groups")

    @functools.wraps(command)
    def fill(**values: Any) -> None:
        command(**{name: _filled(group, values) for name, group in groups.items()})

    fill.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    fill.__annotations__ = {p.name: p.annotation for p in parameters}
    return fill


class OptionField(NamedTuple):
    """A field that is an option of a command.

    Attributes:
        name: the field's name, and the name of the command's parameter.
        panel: the heading under which ``--help`` shows it.
        given: whether it belongs to a :class:`Given` record, which leaves out options that the user does not set.
    """

    name: str
    field: FieldInfo
    panel: str | None
    given: bool


def fields(group: Any) -> Iterator[OptionField]:
    """Every option of a group, including those of the groups in it."""
    given = typing.get_origin(group) is Given
    record = typing.get_args(group)[0] if given else group
    for name, field in record.model_fields.items():
        if given or not _is_group(field.annotation):
            yield OptionField(name, field, record.__name__ if given else record.panel, given)
        else:
            yield from fields(field.annotation)


def flag(name: str, field: FieldInfo) -> str:
    """The name of a field on the command line: ``--learning-rate``."""
    return (*_display(field).names, f"--{name.replace('_', '-')}")[0]


def _is_group(annotation: Any) -> bool:
    return typing.get_origin(annotation) is Given or (isinstance(annotation, type) and issubclass(annotation, Options))


def _filled(group: Any, values: Mapping[str, Any]) -> Any:
    """The group with the values of its options; an option that was not given keeps its default."""
    if typing.get_origin(group) is Given:
        (record,) = typing.get_args(group)
        return Given(record, {name: values[name] for name in record.model_fields if values[name] is not None})
    content = {
        name: _filled(field.annotation, values) if _is_group(field.annotation) else values[name]
        for name, field in group.model_fields.items()
    }
    return group(**{name: value for name, value in content.items() if value is not None})


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    for option_field in fields(group):
        annotation, default, info = _typer_parameter(option_field)
        yield inspect.Parameter(
            option_field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
        )


def _typer_parameter(option_field: OptionField) -> tuple[Any, Any, Any]:
    """(type, default, typer's Option or Argument) of the parameter that typer reads."""
    name, field, panel, given = option_field
    display, kind = _display(field), _kind(field)
    is_switch = kind is bool
    default = inspect.Parameter.empty if field.is_required() else None if given else field.default or None
    default_text = None if is_switch or field.is_required() or field.default in (None, ()) else str(field.default)
    settings: dict[str, Any] = {"help": _help(field, display.shown_default or default_text), "show_default": False}
    if is_switch:
        default, settings["metavar"] = None if given else False, ""  # typer would show <bool>, as if a value followed
    else:
        settings["metavar"] = display.metavar or _METAVARS.get(kind, "TEXT")
    annotation = kind | None if default is None else kind
    if display.is_argument:
        return annotation, default, typer.Argument(**settings)
    if not given:
        settings["min"] = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    return annotation, default, typer.Option(*(display.names or [flag(name, field)]), rich_help_panel=panel, **settings)


def _display(field: FieldInfo) -> _Display:
    extra = field.json_schema_extra
    return _Display.model_validate(extra) if isinstance(extra, dict) else _Display()


def _help(field: FieldInfo, default: str | None) -> str:
    text = field.description or ""
    if not text.endswith("."):  # the description of a field in a record that is not a group of options
        text = f"{text[:1].upper()}{text[1:]}."
    return escape(text) + (f" \\[default: {escape(default)}]" if default else "")


def _kind(field: FieldInfo) -> Any:
    """The type that typer parses; anything that is not simple is parsed as text, and its record validates it later."""
    options = [field.annotation]
    if typing.get_origin(field.annotation) in (typing.Union, types.UnionType):
        options = [o for o in typing.get_args(field.annotation) if o is not types.NoneType]
    (kind,) = options[:1]
    if typing.get_origin(kind) is tuple:
        return list[typing.get_args(kind)[0]]  # type: ignore[misc]
    return kind if kind in _SIMPLE else str
