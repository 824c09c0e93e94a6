"""What a run leaves: a result whose parts are each made where their content is known, or a failure."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from genft.models.parameters import Counts
from genft.records import Record
from genft.runs.spec import LIMITS


class Scores(Record):
    """How good the run is on the protocol's reporting split.

    Attributes:
        metric: the metric of the task.
        value: ``metrics[metric]``.
        metrics: every metric by its name, also those of further splits.
        interval: the 95 % interval of ``value`` over the examples.
    """

    metric: str
    value: float
    metrics: dict[str, float]
    interval: tuple[float, float]


class History(Record):
    """How training went.

    Attributes:
        epochs: one entry per evaluation: epoch, losses and metrics on the selection split.
        best_epoch: the epoch that was selected.
        steps: optimizer steps of all trainings together.
        resumed_at: how many of them an earlier, interrupted process had done.
    """

    epochs: list[dict[str, float]]
    best_epoch: int
    steps: int
    resumed_at: int


class Cost(Record):
    """What the run took: seconds of the whole run, the median of a step, the peak of memory, the adapter on disk."""

    seconds: float
    seconds_per_step: float
    peak_memory_bytes: int
    peak_memory_of: str
    adapter_bytes: int


class Provenance(Record):
    """What the run was made from, with and on; ``started`` is in UTC."""

    model_fingerprint: str
    data_fingerprint: str
    device: str
    versions: dict[str, str]
    started: str


#: The parts of a result; each is made where its content is known.
_PARTS: dict[str, type[Record]] = {
    "scores": Scores,
    "history": History,
    "counts": Counts,
    "cost": Cost,
    "provenance": Provenance,
}
#: Fields of the flat results of genft 0.1 that have another name in their part.
_FLAT_NAMES = {("scores", "value"): "score", **{("counts", name): f"{name}_parameters" for name in Counts.model_fields}}


class Result(Record):
    """What one run measured.

    Attributes:
        key: the hash of the run's spec, model and data: :meth:`genft.runs.spec.RunSpec.key`.
        label: readable and unique: the name of the adapter's folder.
        examples: how many examples each role has.
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
        """Read a flat result, as genft 0.1 wrote it."""
        if not isinstance(values, dict) or "score" not in values:
            return values
        nested = dict(values)
        for part, record in _PARTS.items():
            flat_names = {name: _FLAT_NAMES.get((part, name), name) for name in record.model_fields}
            nested[part] = {name: nested.pop(flat) for name, flat in flat_names.items() if flat in nested}
        return nested

    @property
    def limited(self) -> bool:
        """Whether only a part of the data was used, which is shown wherever the score is."""
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
    """One run of a comparison: its place in the table, and its key.

    Attributes:
        matrix: the comparison it belongs to: equal for equal model, preset and training settings.
        label: the column: the method, with any settings that differ from its own.
    """

    matrix: str
    task: str
    label: str
    seed: int
    key: str = Field(pattern=r"^[\w-]+$")  # the name of a file, and no path out of the store

    @property
    def position(self) -> tuple[str, str, str, int]:
        return self.matrix, self.task, self.label, self.seed
