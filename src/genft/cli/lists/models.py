"""``genft list models``: the packaged models, and how to name any other."""

from __future__ import annotations

from genft.cli.screen import print_json, screen
from genft.models.source import PACKAGED
from genft.report.style import table


def show(as_json: bool) -> None:
    if as_json:
        keys = ("name", "title", "hub")
        print_json([{k: getattr(m, k) for k in keys} | {"installed": m.find() is not None} for m in PACKAGED.values()])
        return
    shown = table("packaged model", "", "installed")
    for model in PACKAGED.values():
        shown.add_row(f"[bold]{model.name}[/]", model.title, "yes" if model.find() else model.install)
    console = screen()
    console.print(shown)
    console.print("\nAny other model, as --model:")
    console.print("  OWNER/NAME           on the Hugging Face Hub: text or image, a transformers model")
    console.print("  timm/NAME or NAME    a timm model, from the Hub")
    console.print("  path/to/folder       config.json and safetensors weights on this machine")
