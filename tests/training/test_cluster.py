"""Runs on a Ray cluster, which is this machine: streamed, stored once, and sent again when their worker is lost."""

import os
import signal
import sys
from pathlib import Path

import pytest

from genft import ConfigError
from genft.results.store import Store
from genft.training.callbacks import Progress
from genft.training.cluster import ATTEMPTS, Cluster
from genft.training.matrix import parse_entries
from training.test_matrix import schedule

pytest.importorskip("ray", reason="pip install 'genft[ray]'")
LONG = {"epochs": 40, "batch_size": 8}


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
