"""The options that describe one run, shared by the commands that take one."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from genft.api.settings import parse_settings
from genft.errors import ConfigError
from genft.runs.protocols import PROTOCOLS
from genft.runs.request import Request, build_spec
from genft.runs.settings import Training

_DATA, _METHOD, _TRAINING = "Data", "Model and method", "Training"

#: Of the commands that train; no part of a run's key.
ReportTo = Annotated[
    list[str] | None,
    typer.Option(
        help="tensorboard, mlflow, wandb or trackio, as often as needed; TensorBoard's files go to OUT/logs.",
        rich_help_panel="Output",
    ),
]

#: Of every command that reads data; a limited run says so wherever its number appears.
LimitTrain = Annotated[
    int | None, typer.Option(min=2, help="Use only so many training examples.", rich_help_panel=_DATA)
]
LimitEval = Annotated[int | None, typer.Option(min=2, help="Evaluate on only so many.", rich_help_panel=_DATA)]
LimitSelect = Annotated[
    int | None, typer.Option(min=2, help="Select on only so many. \\[default: as --limit-eval]", rich_help_panel=_DATA)
]

#: Of the commands that do many runs.
TaskWords = Annotated[
    list[str],
    typer.Argument(
        metavar="SUITE|TASK...", help="glue, vtab1k, fgvc, tasks of [bold]genft list tasks[/], or a .toml of yours."
    ),
]
DataRoot = Annotated[
    Path | None, typer.Option(help="The folder with the data. \\[default: the Hub]", rich_help_panel=_DATA)
]
ProtocolName = Annotated[
    str | None,
    typer.Option(help="Which split selects and which reports. \\[default: the task's]", rich_help_panel=_DATA),
]


def run_request(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK|FILE",
            help="A task of [bold]genft list tasks[/], a .csv, .tsv, .jsonl or .json file with a row per example, "
            "or a folder of images (class folders, or train/val/test with class folders in them).",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A packaged model (genft list models), a folder, a Hub id, or a timm name.",
            rich_help_panel=_METHOD,
        ),
    ],
    method: Annotated[
        str | None,
        typer.Option(help="One of [bold]genft list methods[/]. \\[default: genft]", rich_help_panel=_METHOD),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the method (genft list methods NAME), as often as needed.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Hyper-parameters by name, or your own .toml.", rich_help_panel=_METHOD)
    ] = "default",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="ROOT",
            help="The folder with a benchmark's data: glue, vtab-1k, FGVC sets, or the folder above them. "
            "\\[default: from the Hub]",
            rich_help_panel=_DATA,
        ),
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(help="The column with the text; twice for pairs. \\[default: text]", rich_help_panel=_DATA),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="The column with the answer. \\[default: label]", rich_help_panel=_DATA)
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(help="Rows that select the epoch. \\[default: a tenth of train]", rich_help_panel=_DATA),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(help="Rows that are reported. \\[default: a fifth of train]", rich_help_panel=_DATA),
    ] = None,
    regression: Annotated[
        bool, typer.Option("--regression", help="The answer is a number.", rich_help_panel=_DATA)
    ] = False,
    encoding: Annotated[str, typer.Option(help="Of text files.", rich_help_panel=_DATA)] = "utf-8",
    metric: Annotated[
        str | None,
        typer.Option(help="accuracy, macro_f1, f1, matthews; pearson, spearman for numbers.", rich_help_panel=_DATA),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens of a text, longer ones are cut. \\[default: 128]", rich_help_panel=_DATA),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(PROTOCOLS)}. \\[default: the task's]", rich_help_panel=_DATA),
    ] = None,
    limit_train: LimitTrain = None,
    limit_eval: LimitEval = None,
    limit_select: LimitSelect = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of the head, the factors and the order. \\[default: 0]", rich_help_panel=_TRAINING),
    ] = None,
    **training: Any,
) -> Request:
    """From the words of the command line to a spec in which every value knows its origin."""
    from genft.data import load_task, task_from_path
    from genft.methods import get_method
    from genft.presets import load_preset

    if _is_path(task):
        if data:
            raise ConfigError("--data: is for the tasks of `genft list tasks`; a file of your own is its own data")
        found = task_from_path(
            Path(task),
            text_columns=text_column or (),
            label_column=label_column,
            validation=validation,
            test=test,
            regression=regression,
            encoding=encoding,
        )
    else:
        found = load_task(task, data)
        _refuse_for_task(task, text_column=text_column, label_column=label_column, validation=validation, test=test)
    changed = {"metric": metric, "max_length": max_length}
    found = found.model_copy(update={k: v for k, v in changed.items() if v is not None})
    said = {
        "method": method,
        "seed": seed,
        "protocol": protocol,
        "limit_train": limit_train,
        "limit_eval": limit_eval,
        "limit_select": limit_select,
    }
    said = {k: v for k, v in said.items() if v is not None}
    info = get_method(method or "genft")
    return build_spec(
        found,
        model,
        load_preset(preset),
        settings=parse_settings(info, set_ or (), Training.model_fields),
        training={k: v for k, v in training.items() if v is not None},
        **said,
    )


def run_alone(command: str) -> None:
    """Refuse to be one of several processes of torchrun or accelerate."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{command}: is one process; torchrun and accelerate are for genft train")


def _is_path(task: str) -> bool:
    from genft.data import list_tasks
    from genft.data.files import TABLES

    path = Path(task)
    if path.suffix == ".toml" or task in {known.name for known in list_tasks()}:
        return False
    return path.suffix.lower() in TABLES or path.exists() or "/" in task


def _refuse_for_task(task: str, **options: object) -> None:
    if given := [f"--{name.replace('_', '-')}" for name, value in options.items() if value]:
        raise ConfigError(f"{', '.join(given)}: for files of your own; the task {task!r} says this itself")


def takes_a_run(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(request, ...)`` the options of :func:`run_request` and one per field of Training."""

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        own = {name: given.pop(name) for name in mine}
        command(run_request(**given), **own)

    def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
        found = inspect.signature(function, eval_str=True).parameters.values()
        return [p.replace(kind=p.KEYWORD_ONLY) for p in found if p.kind is not p.VAR_KEYWORD]

    own_parameters = [p for p in parameters(command) if p.name != "request"]
    mine = [p.name for p in own_parameters]
    everything = [*parameters(run_request), *_training_parameters(), *own_parameters]
    wrapper.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in everything}
    return wrapper


def takes_training(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(training=..., ...)`` one option per field of Training; it gets those that were said."""

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        said = {name: given.pop(name) for name in Training.model_fields}
        command(training={name: value for name, value in said.items() if value is not None}, **given)

    own = inspect.signature(command, eval_str=True).parameters.values()
    everything = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name != "training"] + _training_parameters()
    wrapper.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in everything}
    return wrapper


def _training_parameters() -> list[inspect.Parameter]:
    made = []
    for name, field in Training.model_fields.items():
        options = [o for o in typing.get_args(field.annotation) or (field.annotation,) if o is not type(None)]
        kind = options[0] if options[0] in (int, float) else str
        default = "" if field.default is None else f" \\[default: {field.default}]"
        text = field.description or ""
        option = typer.Option(help=f"{text[:1].upper()}{text[1:]}.{default}", rich_help_panel=_TRAINING)
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        made.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return made
