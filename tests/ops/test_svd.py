"""Decompositions on disk: computed once per weight, for all processes, within a size limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from genft import ConfigError
from genft.ops import svd as svd_cache

WIDTH = svd_cache.SMALLEST_CACHED


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENFT_CACHE", str(tmp_path))
    return tmp_path / "svd"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the weights that are decomposed and not read."""
    names: list[str] = []
    compute = svd_cache.compute

    def counting(name: str, w0: Tensor) -> svd_cache.SVD:
        names.append(name)
        return compute(name, w0)

    monkeypatch.setattr(svd_cache, "compute", counting)
    return names


def weight(seed: int = 0, width: int = WIDTH, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(width + 8, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def decompose(*weights: Tensor) -> list[svd_cache.SVD]:
    found = svd_cache.decompose({n: (lambda w=w: w) for n, w in enumerate(weights)})
    return [found[n] for n in range(len(weights))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_decomposes(cache: Path, dtype: torch.dtype) -> None:
    w0 = weight(dtype=dtype)
    for _ in range(2):  # computed, then read
        (svd,) = decompose(w0)
        tolerance = 100 * torch.finfo(dtype).eps
        torch.testing.assert_close((svd.u.double() * svd.sigma) @ svd.v.double().T, w0.double(), rtol=0, atol=tolerance)
        assert svd.u.dtype == svd.v.dtype == dtype
        assert svd.sigma.dtype == torch.promote_types(dtype, torch.float32)
        assert all(a >= b for a, b in zip(svd.sigma, svd.sigma[1:], strict=False))


def test_equal_weights_are_decomposed_once(cache: Path, computed: list[str]) -> None:
    first = decompose(weight(0), weight(1))
    assert sorted(computed) == ["0", "1"]
    second = decompose(weight(0), weight(1))
    assert len(computed) == 2
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))
    # other values, another dtype, another shape: another file
    decompose(weight(2), weight(0).double(), weight(0).T)
    assert len(computed) == 5
    assert {f.suffix for f in cache.iterdir()} == {".safetensors"}
    assert len(list(cache.iterdir())) == 5


def test_small_weights_are_not_kept(cache: Path) -> None:
    decompose(weight(width=WIDTH - 1))
    assert not cache.exists()


@pytest.mark.parametrize("off", ["off", "OFF", "0"])
def test_can_be_switched_off(off: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, computed: list[str]) -> None:
    monkeypatch.setenv("GENFT_CACHE", off)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    decompose(weight())
    decompose(weight())
    assert len(computed) == 2
    assert list(tmp_path.iterdir()) == []


def test_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GENFT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert svd_cache.folder() == tmp_path / "genft" / "svd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert svd_cache.folder() == Path.home() / ".cache" / "genft" / "svd"


@pytest.mark.parametrize("damage", ["truncated", "another weight", "empty"])
def test_a_damaged_file_is_replaced(cache: Path, computed: list[str], damage: str) -> None:
    (wanted,) = decompose(weight(0))
    (file,) = cache.iterdir()
    good = file.read_bytes()
    if damage == "another weight":
        decompose(weight(1))
        (other,) = set(cache.iterdir()) - {file}
        file.write_bytes(other.read_bytes())
    else:
        file.write_bytes(good[: len(good) // 2] if damage == "truncated" else b"")
    (got,) = decompose(weight(0))
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))
    assert file.read_bytes() == good


def test_stays_within_its_limit_and_forgets_the_oldest(
    cache: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decompose(weight(0))
    (oldest,) = cache.iterdir()
    size = oldest.stat().st_size
    decompose(weight(1))
    (second,) = set(cache.iterdir()) - {oldest}
    long_ago = time.time() - 1000
    os.utime(oldest, (long_ago, long_ago))
    os.utime(second, (long_ago + 1, long_ago + 1))
    decompose(weight(0))  # used again, so the other is the oldest now
    monkeypatch.setenv("GENFT_CACHE_GB", str(2.5 * size / 1e9))
    decompose(weight(2))
    kept = set(cache.iterdir())
    assert oldest in kept
    assert second not in kept
    assert len(kept) == 2


def test_a_limit_that_is_no_number_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENFT_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="GENFT_CACHE_GB: received 'much'"):
        decompose(weight())


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENFT_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="GENFT_CACHE: decompositions cannot be cached"):
        (svd,) = decompose(weight())
    torch.testing.assert_close((svd.u * svd.sigma) @ svd.v.T, weight(), rtol=0, atol=1e-5)


def test_weights_that_are_not_finite_are_named(cache: Path) -> None:
    broken = weight()
    broken[3, 3] = torch.nan
    with pytest.raises(ConfigError, match="0: the pretrained weight holds NaN"):
        decompose(broken)


def test_the_number_of_threads_stays(cache: Path) -> None:
    before = torch.get_num_threads()
    decompose(weight(0), weight(1))
    assert torch.get_num_threads() == before


def test_threads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """MKL holds locks while a thread ends; a process forked then would inherit them."""
    monkeypatch.setenv("GENFT_CACHE", "off")
    compute, at_work = svd_cache.compute, set()
    monkeypatch.setattr(
        svd_cache, "compute", lambda name, w0: (at_work.add(threading.current_thread()), compute(name, w0))[1]
    )
    for _ in range(3):
        decompose(weight(0), weight(1))
    assert len(at_work) <= torch.get_num_threads()
    assert all(thread.is_alive() for thread in at_work)


def _decompose_many(rank: int, folder: str, out: str) -> None:
    os.environ["GENFT_CACHE"] = folder
    computed = []
    compute = svd_cache.compute
    svd_cache.compute = lambda name, w0: (computed.append(name), compute(name, w0))[1]
    found = decompose(*(weight(seed) for seed in range(6)))
    torch.save({"values": [tuple(svd) for svd in found], "computed": len(computed)}, Path(out) / f"{rank}.pt")


def test_two_processes_at_once(tmp_path: Path, cache: Path) -> None:
    mp.start_processes(_decompose_many, (str(tmp_path), str(tmp_path)), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for one, two in zip(first["values"], second["values"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert first["computed"] + second["computed"] >= 6
    assert len(list(cache.glob("*.safetensors"))) == 6
    assert not list(cache.glob("*.partial"))


_KILLED = """
import os, signal, sys
import torch
from genft.ops import svd as svd_cache
svd_cache.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # in the middle of writing
svd_cache.decompose({0: lambda: torch.eye(svd_cache.SMALLEST_CACHED)})
"""

_FORKED = """
import os, sys
import torch
from genft.ops import svd as svd_cache
torch.set_num_threads(2)
weights = {n: (lambda n=n: torch.randn(150, 140 + n)) for n in range(4)}
(torch.randn(900, 900) @ torch.randn(900, 900)).sum()  # OpenMP has threads, which a forked process does not
svd_cache.decompose(weights)
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert len(svd_cache.decompose(weights)) == 4
os._exit(0)
"""


def test_a_killed_process_leaves_nothing_that_others_wait_for(cache: Path, computed: list[str]) -> None:
    killed = subprocess.run([sys.executable, "-W", "ignore", "-c", _KILLED], timeout=240, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [file.suffix for file in cache.iterdir()] == [".partial"]
    decompose(torch.eye(WIDTH))
    assert computed == ["0"]
    assert len(list(cache.glob("*.safetensors"))) == 1


def test_works_in_a_forked_process(cache: Path) -> None:
    """The parent's threads are gone there; waiting for one of them, or for a lock of theirs, would last for ever."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", _FORKED], timeout=240, check=True)
