"""What a run is: a :class:`RunSpec`, and where each of its values came from."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, PydanticSchemaGenerationError, TypeAdapter, ValidationError, model_validator

from genft.data import Task
from genft.errors import ConfigError, nearest, not_one_of
from genft.methods import MethodInfo, get_method
from genft.presets import Preset, Space
from genft.records import Record, check

#: Fields of a peft configuration that genft fills in, or that describe the file and not the method.
_OURS = {"task_type", "modules_to_save", "inference_mode"}
_BOOKKEEPING = {
    "peft_type",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "auto_mapping",
    "base_fingerprint",
}


#: Fields of a :class:`RunSpec` that make it a part of the real thing.
LIMITS = ("limit_train", "limit_select", "limit_eval")


class Training(Record):
    """Hyper-parameters of training that every method has."""

    epochs: int = Field(default=10, ge=1, description="passes over the training examples")
    batch_size: int = Field(default=16, ge=1, description="examples per optimizer step")
    learning_rate: float = Field(
        default=1e-3,
        gt=0,
        description="peak learning rate of the adapter",
        json_schema_extra={"shown_default": "the preset's for the method, else 0.001"},
    )
    head_learning_rate: float | None = Field(
        default=None, gt=0, description="learning rate of the head; by default the adapter's"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay of AdamW; biases and norms have none")
    schedule: Literal["linear", "cosine", "constant", "timm-cosine"] = Field(
        default="linear",
        description="how the rate decays after the warm-up: linear, cosine, constant, or timm-cosine, which changes "
        "once per epoch as the V-PETL recipe does",
    )
    warmup: float = Field(
        default=0.06, ge=0, lt=1, description="fraction of all steps in which the learning rate rises"
    )
    first_learning_rate: float = Field(default=0.0, ge=0, description="learning rate at which the warm-up begins")
    last_learning_rate: float = Field(default=0.0, ge=0, description="learning rate at which the decay ends")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="label smoothing of the cross-entropy")
    drop_path: float = Field(
        default=0.0, ge=0, lt=1, description="probability of skipping the last block; it rises with depth"
    )
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="gradients are clipped to this norm; 0 switches clipping off"
    )
    eval_batch_size: int = Field(default=64, ge=1, description="examples per forward pass without gradients")
    image_size: int | None = Field(default=None, ge=8, description="pixels per side; by default the model's own")
    augment: Literal["none", "randaug", "crop"] = Field(
        default="none",
        description="augmentation of training images: none, randaug (timm's, with colour jitter and flip), or crop "
        "(FGVC's random crop and flip; evaluation then takes the centre)",
    )
    normalise: Literal["model", "imagenet"] = Field(
        default="model",
        description="how images are resized and scaled: model (as in its pretraining) or imagenet (VTAB's: bilinear, "
        "ImageNet's mean)",
    )
    precision: Literal["float32", "bf16"] = Field(default="float32", description="float32, or bf16 for mixed precision")

    @model_validator(mode="after")
    def _decays(self) -> Training:
        for name in ("first_learning_rate", "last_learning_rate"):
            if getattr(self, name) > self.learning_rate:
                raise ValueError(f"{name}: {getattr(self, name):g} is above the learning rate, {self.learning_rate:g}")
        return self


class RunSpec(Record):
    """Everything that decides a result, before models and data are looked at."""

    task: Task
    model: str
    method: str
    settings: dict[str, Any] = Field(default_factory=dict, description="of the method's configuration")
    training: Training = Training()
    seed: int = Field(default=0, ge=0)
    protocol: str = "holdout"
    limit_train: int | None = Field(default=None, ge=2, description="use only so many training examples")
    limit_eval: int | None = Field(default=None, ge=2, description="evaluate on only so many examples")
    limit_select: int | None = Field(default=None, ge=2, description="select on only so many; none: limit_eval")

    def key(self, model_fingerprint: str, data_fingerprint: str) -> str:
        """The hash that names this run's result: equal runs have equal keys on every machine."""
        content = self.model_dump(mode="json", exclude={"task", "model"})
        task = self.task.model_dump(mode="json", include={"name", "text_columns", "regression", "metric", "max_length"})
        content |= {"task": task, "model": model_fingerprint, "data": data_fingerprint}
        settings = full_settings(get_method(self.method), self.settings)
        content["settings"] = {k: v for k, v in settings.items() if k != "plan"}  # how fast, not what
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Sourced(typing.NamedTuple):
    """A value and where it came from: a line of ``genft explain``."""

    value: Any
    source: str


def layer(*layers: tuple[str, Mapping[str, Any]]) -> dict[str, Sourced]:
    """Later layers win; each value remembers the name of its layer."""
    return {key: Sourced(value, source) for source, values in layers for key, value in values.items()}


@dataclasses.dataclass(frozen=True)
class Request:
    """A spec, with the origin of every value in it.

    Attributes:
        run, settings, training: the values of the spec itself, of the method and of training.
        spaces: what a search would vary.
    """

    spec: RunSpec
    run: Mapping[str, Sourced]
    settings: Mapping[str, Sourced]
    training: Mapping[str, Sourced]
    spaces: Mapping[str, Space] = dataclasses.field(default_factory=dict)


def build_spec(
    task: Task,
    model: str,
    preset: Preset,
    *,
    settings: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    **said: Any,
) -> Request:
    """Put the layers together: defaults, the registry's, the preset's, and what the user said.

    Args:
        settings: what the user set of the method's configuration, already of the right types.
        training: what the user set of :class:`Training`.
        said: what the user set of :class:`RunSpec`: method, seed, protocol, limits.
    """
    user = "command line"
    info = get_method(said.get("method", "genft"))
    of_preset = preset.select(info.name, task.name)
    run = layer(
        ("default", {"method": info.name, "seed": 0, **dict.fromkeys(LIMITS)}),
        ("default" if task.files else f"task {task.name}", {"protocol": task.protocol}),
        *((source, values.run) for source, values in of_preset),
        (user, {"model": model, **said}),
    )
    all_training = layer(
        ("default", Training().model_dump()),
        (f"task {task.name}", task.training),
        *((source, values.training) for source, values in of_preset),
        (user, training or {}),
    )
    all_settings = layer(
        ("default", default_settings(info)),
        (f"genft's for {info.name}", info.defaults),
        *((source, values.settings) for source, values in of_preset),
        (user, settings or {}),
    )
    check_settings(info, all_settings)
    spec = check(
        RunSpec,
        {
            "task": task,
            "settings": {k: v.value for k, v in all_settings.items() if v.source != "default"},
            "training": check(Training, {k: v.value for k, v in all_training.items()}, "training"),
            **{k: v.value for k, v in run.items()},
        },
        "run",
    )
    return Request(spec, run, all_settings, all_training, preset.spaces(info.name))


def setting_types(info: MethodInfo) -> dict[str, Any]:
    """The settings of a method and their types; a baseline has none."""
    if info.config is None:
        return {}
    hints = typing.get_type_hints(info.config)
    return {
        f.name: hints[f.name] for f in dataclasses.fields(info.config) if f.init and f.name not in _OURS | _BOOKKEEPING
    }


def default_settings(info: MethodInfo) -> dict[str, Any]:
    """The settings of a method as its configuration class has them."""
    if info.config is None:
        return {}
    values, known = {}, setting_types(info)
    for f in dataclasses.fields(info.config):
        if f.name in known:
            values[f.name] = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
    return {k: v for k, v in values.items() if v is not dataclasses.MISSING}


def full_settings(info: MethodInfo, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting with its default, in a form that JSON can hold."""
    return {k: plain(v) for k, v in {**default_settings(info), **settings}.items()}


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: sets sorted, nested configurations as dictionaries."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def check_settings(info: MethodInfo, settings: Iterable[str]) -> None:
    """Refuse settings that the method does not have, all at once."""
    known = setting_types(info)
    problems = []
    for key in settings:
        if key not in known and key in Training.model_fields:
            flag = key.replace("_", "-")
            problems.append(f"--set {key}: is of training, not of the method {info.name!r}: use --{flag}")
        elif key not in known and not known:
            problems.append(f"--set {key}: the method {info.name!r} has no settings")
        elif key not in known:
            close = nearest(key, known)
            problems.append(
                f"--set {key}: the method {info.name!r} has no such setting"
                + (f"; nearest: {close!r}" if close else "")
                + f"; all: `genft list methods {info.name}`"
            )
    if problems:
        raise ConfigError(problems)


def parse_settings(info: MethodInfo, pairs: Iterable[str]) -> dict[str, Any]:
    """``["shared_dim=8", "target_modules=query,value"]`` → values of the types that the method's settings have."""
    problems, texts = [], {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if equals:
            texts[key.strip().replace("-", "_")] = text.strip()
        else:
            problems.append(f"--set {pair}: must be key=value")
    if problems:
        raise ConfigError(problems)
    check_settings(info, texts)
    hints, values = setting_types(info), {}
    for key, text in texts.items():
        try:
            values[key] = _parse(hints[key], text)
        except ValueError as e:
            problems.append(f"--set {key}: {e}")
    if problems:
        raise ConfigError(problems)
    return values


def split_outside_brackets(text: str) -> list[str]:
    """``"a,b[c=1,d=2]"`` → ``["a", "b[c=1,d=2]"]``."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


def _parse(hint: Any, text: str) -> Any:
    """``text`` as a value of type ``hint``: JSON where it is JSON, ``none``, a comma list, or the text itself."""
    options = set(_options(hint))
    literals = [value for o in options if typing.get_origin(o) is Literal for value in typing.get_args(o)]
    candidates: list[Any] = []
    if text.lower() in ("none", "null") and types.NoneType in options:
        return None
    with contextlib.suppress(json.JSONDecodeError):
        candidates.append(json.loads(text.lower() if bool in options else text))
    takes_list = any((typing.get_origin(o) or o) in (list, set, tuple) for o in options)
    # one plain name is a list of one; a text with other signs may be a regular expression
    one_name = re.fullmatch(r"[\w.]+", text) is not None and text != "all-linear"
    if takes_list and ("," in text or str not in options or one_name):
        candidates.append([part.strip() for part in text.split(",") if part.strip()])
    candidates.append(text)
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        raise ValueError("cannot be set on the command line; use Python") from None
    for candidate in candidates:
        try:
            return adapter.validate_python(candidate)
        except ValidationError:
            continue
    if literals:
        raise ValueError(not_one_of("value", text, literals))
    raise ValueError(f"{text!r} is not {type_name(hint)}")


def _options(hint: Any) -> Iterable[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            yield from _options(option)
    else:
        yield hint


def type_name(hint: Any) -> str:
    """The type of a setting in words."""
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        types.NoneType: "none",
    }
    return " or ".join(names.get(o, str(o).replace("typing.", "")) for o in _options(hint))
