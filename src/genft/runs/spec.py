"""What a run is: everything that decides its result."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field

from genft.api.registry import MethodInfo
from genft.api.settings import key_settings
from genft.data.task import Task
from genft.records import Record
from genft.runs.settings import Training

#: Fields of a :class:`RunSpec` that restrict it to a part of the examples.
LIMITS = ("limit_train", "limit_select", "limit_eval")


class RunSpec(Record):
    """Everything that decides a result, apart from the content of the model and the data."""

    task: Task
    model: str
    method: str
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of the method's configuration")
    training: Training = Training()
    seed: int = Field(default=0, ge=0, lt=2**32)  # the range of NumPy's seeds
    protocol: str = "holdout"
    limit_train: int | None = Field(default=None, ge=2, description="train on at most this many examples")
    limit_eval: int | None = Field(default=None, ge=2, description="evaluate on at most this many examples")
    limit_select: int | None = Field(
        default=None, ge=2, description="select the epoch on at most this many examples; none: limit_eval"
    )

    def key(
        self,
        method: MethodInfo,
        model_fingerprint: str,
        data_fingerprint: str,
        input_fingerprint: str | None = None,
        revision: str | None = None,
    ) -> str:
        """The hash that names this run's result: equal runs have equal keys on every machine.

        Args:
            method: the method named ``self.method``.
            model_fingerprint, data_fingerprint: hashes of the model's files and of all examples.
            input_fingerprint: a hash of what makes examples the model's input: the files of the tokenizer or of the
                image processor, and the content of images. The first keys of genft 0.1 were made without it.
            revision: what is learned otherwise since genft 0.1, so that a result of then is not taken for one of now.
        """
        content = self.model_dump(mode="json", exclude={"task", "model"})
        task = self.task.model_dump(mode="json", include={"name", "text_columns", "regression", "metric", "max_length"})
        for name in ("family", "prompting", "answering"):  # later than the first keys
            if (value := getattr(self.task, name)) != Task.model_fields[name].default:
                task[name] = value if isinstance(value, str) else value.model_dump(mode="json", exclude_defaults=True)
        content |= {"task": task, "model": model_fingerprint, "data": data_fingerprint}
        content |= {"settings": key_settings(method, self.settings), "training": self.training.for_key()}
        if input_fingerprint is not None:
            content["inputs"] = input_fingerprint
        if revision is not None:
            content["revision"] = revision
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
