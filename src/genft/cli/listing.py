"""``genft list``: the methods and their settings, the tasks, the packaged models. Each list has a file in ``lists``."""

from __future__ import annotations

from pkgutil import resolve_name

from genft.cli.declare import argument, takes_options
from genft.cli.options import JsonOptions
from genft.errors import ConfigError, not_one_of

LISTS = ("methods", "tasks", "models")


class ListOptions(JsonOptions):
    kind: str = argument(f"{', '.join(LISTS[:-1])} or {LISTS[-1]}.", metavar="WHAT")
    name: str | None = argument("With `methods`: show the settings of this method, for --set.", None, metavar="[NAME]")


@takes_options
def list_(options: ListOptions) -> None:
    """List the methods, the tasks or the packaged models.

    `genft list methods NAME` lists the settings of a method.
    """
    if options.kind not in LISTS:
        raise ConfigError(not_one_of("list", options.kind, LISTS))
    if options.name is None:
        # imported on demand: the list of methods appears at once, while the list of models needs torch
        resolve_name(f"genft.cli.lists.{options.kind}:show")(options.as_json)
    elif options.kind == "methods":
        resolve_name("genft.cli.lists.settings:show")(options.name, options.as_json)
    else:
        raise ConfigError(f"list {options.kind}: takes no name (received {options.name!r})")
