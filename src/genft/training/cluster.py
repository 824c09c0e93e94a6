"""Runs sent to a Ray cluster: each is a task with a request of CPUs and GPUs, whose messages stream back.

On its machine a run is a process of its own, as it is without Ray. Model, data and output have to be found there under
the paths that they have here: a folder that all machines share. A run whose worker is lost is sent again; it goes on
from its last checkpoint, and the claim on its key in the store keeps two workers from doing it at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genft.errors import ConfigError, GenFTError, TrainingError
from genft.results.store import Result
from genft.training.processes import Message, RunProcess, be_quiet
from genft.training.run import Plan
from genft.training.spec import RunSpec

#: Times a run is started before it counts as failed because its workers were lost.
ATTEMPTS = 3


@dataclass(frozen=True)
class Cluster:
    """Where runs go, and what each asks for.

    Attributes:
        address: "local" for a cluster on this machine alone, "auto" for the one that it belongs to, or HOST:PORT.
        cpus: CPUs of a run, and the threads that it computes with.
        gpus: GPUs of a run; a fraction shares one.
    """

    address: str = "local"
    cpus: int = 1
    gpus: float = 0

    def run(
        self, next_plan: Callable[[], Plan | None], out: Path, report_to: Sequence[str] = ()
    ) -> Iterator[tuple[Plan, Message]]:
        """As :func:`genft.training.processes.run_side_by_side`, on the cluster; it is left when this ends.

        Raises:
            ConfigError: no Ray, no cluster at the address, or a request that it can never grant.
        """
        ray = self._join()
        try:
            yield from self._stream(ray, next_plan, out.resolve(), report_to)
        finally:
            ray.shutdown()  # which ends the runs that are left

    def _join(self) -> Any:
        try:
            import ray
        except ImportError:
            raise ConfigError("--ray: needs Ray: pip install 'genft[ray]'") from None
        # Ray would replace the interpreter of its workers by what `uv run` says, and talk about it
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        where: dict[str, Any] = {"address": self.address}
        if self.address == "local":
            where |= {"include_dashboard": False}
        try:
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise ConfigError(f"--ray: no cluster at {self.address!r} (local, auto, or HOST:PORT): {reason}") from None
        return ray

    def _places(self, ray: Any) -> int:
        """How many runs the cluster can do at once as it is now."""
        has = ray.cluster_resources()
        cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
        places = int(cpus // self.cpus)
        if self.gpus:
            places = min(places, int(gpus / self.gpus))
        if not places:
            raise ConfigError(
                f"--ray: a run asks for {self.cpus} CPUs and {self.gpus:g} GPUs, and the whole cluster has "
                f"{cpus:g} and {gpus:g}; lower --ray-cpus or --ray-gpus"
            )
        return places

    def _stream(
        self, ray: Any, next_plan: Callable[[], Plan | None], out: Path, report_to: Sequence[str]
    ) -> Iterator[tuple[Plan, Message]]:
        # Ray's own retry would repeat the stream from its beginning, so a lost run is sent again below
        task = ray.remote(_messages).options(
            num_returns="streaming", num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0
        )
        running: dict[Any, tuple[Plan, int]] = {}
        lost: list[tuple[Plan, int]] = []
        while True:
            for _ in range(len(running), self._places(ray)):
                plan, attempt = lost.pop() if lost else (next_plan(), 1)
                if plan is None:
                    break
                running[task.remote(plan.spec, out, self.cpus, tuple(report_to))] = plan, attempt
            if not running:
                return
            for stream in ray.wait(list(running), timeout=10)[0]:  # a while, for the cluster may have grown
                plan, attempt = running[stream]
                message = _next(ray, stream)
                if message is None:
                    del running[stream]
                    if attempt < ATTEMPTS:
                        lost.append((plan, attempt + 1))
                        continue
                    message = TrainingError(f"the run was started {ATTEMPTS} times, and its Ray worker lost each time")
                elif isinstance(message, (Result, GenFTError)):
                    del running[stream]
                yield plan, message


def _next(ray: Any, stream: Any) -> Message | None:
    """The next message of a run; None where its worker is lost."""
    try:
        return ray.get(next(stream))
    except ray.exceptions.RayTaskError as e:  # of Python, on a worker without genft for example
        return TrainingError(f"Ray worker: {str(e).splitlines()[-1].strip()}")
    except (ray.exceptions.RayError, StopIteration):
        return None


def _messages(spec: RunSpec, out: Path, threads: int, report_to: Sequence[str]) -> Iterator[Message]:
    """What a run says, on the machine that does it."""
    be_quiet()
    run = RunProcess(spec, out, threads=threads, report_to=report_to, gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))
    try:
        while True:
            message = run.receive()
            yield message
            if isinstance(message, (Result, GenFTError)):
                return
    finally:
        run.end()
