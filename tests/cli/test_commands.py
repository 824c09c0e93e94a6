"""The table of commands, the options that they share, and what starting the command line costs."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from pydantic import Field

import genft
from cli.test_cli import call, ok
from genft.cli.commands import COMMANDS, load
from genft.cli.declare import Given, Options, option, takes_options
from genft.cli.names import ELSEWHERE, INSTEAD, translate
from genft.errors import ConfigError
from genft.methods import METHODS
from genft.presets import load_preset
from genft.records import Record
from genft.runs.settings import Training


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_agrees_with_the_docstring(name: str) -> None:
    command = load(COMMANDS[name])
    assert command.help.splitlines()[0] == COMMANDS[name].text
    shown = ok(name, "--help")
    assert COMMANDS[name].text in shown
    assert "\\[" not in shown


def test_every_command_is_in_the_list() -> None:
    shown = ok("--help")
    for entry in COMMANDS.values():
        assert entry.text in shown
        assert entry.panel in shown


def test_a_wrong_command_names_the_nearest() -> None:
    result = call("trian")
    assert result.exit_code == 2
    assert "train" in result.stderr


RUN = """
import sys, time
from genft_cli import main
sys.argv = ["genft", *sys.argv[1:]]
try:
    main()
except SystemExit as e:
    assert not e.code, e.code
heavy = {"peft", "torch", "transformers", "pandas", "sklearn", "datasets", "matplotlib", "optuna"} & sys.modules.keys()
print(time.process_time(), *sorted(heavy), file=sys.stderr)
"""


def processor_time(*words: str) -> tuple[float, list[str]]:
    """(seconds of a new process with this command, the heavy libraries that it imported)."""
    path = os.pathsep.join([str(Path(genft.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    seconds, *heavy = done.stderr.splitlines()[-1].split()
    return float(seconds), heavy


@pytest.mark.parametrize(("words", "most"), [(("--help",), 0.5), (("list", "tasks"), 1.5), (("list", "methods"), 1.5)])
def test_what_needs_no_model_is_quick(words: tuple[str, ...], most: float) -> None:
    """Processor time of the whole process; twice the target, since other work on the machine costs caches."""
    seconds, heavy = processor_time(*words)
    assert heavy == []
    assert seconds < 2 * most


def test_a_reader_that_stops_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "genft_cli", "list", "methods"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def test_importing_genft_registers_with_peft_and_the_command_does_not() -> None:
    library = "import genft; from peft import PeftType; assert PeftType('GENFT')"
    command = "import genft_cli, genft, sys; assert 'peft' not in sys.modules; genft.GenFTConfig; import genft.bridge; "
    command += "genft.GenFTConfig()"
    for code in (library, command):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_public_names_are_what_they_say() -> None:
    assert set(genft.__all__) <= set(dir(genft))
    assert genft.GenFTConfig is METHODS["genft"].config
    assert all(getattr(genft, name) is not None for name in genft.__all__)
    with pytest.raises(AttributeError, match="'genft' has no attribute 'GenFTConfigg'"):
        genft.GenFTConfigg  # noqa: B018


class Inner(Record):
    rate: float = Field(0.5, description="how fast")
    words: str | None = Field(None, description="what to say")


class Outer(Options):
    panel = "Things"
    colour: str = option("The colour.", "red")
    sizes: tuple[int, ...] = option("Sizes; may be repeated.", ())
    loud: bool = option("Loudly.", False)
    inner: Given[Inner]


class Again(Options):
    colour: str = option("Another colour.", "green")


def called(*words: str) -> Outer:
    seen: list[Outer] = []
    app = typer.Typer()

    @app.command()
    @takes_options
    def command(outer: Outer) -> None:
        seen.append(outer)

    app(list(words), standalone_mode=False)
    return seen[0]


def test_groups_are_filled_from_words() -> None:
    assert called() == Outer(inner=Given(Inner, {}))
    outer = called("--colour", "blue", "--sizes", "1", "--sizes", "2", "--loud", "--rate", "2", "--words", "x")
    assert outer == Outer(colour="blue", sizes=(1, 2), loud=True, inner=Given(Inner, {"rate": 2.0, "words": "x"}))


def test_an_option_in_two_groups_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="colour is declared in two of its groups"):

        @takes_options
        def command(outer: Outer, again: Again) -> None: ...


def test_every_option_is_declared_once() -> None:
    """Two commands have an option of one name with one text, or it is the command's own."""
    declared: dict[str, set[str]] = {}
    own = {"out", "json", "seed", "format", "methods", "against", "figures", "name", "output"}
    own |= {"input", "metric", "label_column"}  # evaluate takes labelled rows, and what training used
    for name in COMMANDS:
        for parameter in load(COMMANDS[name]).params:
            if parameter.name not in ("help", *own) and getattr(parameter, "help", None):
                declared.setdefault(parameter.name, set()).add(parameter.help)
    assert {name: texts for name, texts in declared.items() if len(texts) > 1} == {}


def test_help_tells_what_the_preset_decides() -> None:
    decided = {key for method in load_preset("default").methods.values() for key in method.training}
    for name in decided:
        extra = Training.model_fields[name].json_schema_extra
        assert isinstance(extra, dict)
        assert "the preset's" in str(extra["shown_default"])
    assert "the preset's for the method" in " ".join(ok("train", "--help").replace("│", " ").split())


def test_names_from_elsewhere_lead_to_options_that_exist() -> None:
    names = {name: {n for p in load(entry).params for n in p.opts} for name, entry in COMMANDS.items()}
    assert set(ELSEWHERE.values()) <= set().union(*names.values())
    assert not (ELSEWHERE.keys() | INSTEAD.keys()) & names["train"]


def test_translation_leaves_everything_else_alone() -> None:
    words = ["a.csv", "--epochs", "3", "-m", "x", "--unheard-of", "--", "--lr"]
    assert translate(words, {"--epochs"}) == words
    assert translate(["--ray", "x"], {"--ray"}) == ["--ray", "local", "x"]
    assert translate(["--ray", "host:1"], {"--ray"}) == ["--ray", "host:1"]
    assert translate(["--ray"], {"--ray"}) == ["--ray", "local"]
    assert translate([], {"--ray"}) == []  # `genft demo` has no words at all
    with pytest.raises(ConfigError) as error:
        translate(["--lr", "1", "--bs=4"], {"--learning-rate", "--batch-size"})
    assert error.value.problems == ["--lr: is called --learning-rate in genft", "--bs: is called --batch-size in genft"]


def test_commands_are_short() -> None:
    for entry in COMMANDS.values():
        module = inspect.getmodule(load(entry).callback) if entry.name != "data" else None
        if module is not None:
            assert len(inspect.getsource(module).splitlines()) <= 250
