"""``genft list methods NAME``: the settings of a method."""

from __future__ import annotations

from rich.markup import escape

from genft.api.settings import describe_settings
from genft.cli.screen import print_json, screen
from genft.methods import get_method
from genft.report.style import table


def show(name: str, as_json: bool) -> None:
    info = get_method(name)
    settings = describe_settings(info)
    if as_json:
        print_json({key: setting._asdict() for key, setting in settings.items()})
        return
    if not settings:
        screen().print(f"{name} has no settings: it trains {info.trains}")
        return
    shown = table("setting", "default", "meaning")
    for key, setting in settings.items():
        text = " ".join(setting.help.split()) + (f" ({setting.allowed})" if setting.allowed else "")
        shown.add_row(f"[bold]{key}[/]", escape(str(setting.default)), escape(text))
    screen().print(shown)
