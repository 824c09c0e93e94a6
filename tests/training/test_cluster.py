"""Runs on a Ray cluster, which is this machine: streamed, stored once, and sent again when their worker is lost."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from genft import ConfigError, GenFTError
from genft.results.store import Result, Store
from genft.training import cluster
from genft.training.callbacks import Progress
from genft.training.cluster import ATTEMPTS, Cluster
from genft.training.matrix import parse_entries
from genft.training.run import prepare, run
from genft.training.spec import RunSpec
from training.test_matrix import schedule

real = pytest.mark.skipif(find_spec("ray") is None, reason="starts Ray: pip install 'genft[ray]'")
LONG = {"epochs": 10, "batch_size": 8}


def workers() -> list[int]:
    """The processes of this user that do a run for Ray."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::_messages" in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:  # it has ended
            continue
    return found


@real
@pytest.mark.slow
def test_runs_on_a_cluster(reviews: Path, bert: Path, tmp_path: Path) -> None:
    """The same results as here; a run whose worker dies goes on where it was; one that always dies is a failure."""
    entries = parse_entries("linear,bitfit")
    here = schedule(reviews, bert, tmp_path / "here", entries=entries[:1], seeds=(0,), training=LONG)
    there = schedule(reviews, bert, tmp_path / "there", entries=entries, seeds=(0,), training=LONG)
    list(here.run())
    kills, events = {"linear": 1, "bitfit": ATTEMPTS}, []
    for plan, event in there.run(cluster=Cluster(cpus=os.cpu_count() or 1)):  # one after the other
        events.append(event)
        if isinstance(event, Progress) and event.epoch is not None and kills[plan.spec.method]:
            kills[plan.spec.method] -= 1
            assert workers()
            for pid in workers():
                os.kill(pid, signal.SIGKILL)
    assert kills == {"linear": 0, "bitfit": 0}
    (linear,) = Store(tmp_path / "there")
    assert linear in events
    assert linear.resumed_at > 0
    (expected,) = Store(tmp_path / "here")
    assert (linear.key, linear.score) == (expected.key, expected.score)
    ((failed, error),) = there.failures
    assert failed.spec.method == "bitfit"
    assert f"was started {ATTEMPTS} times" in str(error)


@real
@pytest.mark.slow
def test_a_request_that_no_machine_grants_is_refused(reviews: Path, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"asks for 1 CPUs and 64 GPUs, and the whole cluster has .*--ray-gpus"):
        list(schedule(reviews, bert, tmp_path).run(cluster=Cluster(gpus=64)))


def test_without_ray_the_extra_is_named(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'genft\[ray\]'"):
        list(schedule(reviews, bert, tmp_path).run(cluster=Cluster()))


class OneAfterTheOther(ModuleType):
    """As much of Ray as we call, in this process: a task is done when its next message is asked for."""

    class exceptions:
        class RayError(Exception): ...

        class RayTaskError(RayError): ...

        class WorkerCrashedError(RayError): ...

    def __init__(self) -> None:
        super().__init__("ray")
        self.asked: dict[str, Any] = {}

    def init(self, **_: Any) -> None: ...

    def shutdown(self) -> None: ...

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0, "GPU": 1.0}

    def remote(self, function: Callable[..., Any]) -> "OneAfterTheOther":
        self.function = function
        return self

    def options(self, **asked: Any) -> Any:
        self.asked = asked
        return type("Task", (), {"remote": lambda _, *args: self._stream(*args)})()

    def _stream(self, *args: Any) -> Iterator[Any]:
        try:
            yield from self.function(*args)
        except self.exceptions.RayError as e:
            yield e

    def wait(self, streams: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return streams[:1], streams[1:]

    def get(self, message: Any) -> Any:
        if isinstance(message, Exception) and not isinstance(message, GenFTError):
            raise message
        return message


def test_what_is_lost_is_sent_again_and_what_fails_is_not(
    reviews: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray, starts = OneAfterTheOther(), dict.fromkeys(("linear", "bitfit", "lora"), 0)
    monkeypatch.setitem(sys.modules, "ray", ray)

    def messages(spec: RunSpec, out: Path, threads: int, report_to: tuple[str, ...]) -> Iterator[Any]:
        starts[spec.method] += 1
        yield Progress("load", 0, 1)
        if spec.method == "lora":
            raise ray.exceptions.RayTaskError("Traceback\n  ...\nModuleNotFoundError: No module named 'genft'")
        if spec.method == "bitfit" or starts["linear"] == 1:
            raise ray.exceptions.WorkerCrashedError
        yield run(prepare(spec), Store(out).open())

    monkeypatch.setattr(cluster, "_messages", messages)
    planned = schedule(reviews, bert, tmp_path, entries=parse_entries("linear,bitfit,lora"), seeds=(0,))
    events = [event for _, event in planned.run(cluster=Cluster(cpus=2, gpus=0.25))]
    assert ray.asked == {"num_returns": "streaming", "num_cpus": 2, "num_gpus": 0.25, "max_retries": 0}
    assert starts == {"linear": 2, "bitfit": ATTEMPTS, "lora": 1}
    (result,) = Store(tmp_path)
    assert [e for e in events if isinstance(e, Result)] == [result]
    assert {plan.spec.method: str(error) for plan, error in planned.failures} == {
        "bitfit": f"the run was started {ATTEMPTS} times, and its Ray worker lost each time",
        "lora": "Ray worker: ModuleNotFoundError: No module named 'genft'",
    }
