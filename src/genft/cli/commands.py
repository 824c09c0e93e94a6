"""The commands, and the group that imports a command only when it is called.

``genft --help`` shows this table and imports no command; a test compares it with the commands' docstrings.
"""

from __future__ import annotations

import gc
import inspect
import os
import signal
import sys
import time
from pkgutil import resolve_name
from typing import Any, NamedTuple

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from genft.cli.config import parse_with_config
from genft.cli.names import translate
from genft.cli.screen import errors
from genft.errors import GenFTError, first_line


class Entry(NamedTuple):
    """A command.

    Attributes:
        name, path: its name, and the import path of its function or group.
        text, panel: its first line of help, and where that stands.
        spares: packages that peft and transformers would import if they find them, and that this process does without.
    """

    name: str
    path: str
    text: str
    panel: str
    spares: tuple[str, ...] = ()


_LEARN, _COMPARE, _LOOK, _HAND_OVER = "Train and predict", "Compare", "Look up", "Use elsewhere"
COMMANDS = {
    entry.name: entry
    for entry in (
        Entry("demo", "genft.cli.demo:demo", "Compare several methods on BBC News in under five minutes.", _LEARN),
        Entry("train", "genft.cli.train:train", "Train one method on one task, and save the adapter.", _LEARN),
        Entry(
            "explain",
            "genft.cli.explain:explain",
            "Show every value of a run and its origin, without training.",
            _LEARN,
        ),
        Entry("predict", "genft.cli.predict:predict", "Predict new rows or images with a saved adapter.", _LEARN),
        Entry("evaluate", "genft.cli.evaluate:evaluate", "Score a saved adapter on labelled rows.", _LEARN),
        Entry("bench", "genft.cli.bench:bench", "Compare methods on tasks, over seeds.", _COMPARE),
        Entry(
            "search", "genft.cli.search:search", "Search hyper-parameters for a task, on its validation data.", _COMPARE
        ),
        Entry("study", "genft.cli.study:study", "Repeat a study of GenFT's paper on any task and model.", _COMPARE),
        Entry(
            "report",
            "genft.cli.report:report",
            "Show a folder of results as tables or as one page.",
            _COMPARE,
        ),
        Entry("list", "genft.cli.listing:list_", "List the methods, the tasks or the packaged models.", _LOOK),
        Entry(
            "params",
            "genft.cli.params:params",
            "Count what the paper's presets train, next to its numbers.",
            _LOOK,
            spares=("bitsandbytes", "scipy"),  # a second, for quantised weights and for the loss of object detection
        ),
        Entry("show", "genft.cli.show:show", "Draw what training did to the weights.", _LOOK),
        Entry("data", "genft.cli.data:data", "Check data before training.", _LOOK),
        Entry("merge", "genft.cli.merge:merge", "Fold an adapter into its base model.", _HAND_OVER),
        Entry("to-lora", "genft.cli.to_lora:to_lora", "Write an adapter as a standard LoRA adapter.", _HAND_OVER),
        Entry(
            "import-official",
            "genft.cli.import_official:import_official",
            "Convert an adapter of the GenFT authors' own code into one of this package.",
            _HAND_OVER,
        ),
    )
}


class Command(TyperCommand):
    """A command that takes options from a file, and recognises the names that they have in other tools."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        return parse_with_config(self.params, _train_params, ctx, translate(args, known), super().parse_args)


def _train_params() -> Any:
    return load(COMMANDS["train"]).params


class CommandGroup(TyperGroup):
    """The commands of :data:`COMMANDS`; errors that genft raises are shown as sentences, without a traceback."""

    def __init__(self, **settings: Any) -> None:
        """Fill the group with the entries of ``--help``; :meth:`resolve_command` loads the command that is called."""
        super().__init__(**settings)
        for entry in COMMANDS.values():
            self.add_command(TyperCommand(entry.name, help=entry.text, rich_help_panel=entry.panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(COMMANDS[name], called=True) if name in COMMANDS else command, rest

    def list_commands(self, ctx: Any) -> list[str]:
        """List the commands in the order of the table."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GenFTError as e:
            if os.environ.get("RANK", "0") != "0":
                time.sleep(2)  # rank 0 reports the same error, or torchrun ends this process with the run
            for sentence in str(e).splitlines():
                errors.print(f"[bold red]error:[/] {escape(sentence)}", soft_wrap=True, highlight=False)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would only interrupt the exit
            errors.print("interrupted: finished runs are kept; run the same command again to resume", soft_wrap=True)
            raise typer.Exit(130) from None
        except (typer.Abort, BrokenPipeError):  # click ends quietly if nobody reads on, as in `genft … | head`
            raise
        except Exception as e:
            if hasattr(e, "exit_code") or os.environ.get("GENFT_TRACEBACK"):  # typer shows its own errors
                raise
            if isinstance(e, OSError) and e.filename and e.strerror:
                sentence = f"{e.filename}: {e.strerror[0].lower()}{e.strerror[1:]}"  # a name that is too long
            else:
                sentence = f"{type(e).__name__}: {first_line(e, '')} (set GENFT_TRACEBACK=1 to see where)"
            errors.print(
                f"[bold red]error:[/] {escape(sentence)}",
                soft_wrap=True,
                highlight=False,
            )
            raise typer.Exit(1) from None


def load(entry: Entry, *, called: bool = False) -> Any:
    """Import the command of an entry; if it is ``called``, this process does without what the command spares."""
    target = _imported(entry.path, entry.spares if called else ())
    if isinstance(target, typer.Typer):
        return get_command(target)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command(entry.name, cls=Command, help=_flowing(inspect.getdoc(target) or ""))(target)
    return get_command(app)


def _imported(path: str, spared: tuple[str, ...]) -> Any:
    """Import an object by its path, without packages that are spared, and without Python looking for garbage meanwhile.

    torch and transformers create a million objects that live as long as the process. To go through them again and again
    takes a quarter of the time of their import, and at exit a second more, so they are set aside.
    """
    heavy, enabled = "torch" not in sys.modules, gc.isenabled()
    for package in spared if heavy else ():
        sys.modules[package] = None  # type: ignore[assignment]  # Python's way to say that it is not installed
    gc.disable()
    try:
        target = resolve_name(path)
        if heavy:
            gc.freeze()
    finally:
        if enabled:
            gc.enable()
    return target


def _flowing(text: str) -> str:
    """A docstring for ``--help``: the lines of a paragraph are joined, so that they wrap to the terminal."""
    paragraphs = (p if p.startswith(" ") else " ".join(p.splitlines()) for p in text.split("\n\n"))
    return escape("\n\n".join(paragraphs))
