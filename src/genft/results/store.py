"""Where results live: one JSON file per run, named by the key of its spec, written whole or not at all.

    <out>/results/<key>.json      what was measured, with the predictions
    <out>/adapters/<name>/        what was trained
    <out>/checkpoints/<key>/      of a run that is not finished

Several processes may write into one store: a file appears by one atomic rename, and equal keys mean equal runs.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from genft.checked import Record
from genft.errors import ConfigError, DataError


class Result(Record):
    """What one run measured. ``score`` is ``metrics[metric]``; all metrics are of the protocol's reporting split."""

    key: str
    label: str
    spec: dict[str, Any]
    task: str
    model: str
    method: str
    seed: int
    protocol: str
    metric: str
    score: float
    metrics: dict[str, float]
    interval: tuple[float, float]
    examples: dict[str, int]
    epochs: list[dict[str, float]]
    best_epoch: int
    steps: int
    resumed_at: int
    adapter_parameters: int
    head_parameters: int
    total_parameters: int
    seconds_per_step: float
    seconds: float
    peak_memory_bytes: int
    peak_memory_of: str
    adapter: str
    adapter_bytes: int
    predictions: str
    targets: str
    model_fingerprint: str
    data_fingerprint: str
    device: str
    versions: dict[str, str]
    started: str

    @property
    def limited(self) -> bool:
        """Whether only a part of the data was used: to be said wherever the number appears."""
        return self.spec["limit_train"] is not None or self.spec["limit_eval"] is not None


class Store:
    """The results in one output folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.results = out / "results"

    def open(self) -> Store:
        """Make the folders; a folder that cannot be written is a :class:`ConfigError` before any work is done."""
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            probe = self.results / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as e:
            raise ConfigError(f"--out {self.out}: cannot be written ({e.strerror})") from None
        return self

    def path(self, key: str) -> Path:
        return self.results / f"{key}.json"

    def checkpoints(self, key: str) -> Path:
        return self.out / "checkpoints" / key

    def drop_checkpoints(self, key: str) -> None:
        """Remove what a finished run no longer needs, and the folder of all of them when it is the last."""
        shutil.rmtree(self.checkpoints(key), ignore_errors=True)
        with contextlib.suppress(OSError):
            self.checkpoints(key).parent.rmdir()

    def adapter(self, name: str) -> Path:
        return self.out / "adapters" / name

    def get(self, key: str) -> Result | None:
        """The finished result, or None where there is none yet."""
        path = self.path(key)
        return _read(path) if path.is_file() else None

    def put(self, result: Result) -> None:
        write_atomically(self.path(result.key), result.model_dump_json(indent=1).encode())

    def __iter__(self) -> Iterator[Result]:
        for path in sorted(self.results.glob("*.json")):
            yield _read(path)


def _read(path: Path) -> Result:
    try:
        return Result.model_validate(json.loads(path.read_bytes()))
    except (ValidationError, ValueError) as e:
        raise DataError(f"{path}: is not a result of this version ({str(e).splitlines()[0]}); delete it") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that other processes see whole or not at all, even if the machine stops in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written ({e.strerror})") from None


def pack(array: NDArray[Any]) -> str:
    """An array as text: compressed .npy in base64."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return base64.b64encode(zlib.compress(buffer.getvalue(), 9)).decode()


def unpack(text: str) -> NDArray[Any]:
    """The array that :func:`pack` was given."""
    return np.load(io.BytesIO(zlib.decompress(base64.b64decode(text))), allow_pickle=False)
