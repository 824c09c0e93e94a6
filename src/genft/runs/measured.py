"""The outcome of a run: a result, whose parts are filled in by the code that knows them, or a failure."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from genft.models.parameters import Counts
from genft.records import Record
from genft.runs.spec import LIMITS


class Scores(Record):
    """The scores of the run on the protocol's reporting split.

    Attributes:
        metric: the metric of the task.
        value: ``metrics[metric]``.
        metrics: every metric by name, including those of further splits.
        interval: the 95 % interval of ``value`` over the examples.
        constant: whether the prediction is the same for every example although the targets differ; None for results
            of a genft that did not record it.
    """

    metric: str
    value: float
    metrics: dict[str, float]
    interval: tuple[float, float]
    constant: bool | None = None


class History(Record):
    """How training went.

    Attributes:
        epochs: one entry per evaluation: epoch, losses and metrics on the selection split.
        best_epoch: the epoch that was selected.
        steps: optimizer steps of all trainings together.
        resumed_at: the number of steps that an earlier, interrupted process had done.
        selected_by: the metric in ``epochs``; None if it is the reported one, as always in genft 0.1.
    """

    epochs: list[dict[str, float]]
    best_epoch: int
    steps: int
    resumed_at: int
    selected_by: str | None = None


class Cost(Record):
    """What the run cost: total seconds, median seconds of a step, peak memory, and the adapter's size on disk."""

    seconds: float
    seconds_per_step: float
    peak_memory_bytes: int
    peak_memory_of: str
    adapter_bytes: int


class Provenance(Record):
    """The run's model, data, device and library versions; ``started`` is in UTC.

    Attributes:
        input_fingerprint: a hash of what turns examples into the model's input (tokenizer or image processor, content
            of images); None for results of a genft that did not record it.
    """

    model_fingerprint: str
    data_fingerprint: str
    input_fingerprint: str | None = None
    device: str
    versions: dict[str, str]
    started: str


#: The parts of a result.
_PARTS: dict[str, type[Record]] = {
    "scores": Scores,
    "history": History,
    "counts": Counts,
    "cost": Cost,
    "provenance": Provenance,
}
#: Fields of genft 0.1's flat results that have a different name in their part.
_FLAT_NAMES = {("scores", "value"): "score", **{("counts", name): f"{name}_parameters" for name in Counts.model_fields}}


class Result(Record):
    """What one run measured.

    Attributes:
        key: the hash of the run's spec, model and data: :meth:`genft.runs.spec.RunSpec.key`.
        label: a readable and unique name, also the name of the adapter's folder.
        examples: the number of examples in each role.
        adapter: the adapter's folder, relative to the store's.
        predictions, targets: of the reporting split: see :func:`unpack`.
    """

    key: str
    label: str
    spec: dict[str, Any]
    task: str
    model: str
    method: str
    seed: int
    protocol: str
    examples: dict[str, int]
    scores: Scores
    history: History
    counts: Counts
    cost: Cost
    provenance: Provenance
    adapter: str
    predictions: str
    targets: str

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, values: Any) -> Any:
        """Accept a flat result, as written by genft 0.1."""
        if not isinstance(values, dict) or "score" not in values:
            return values
        nested = dict(values)
        for part, record in _PARTS.items():
            flat_names = {name: _FLAT_NAMES.get((part, name), name) for name in record.model_fields}
            nested[part] = {name: nested.pop(flat) for name, flat in flat_names.items() if flat in nested}
        return nested

    @property
    def limited(self) -> bool:
        """Whether only part of the data was used, which is shown wherever the score is."""
        return any(self.spec.get(limit) is not None for limit in LIMITS)


class Failure(Record):
    """A run that ended with an error."""

    key: str
    task: str
    method: str
    seed: int
    error: str
    spec: dict[str, Any]


class ComparedRun(Record):
    """One run of a comparison: its position in the table, and its key.

    Attributes:
        matrix: the comparison it belongs to: the same for the same model, preset and training settings.
        label: the column: the method, with any settings that differ from its defaults.
    """

    matrix: str
    task: str
    label: str
    seed: int
    key: str = Field(pattern=r"^[\w-]+$")  # a file name that cannot lead out of the store

    @property
    def position(self) -> tuple[str, str, str, int]:
        return self.matrix, self.task, self.label, self.seed
