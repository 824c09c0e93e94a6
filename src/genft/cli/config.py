"""``--config FILE.toml``: the options of a command from a file; those on the command line win over it.

The file has a key per option, named as the option without its dashes, and a table ``[settings]`` for ``--set``. Its
paths are relative to the working directory, as on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genft.errors import ConfigError, not_one_of
from genft.records import read_toml, setting_as_text

_OPTION = "--config"


@dataclass(frozen=True)
class Config:
    """The content of a file.

    Attributes:
        values: by the name of an option's parameter: a plain value, or a list of texts.
        settings: the method's settings, as texts.
    """

    path: Path
    values: Mapping[str, Any]
    settings: Mapping[str, str]


def read_config(path: Path) -> Config:
    """Read a file of options, which are not checked yet.

    Raises:
        ConfigError: it cannot be read, or ``settings`` is no table.
    """
    content = {name.replace("-", "_"): value for name, value in read_toml(path).items()}
    settings = content.pop("settings", {})
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: settings: must be a table, [settings] with one line per setting")
    return Config(path, content, {name.replace("-", "_"): setting_as_text(value) for name, value in settings.items()})


def parse_with_config(
    params: Sequence[Any],
    train: Callable[[], Sequence[Any]],
    ctx: Any,
    args: list[str],
    parse: Callable[..., list[str]],
) -> list[str]:
    """Parse a command line whose ``--config`` may name a file with further options.

    Args:
        params: the parameters of the command.
        train: those of ``genft train``, whose files other commands may read; called if it is needed.
        ctx: the context of typer, which receives the values.
        args: the words of the command line.
        parse: parses the words, as typer does.

    Raises:
        ConfigError: the file cannot be read, or names options or values that do not exist.
    """
    path = _path(args) if any(_OPTION in param.opts for param in params) else None
    if path is None:
        return parse(ctx, args)
    config = read_config(path)
    by_name = {param.name: param for param in params if _OPTION not in param.opts}
    values = _checked(config, by_name, train)
    for name in values:
        by_name[name].required = False
    ctx.default_map = values
    try:
        rest = parse(ctx, args)
    except Exception as e:  # of typer's own copy of click, or of click itself
        wrong = getattr(getattr(e, "param", None), "name", None)
        if wrong in values and ctx.get_parameter_source(wrong).name != "COMMANDLINE":
            raise ConfigError(f"{path}: {wrong}: {getattr(e, 'message', e)}") from None
        raise
    for parameter, value in values.items():
        if isinstance(value, list) and not ctx.params.get(parameter):  # no words at all count as given
            ctx.params[parameter] = value
    if config.settings:
        _merge_settings(config, ctx.params)
    return rest


def _path(args: Sequence[str]) -> Path | None:
    """The file that the words name; the last one, as with every option."""
    found = ""
    for word, following in zip(args, [*args[1:], ""], strict=True):
        if word == "--":
            break
        if word == _OPTION:
            found = following
        elif word.startswith(f"{_OPTION}="):
            found = word.partition("=")[2]
    return Path(found) if found else None


def _checked(config: Config, by_name: Mapping[str, Any], train: Callable[[], Sequence[Any]]) -> dict[str, Any]:
    """The values in the form that typer parses, all problems reported at once."""
    unknown = [name for name in config.values if name not in by_name or name == "help"]
    of_train = {param.name for param in train()} - {"config", "help"} if unknown else set()
    names = [name for name in by_name if name not in ("help", "settings")]
    problems = [
        not_one_of(f"{config.path}: key", name, names, what="is no option of this command")
        for name in unknown
        if name not in of_train or "tasks" in by_name
    ]
    if config.settings and "settings" not in by_name:
        problems.append(f"{config.path}: settings: this command has no --set; methods take settings in brackets")
    values: dict[str, Any] = {}
    for name, value in config.values.items():
        if name in unknown:
            continue
        try:
            values[name] = _for_typer(by_name[name], value)
        except ValueError as e:
            problems.append(f"{config.path}: {name}: {e}")
    if problems:
        raise ConfigError(problems)
    return values


def _for_typer(param: Any, value: Any) -> Any:
    many = param.multiple if hasattr(param, "multiple") else False
    many = many or param.nargs == -1
    switch = bool(getattr(param, "is_flag", False))
    items = value if isinstance(value, list) else [value]
    if any(not isinstance(item, (str, int, float)) for item in items) or (isinstance(value, list) and switch):
        raise ValueError(f"received {value!r}; allowed: a text, a number, true or false, or a list of them")
    if switch != isinstance(value, bool) or any(isinstance(item, bool) for item in items) != switch:
        raise ValueError(f"received {value!r}; allowed: {'true or false' if switch else 'a value'}")
    if switch:
        return value
    texts = [item if isinstance(item, str) else repr(item) for item in items]
    return texts if many else ",".join(texts)


def _merge_settings(config: Config, params: dict[str, Any]) -> None:
    """Put the file's settings before those of the command line, which win."""
    given = list(params.get("settings") or [])
    names = {pair.partition("=")[0].strip().replace("-", "_") for pair in given}
    params["settings"] = [f"{name}={text}" for name, text in config.settings.items() if name not in names] + given
