"""The documentation page of all commands and options, generated from the commands themselves.

``python -m genft.cli.documentation > docs/command_line.md`` writes it; a test checks that the page is up to date.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from genft.cli.commands import COMMANDS, load

_HEAD = """# The command line

`genft COMMAND --help` shows the same information. Required options are marked \\*.
"""


def page() -> str:
    """The page as Markdown."""
    commands = {name: command for entry in COMMANDS.values() for name, command in _leaves(entry.name, load(entry))}
    return "\n".join([_HEAD, *_commands(commands), *_options(commands)])


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command, or the commands of a group."""
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        yield name, command
    for word, leaf in (subcommands or {}).items():
        yield from _leaves(f"{name} {word}", leaf)


def _commands(commands: dict[str, Any]) -> Iterator[str]:
    yield "| command | |"
    yield "|---|---|"
    for name, command in commands.items():
        arguments = " ".join(_metavar(p) for p in command.params if p.param_type_name == "argument")
        yield f"| `genft {name}{arguments and ' ' + _cell(arguments)}` | {_cell(_first_line(command))} |"
    yield ""


def _options(commands: dict[str, Any]) -> Iterator[str]:
    """A table per panel, with one row per option and the commands that have it."""
    rows: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, command in commands.items():
        for p in command.params:
            is_option = p.param_type_name == "option" and p.name != "help"
            panel = getattr(p, "rich_help_panel", None) or "Options of single commands"
            words = f"`{', '.join(p.opts)}`" if is_option else f"`{_metavar(p)}`"
            if p.name != "help":
                text = (p.help or "").replace("\\[", "[")
                rows[panel if is_option else "Arguments"][words + (" \\*" if p.required else ""), text].append(name)
    for panel, options in sorted(rows.items(), key=lambda row: row[0] != "Arguments"):
        yield f"## {panel}\n"
        yield "| | | commands |"
        yield "|---|---|---|"
        for (words, text), names in options.items():
            yield f"| {_cell(words)} | {_cell(text)} | {', '.join(names)} |"
        yield ""


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _first_line(command: Any) -> str:
    return inspect.cleandoc(command.help or "").split("\n\n")[0].replace("\n", " ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
