"""Runs on a Ray cluster: streamed, stored once, and sent again when their worker is lost."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from genft import ConfigError, GenFTError
from genft.cli import app, bench
from genft.runs.measured import Result
from genft.runs.spec import RunSpec
from genft.runs.store import Store
from genft.sweeps import cluster
from genft.sweeps.cluster import ATTEMPTS, Cluster
from genft.sweeps.matrix import parse_entries
from genft.training.callbacks import Progress
from genft.training.prepared import prepare
from genft.training.run import run
from sweeps.test_matrix import schedule

real = pytest.mark.skipif(find_spec("ray") is None, reason="starts Ray: pip install 'genft[ray]'")
LONG = {"epochs": 10, "batch_size": 8}


def workers(of: int) -> list[int]:
    """The processes that do a run for the Ray that process ``of`` has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            raylet = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            starter = int((Path("/proc") / str(raylet) / "stat").read_text().rpartition(")")[2].split()[1])
            if b"ray::_messages" in (folder / "cmdline").read_bytes() and starter == of:
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


@real
def test_runs_on_a_cluster(reviews: Path, bert: Path, tmp_path: Path) -> None:
    """The same result as here, though its worker is killed in the middle."""
    only = {"entries": parse_entries("linear"), "seeds": (0,), "training": LONG}
    here, there = (schedule(reviews, bert, tmp_path / name, **only) for name in ("here", "there"))
    list(here.run())
    killed, events = [], []
    for _, event in there.run(cluster=Cluster(cpus=os.cpu_count() or 1)):
        events.append(event)
        if not killed and isinstance(event, Progress) and event.epoch is not None:
            for pid in (killed := workers(os.getpid())):
                os.kill(pid, signal.SIGKILL)
    assert len(killed) == 1
    (expected,), (result,) = Store(tmp_path / "here"), Store(tmp_path / "there")
    assert result in events
    assert 0 < result.history.resumed_at < result.history.steps
    assert (result.key, result.scores.value) == (expected.key, expected.scores.value)


@real
def test_a_request_that_no_machine_grants_is_refused(reviews: Path, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 CPUs and 64 GPUs, and no machine of the cluster has them \(.*--ray-gpus"):
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

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}]

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

    def messages(spec: RunSpec, folder: Path, out: Path, *_: Any) -> Iterator[Any]:
        starts[spec.method] += 1
        yield Progress("load", 0, 1)
        if spec.method == "lora":
            raise ray.exceptions.RayTaskError("Traceback\n  ...\nModuleNotFoundError: No module named 'genft'")
        if spec.method == "bitfit" or starts["linear"] == 1:
            raise ray.exceptions.WorkerCrashedError("it crashed\nand more")
        yield run(prepare(spec), Store(out).open())

    monkeypatch.setattr(cluster, "_messages", messages)
    planned = schedule(reviews, bert, tmp_path, entries=parse_entries("linear,bitfit,lora"), seeds=(0,))
    events = [event for _, event in planned.run(cluster=Cluster(cpus=2, gpus=0.25))]
    assert ray.asked == {"num_returns": "streaming", "num_cpus": 2, "num_gpus": 0.25, "max_retries": 0}
    assert starts == {"linear": 2, "bitfit": ATTEMPTS, "lora": 1}
    (result,) = Store(tmp_path)
    assert [e for e in events if isinstance(e, Result)] == [result]
    assert {plan.spec.method: str(error) for plan, error in planned.failures} == {
        "bitfit": f"its Ray worker was lost {ATTEMPTS} times, the last time with WorkerCrashedError: it crashed",
        "lora": "Ray worker: ModuleNotFoundError: No module named 'genft'",
    }


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"cpus": 8}, r"8 CPUs and 0 GPUs, and no machine of the cluster has them \(4 and 0, 4 and 1\)"),
        ({"gpus": 2}, r"1 CPUs and 2 GPUs, and no machine"),
        ({"gpus": 1.5}, r"--ray-gpus: 1\.5 is neither a whole number nor a fraction of one GPU"),
    ],
)
def test_a_request_that_cannot_be_granted(
    asked: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", OneAfterTheOther())
    with pytest.raises(ConfigError, match=said):
        list(Cluster(**asked).run(lambda: None, tmp_path))


def test_the_option_and_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--ray`` alone is this machine; a task after it is a task."""
    words = ("bench", "-m", "nothing", "--out", "/nowhere", "--dry-run")
    made: list[Cluster] = []
    monkeypatch.setattr(bench, "Cluster", lambda *given: made.append(Cluster(*given)))
    for more in (["sst2", "--ray"], ["--ray", "sst2"], ["sst2", "--ray", "auto", "--ray-cpus", "2"], ["sst2"]):
        CliRunner().invoke(app, [*words, *more])
    assert made == [Cluster("local", 1, 0), Cluster("local", 1, 0), Cluster("auto", 2, 0)]
    for wrong in (["--ray", "--jobs", "2"], ["--ray-gpus", "1"]):
        assert CliRunner().invoke(app, [*words, "sst2", *wrong]).exit_code == 2
