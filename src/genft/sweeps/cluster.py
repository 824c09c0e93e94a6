"""Runs on a Ray cluster: each is a Ray task that requests CPUs and GPUs and streams its messages back.

On its machine a run has its own process, as without Ray. Model, data and output must have the same paths on every
machine, so they must be in a folder that all machines share. A run whose worker is lost is submitted again; it resumes
from its last checkpoint, and the claim on its key in the store keeps two workers from executing it at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genft.errors import ConfigError, GenFTError, TrainingError, first_line
from genft.runs.measured import Result
from genft.runs.quiet import be_quiet
from genft.runs.spec import RunSpec
from genft.sweeps.processes import Message, RunProcess
from genft.training.prepared import PreparedRun

#: How often a run is started before lost workers count as a failure.
ATTEMPTS = 3


@dataclass(frozen=True)
class Cluster:
    """Where runs go, and what each requests.

    Attributes:
        address: "local" for a cluster on this machine alone, "auto" for the cluster that this machine belongs to, or
            HOST:PORT if it belongs to several.
        cpus: CPUs per run, which is also the number of its threads.
        gpus: GPUs per run; below 1, several runs share one; with 0, the run sees none.
    """

    address: str = "local"
    cpus: int = 1
    gpus: float = 0

    def run(
        self, next_run: Callable[[], PreparedRun | None], out: Path, report_to: Sequence[str] = ()
    ) -> Iterator[tuple[PreparedRun, Message]]:
        """Like :func:`genft.sweeps.processes.run_side_by_side`, but on the cluster; disconnects from it at the end.

        Raises:
            ConfigError: Ray is not installed, there is no cluster at the address, or no machine can grant the request.
        """
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ConfigError(f"--ray-gpus: {self.gpus:g} is neither a whole number nor a fraction of one GPU")
        ray = self._join()
        try:
            self._check_room(ray)
            yield from self._stream(ray, next_run, out.resolve(), report_to)
        finally:
            ray.shutdown()  # also ends the remaining runs

    def _join(self) -> Any:
        try:
            import ray
        except ImportError:
            raise ConfigError("--ray: needs Ray: pip install 'genft[ray]'") from None
        address: dict[str, Any] = {"address": self.address}
        if self.address == "local":
            address |= {"include_dashboard": False}
        try:
            ray.init(**address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as e:
            raise ConfigError(
                f"--ray: no cluster at {self.address!r} that this machine belongs to (local, auto, or HOST:PORT): "
                f"{first_line(e)}"
            ) from None
        return ray

    def _check_room(self, ray: Any) -> None:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(has.get("CPU", 0) >= self.cpus and has.get("GPU", 0) >= self.gpus for has in machines):
            return
        sizes = ", ".join(f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g}" for has in machines)
        raise ConfigError(
            f"--ray: a run requests {self.cpus} CPUs and {self.gpus:g} GPUs, and no machine of the cluster has them "
            f"({sizes or 'there is none'}); lower --ray-cpus or --ray-gpus"
        )

    def _capacity(self, ray: Any) -> int:
        """The number of runs that the cluster can execute at once at its present size, at least one."""
        resources = ray.cluster_resources()
        runs = resources.get("CPU", 0) / self.cpus
        if self.gpus:
            runs = min(runs, resources.get("GPU", 0) / self.gpus)
        return max(1, int(runs))

    def _stream(
        self, ray: Any, next_run: Callable[[], PreparedRun | None], out: Path, report_to: Sequence[str]
    ) -> Iterator[tuple[PreparedRun, Message]]:
        # Ray's own retry would repeat the stream from its beginning, so a lost run is submitted again below
        task = ray.remote(_messages).options(
            num_returns="streaming", num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0
        )
        running: dict[Any, tuple[PreparedRun, int]] = {}
        lost: list[tuple[PreparedRun, int]] = []
        changed = True
        while True:
            for _ in range(len(running), self._capacity(ray) if changed else 0):
                prepared, attempt = lost.pop() if lost else (next_run(), 1)
                if prepared is None:
                    break
                stream = task.remote(prepared.spec, Path.cwd(), out, self.cpus, self.gpus > 0, tuple(report_to))
                running[stream] = prepared, attempt
            if not running:
                return
            ready = ray.wait(list(running), timeout=10)[0]
            changed = not ready  # while nothing was ready, the cluster may have grown
            for stream in ready:
                prepared, attempt = running[stream]
                message = _next(ray, stream)
                if isinstance(message, _Lost) and attempt < ATTEMPTS:
                    lost.append((prepared, attempt + 1))
                elif isinstance(message, _Lost):
                    message = TrainingError(
                        f"its Ray worker was lost {ATTEMPTS} times, the last time with {message.why}"
                    )
                elif isinstance(message, Result) and message.key != prepared.key:
                    message = TrainingError("its Ray worker found another model or other data under the same path")
                if isinstance(message, (Result, GenFTError, _Lost)):
                    del running[stream]
                    changed = True
                if not isinstance(message, _Lost):
                    yield prepared, message


@dataclass
class _Lost:
    """The end of a run whose worker is gone."""

    why: str


def _next(ray: Any, stream: Any) -> Message | _Lost:
    """The next message of a run."""
    try:
        message: Message = ray.get(next(stream))
        return message
    except StopIteration:
        return _Lost("an end without a result")
    except ray.exceptions.RayTaskError as e:  # a Python error, for example on a worker without genft
        return TrainingError(f"Ray worker: {str(e).splitlines()[-1].strip()}")
    except ray.exceptions.RayError as e:
        return _Lost(f"{type(e).__name__}: {first_line(e)}")


def _messages(
    spec: RunSpec, folder: Path, out: Path, threads: int, gpus: bool, report_to: Sequence[str]
) -> Iterator[Message]:
    """Yield the messages of a run on the machine that executes it; paths are relative to ``folder``."""
    os.chdir(folder)
    be_quiet()
    # Ray sets the visible GPUs of a task that requests some, and leaves all visible to one that does not
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if gpus else ""
    run = RunProcess(spec, out, threads=threads, report_to=report_to, gpus=visible)
    try:
        while True:
            message = run.receive()
            yield message
            if isinstance(message, (Result, GenFTError)):
                return
    finally:
        run.end()
