"""Where results live: one JSON file per run, named by the key of its spec, written whole or not at all.

    <out>/results/<key>.json      what was measured, with the predictions
    <out>/adapters/<name>/        what was trained
    <out>/checkpoints/<key>/      of a run that is not finished
    <out>/failures/<key>.json     why a run has no result
    <out>/bench.json              which of the runs are compared (the others chose learning rates, say)

Several processes may write into one store: a file appears by one atomic rename, and equal keys mean equal runs.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from genft.errors import ConfigError, DataError, first_line
from genft.files import write_atomically
from genft.records import Record
from genft.runs.spec import LIMITS

R = TypeVar("R", bound=Record)


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
        epochs: one entry per evaluation: epoch, losses and metrics on the selecting split.
        best_epoch: the epoch that was selected.
        steps: optimizer steps of all trainings together.
        resumed_at: how many of them an earlier, interrupted process had done.
    """

    epochs: list[dict[str, float]]
    best_epoch: int
    steps: int
    resumed_at: int


class Counts(Record):
    """Numbers of parameters: those that train, by where they are, and all of the adapted model."""

    adapter: int
    head: int
    total: int


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
    key: str = Field(pattern=r"^[\w-]+$")  # a file's name, and no path out of the store

    @property
    def position(self) -> tuple[str, str, str, int]:
        return self.matrix, self.task, self.label, self.seed


class _Comparisons(Record):
    """The content of bench.json."""

    cells: tuple[ComparedRun, ...]


class Store:
    """The results in one output folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.results = out / "results"
        self.failures = out / "failures"

    def open(self) -> Store:
        """Make the folders; a folder that cannot be written is a :class:`ConfigError` before any work is done."""
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.results):
                pass
        except OSError as e:
            raise ConfigError(f"--out {self.out}: cannot be written ({e.strerror})") from None
        return self

    def path(self, key: str) -> Path:
        return self.results / f"{key}.json"

    def checkpoints(self, key: str) -> Path:
        return self.out / "checkpoints" / key

    def drop_checkpoints(self, key: str) -> None:
        """Remove what a finished run no longer needs; the folder around it stays: another run may be writing there."""
        shutil.rmtree(self.checkpoints(key), ignore_errors=True)

    def claim(self, key: str, *, wait: bool = True) -> FileLock:
        """A lock that one process holds while it does this run; one that dies lets go.

        Raises:
            filelock.Timeout: on entering it, where another process holds it and ``wait`` is false.
        """
        return FileLock(self.results / f".{key}.lock", timeout=-1 if wait else 0)

    def claimed(self, key: str) -> bool:
        """Whether a process is at this run now."""
        try:
            with self.claim(key, wait=False):
                return False
        except Timeout:
            return True

    def fail(self, failure: Failure) -> None:
        """Remember why a run has no result; a result of the same key makes it forgotten."""
        try:
            self.failures.mkdir(exist_ok=True)
        except OSError as e:
            raise ConfigError(f"{self.failures}: the folder cannot be made ({e.strerror})") from None
        write_atomically(self.failures / f"{failure.key}.json", failure.model_dump_json(indent=1).encode())

    def failure(self, key: str) -> Failure | None:
        """Why the run has no result, or None if it has one, or did not fail."""
        path = self.failures / f"{key}.json"
        return _read(path, Failure) if path.is_file() and not self.path(key).is_file() else None

    def failed(self) -> list[Failure]:
        """The runs that ended with an error and have not been finished since."""
        paths = sorted(self.failures.glob("*.json"))
        return [_read(path, Failure) for path in paths if not self.path(path.stem).is_file()]

    def add_compared(self, runs: Iterable[ComparedRun]) -> None:
        """Record which runs a bench compares; a run that is already listed gets its new key."""
        with FileLock(self.results / ".bench.lock"):
            listed = {run.position: run for run in (*self.compared(), *runs)}
            content = _Comparisons(cells=tuple(listed.values()))
            write_atomically(self.out / "bench.json", content.model_dump_json(indent=1).encode())

    def compared(self) -> list[ComparedRun]:
        """The runs that the benches of this store compare, in order."""
        path = self.out / "bench.json"
        return list(_read(path, _Comparisons).cells) if path.is_file() else []

    def adapter(self, name: str) -> Path:
        return self.out / "adapters" / name

    def get(self, key: str) -> Result | None:
        """The finished result, or None if there is none yet.

        Raises:
            DataError: the file is damaged, or holds the result of another run.
        """
        path = self.path(key)
        result = _read(path, Result) if path.is_file() else None
        if result is not None and result.key != key:
            raise DataError(f"{path}: holds the result of the run {result.key}; it was copied or renamed: delete it")
        return result

    def put(self, result: Result) -> None:
        write_atomically(self.path(result.key), result.model_dump_json(indent=1).encode())
        (self.failures / f"{result.key}.json").unlink(missing_ok=True)

    def keys(self) -> list[str]:
        """The keys of all results, sorted."""
        return sorted(path.stem for path in self.results.glob("*.json"))

    def __iter__(self) -> Iterator[Result]:
        for key in self.keys():
            if (result := self.get(key)) is not None:
                yield result


def _read(path: Path, record: type[R]) -> R:
    try:
        return record.model_validate(json.loads(path.read_bytes()))
    except (ValidationError, ValueError, RecursionError) as e:
        what = record.__name__.strip("_").lower()
        raise DataError(f"{path}: is not a {what} of this version ({_reason(e)}); delete it") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
    return first_line(error)


#: Arrays of predictions are refused above this size: a small file may unpack to gigabytes.
LARGEST_ARRAY = 64 * 2**20


def pack(array: NDArray[Any]) -> str:
    """An array as text: compressed .npy in base64."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return base64.b64encode(zlib.compress(buffer.getvalue(), 9)).decode()


def unpack(text: str) -> NDArray[Any]:
    """The array that :func:`pack` was given."""
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(base64.b64decode(text), LARGEST_ARRAY)
    if unpacker.unconsumed_tail:
        raise ValueError(f"it unpacks to more than {LARGEST_ARRAY // 2**20} MiB")
    return np.load(io.BytesIO(content), allow_pickle=False)


def answers(result: Result) -> tuple[NDArray[Any], NDArray[Any]]:
    """(predictions, targets) of the reporting split, each (examples,).

    Raises:
        DataError: they are damaged, too large, or do not belong together.
    """
    try:
        predicted, target = unpack(result.predictions), unpack(result.targets)
    except (ValueError, EOFError, zlib.error, MemoryError) as e:
        raise DataError(f"results/{result.key}.json: its predictions cannot be read ({first_line(e)})") from None
    if predicted.ndim != 1 or predicted.shape != target.shape or not len(target):
        raise DataError(
            f"results/{result.key}.json: its predictions {predicted.shape} and targets {target.shape} do not belong "
            "together"
        )
    return predicted, target


def is_constant(result: Result) -> bool:
    """Whether the run predicts the same for every example, and the right answers differ."""
    try:
        predicted, target = answers(result)
    except DataError:  # which the comparison of methods reports
        return False
    return len(predicted) > 1 and bool(np.all(predicted == predicted[0]) and np.any(target != target[0]))
