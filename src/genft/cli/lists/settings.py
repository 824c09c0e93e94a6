"""``genft list methods NAME``: the settings of a method."""

from __future__ import annotations

import dataclasses

from rich.markup import escape

from genft.cli.screen import print_json, screen
from genft.methods import get_method
from genft.report.terminal import table
from genft.runs.spec import default_settings, plain, setting_types, type_name


def show(name: str, as_json: bool) -> None:
    info = get_method(name)
    defaults, types = {**default_settings(info), **info.defaults}, setting_types(info)
    help_of = {f.name: f.metadata.get("help", "") for f in dataclasses.fields(info.config)} if info.config else {}
    rows = {key: (type_name(types[key]), plain(defaults.get(key)), help_of[key]) for key in types}
    if as_json:
        print_json({k: {"type": t, "default": d, "help": h} for k, (t, d, h) in rows.items()})
        return
    if not rows:
        screen().print(f"{name} has no settings: it trains {info.trains}")
        return
    shown = table("setting", "default", "meaning")
    for key, (_, default, help_text) in rows.items():
        shown.add_row(f"[bold]{key}[/]", escape(str(default)), escape(" ".join(help_text.split())))
    screen().print(shown)
