"""The store of results: one JSON file per run, named by the key of its spec and written atomically.

    <out>/results/<key>.json      the measurements and the predictions
    <out>/adapters/<name>/        the trained adapter
    <out>/checkpoints/<key>/      checkpoints of an unfinished run
    <out>/failures/<key>.json     why a run has no result
    <out>/bench.json              which of the runs are compared (others chose learning rates, for example)

Several processes may write to one store: files appear by atomic rename, and equal keys mean equal runs.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import ValidationError

from genft.errors import ConfigError, DataError, first_line
from genft.families.metrics import METRICS, same_for_all
from genft.files import write_atomically
from genft.records import Record
from genft.runs.measured import ComparedRun, Failure, Result

R = TypeVar("R", bound=Record)


#: The hexadecimal digits in the name of a comparison that genft 0.1 wrote.
_FORMER_DIGITS = 8


class _Comparison(Record):
    """The content of bench.json: the runs that are compared."""

    cells: tuple[ComparedRun, ...]


class Store:
    """The results in one output folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.results = out / "results"
        self.failures = out / "failures"

    def open(self) -> Store:
        """Create the folders; raise :class:`ConfigError` if they cannot be written, before any work is done."""
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
        """Delete the checkpoints of a finished run; the parent folder stays, since another run may be writing there."""
        shutil.rmtree(self.checkpoints(key), ignore_errors=True)

    def claim(self, key: str, *, wait: bool = True) -> AbstractContextManager[Any]:
        """A lock that a process holds while it executes this run; it is released if the process dies.

        Raises:
            filelock.Timeout: on entry, if another process holds the lock and ``wait`` is false.
        """
        return FileLock(self.results / f".{key}.lock", timeout=-1 if wait else 0)

    def claimed(self, key: str) -> bool:
        """Whether a process is executing this run now."""
        try:
            with self.claim(key, wait=False):
                return False
        except Timeout:
            return True

    def fail(self, failure: Failure) -> None:
        """Record why a run has no result; a later result with the same key replaces the record."""
        try:
            self.failures.mkdir(exist_ok=True)
        except OSError as e:
            raise ConfigError(f"{self.failures}: the folder cannot be created ({e.strerror})") from None
        write_atomically(self.failures / f"{failure.key}.json", failure.model_dump_json(indent=1).encode())

    def failure(self, key: str) -> Failure | None:
        """Why the run has no result, or None if it has one or did not fail."""
        path = self.failures / f"{key}.json"
        return _read(path, Failure) if path.is_file() and not self.path(key).is_file() else None

    def failed(self) -> list[Failure]:
        """The runs that ended with an error and have not been finished since."""
        paths = sorted(self.failures.glob("*.json"))
        return [_read(path, Failure) for path in paths if not self.path(path.stem).is_file()]

    def add_compared(self, runs: Iterable[ComparedRun]) -> None:
        """Record which runs a bench compares; a run that is already listed gets its new key.

        Runs listed by genft 0.1, which named a comparison by the first half of its hash, get the whole name.
        """
        runs = list(runs)
        names = {run.matrix[:_FORMER_DIGITS]: run.matrix for run in runs}
        with FileLock(self.results / ".bench.lock"):
            earlier = (run.model_copy(update={"matrix": names.get(run.matrix, run.matrix)}) for run in self.compared())
            listed = {run.position: run for run in (*earlier, *runs)}
            self._write_compared(listed.values())

    def compared(self) -> list[ComparedRun]:
        """The runs that the benches of this store compare, in order."""
        path = self.out / "bench.json"
        return list(_read(path, _Comparison).cells) if path.is_file() else []

    @staticmethod
    def adapter_path(name: str) -> str:
        """The path of the adapter with this name, relative to the store."""
        return f"adapters/{name}"

    def adapter(self, name: str) -> Path:
        return self.out / self.adapter_path(name)

    def logs(self, name: str) -> Path:
        """The folder for a run's TensorBoard files."""
        return self.out / "logs" / name

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

    def rename(self, former: str, key: str) -> None:
        """Give the result ``former`` another key, also in the list of compared runs.

        Raises:
            DataError: the file is damaged, or holds the result of another run.
        """
        with FileLock(self.results / ".bench.lock"):
            if (result := self.get(former)) is None:  # another process was faster
                return
            self.put(result.model_copy(update={"key": key}))
            compared = self.compared()
            if any(run.key == former for run in compared):
                self._write_compared(r.model_copy(update={"key": key}) if r.key == former else r for r in compared)
            self.path(former).unlink(missing_ok=True)

    def _write_compared(self, runs: Iterable[ComparedRun]) -> None:
        content = _Comparison(cells=tuple(runs))
        write_atomically(self.out / "bench.json", content.model_dump_json(indent=1).encode())

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
        kind = record.__name__.strip("_").lower()
        raise DataError(f"{path}: is not a {kind} of this version ({_reason(e)}); delete it") from None
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
    """The inverse of :func:`pack`."""
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(base64.b64decode(text), LARGEST_ARRAY)
    if unpacker.unconsumed_tail:
        raise ValueError(f"it unpacks to more than {LARGEST_ARRAY // 2**20} MiB")
    return np.load(io.BytesIO(content), allow_pickle=False)


def answers(result: Result) -> tuple[NDArray[Any], NDArray[Any]]:
    """(predictions (examples, …), targets (examples,)) of the reporting split.

    Raises:
        DataError: they are damaged, too large, or do not belong together.
    """
    try:
        predicted, target = unpack(result.predictions), unpack(result.targets)
    except (ValueError, EOFError, zlib.error, MemoryError) as e:
        raise DataError(f"results/{result.key}.json: its predictions cannot be read ({first_line(e)})") from None
    metric = METRICS.get(result.scores.metric)
    width = (metric.width,) if metric and metric.width else ()
    if predicted.shape != (*target.shape, *width) or target.ndim != 1 or not len(target):
        raise DataError(
            f"results/{result.key}.json: its predictions {predicted.shape} and targets {target.shape} do not belong "
            "together"
        )
    return predicted, target


def is_constant(result: Result) -> bool:
    """Whether the run makes the same prediction for every example although the right answers differ."""
    try:
        predicted, target = answers(result)
    except DataError:  # reported by the comparison of methods
        return False
    return same_for_all(predicted, target)
