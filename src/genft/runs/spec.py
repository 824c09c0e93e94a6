"""What a run is: a :class:`RunSpec`, and where each of its values came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from genft.api.settings import (  # noqa: F401 - some for those who still import them from here
    check_settings,
    default_settings,
    full_settings,
    key_settings,
    parse_settings,
    plain,
    setting_types,
    split_outside_brackets,
    type_name,
)
from genft.data import Task
from genft.methods import get_method
from genft.presets import Preset, Space
from genft.records import Record, check

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
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="number format of training: float32, or bf16 for mixed precision"
    )

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
        content["settings"] = key_settings(get_method(self.method), self.settings)
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
    check_settings(info, all_settings, Training.model_fields)
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
