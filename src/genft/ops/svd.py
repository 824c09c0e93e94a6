"""Singular value decompositions of frozen weights: each is computed once, several in parallel, and cached on disk.

A decomposition is computed by LAPACK's gesdd in float64, always on the CPU, with one thread each: the same weight gives
the same numbers whatever the number of weights, threads or devices, and in float64 vectors are undetermined only if
singular values agree to about 1e-13 (in float32 to 1e-5, which does occur in pretrained weights).

Files are named by the hash of the weight and written atomically, so that any number of processes can share a folder.
Environment variables:

    GENFT_CACHE      the folder, by default ~/.cache/genft (or under XDG_CACHE_HOME); "off" disables the cache
    GENFT_CACHE_GB   its maximum size, 10 by default; the least recently used files are deleted first
"""

from __future__ import annotations

import hashlib
import os
import random
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from genft.errors import ConfigError
from genft.files import write_atomically
from genft.ops.sketch import distance, signs
from genft.ops.threads import torch_threads

#: Smaller decompositions take less time to compute than to read.
SMALLEST_CACHED = 128
PROGRESS_AFTER_SECONDS = 2.0
VERSION = 1

K = TypeVar("K", bound=Hashable)


class SVD(NamedTuple):
    """W0 = U diag(σ) Vᵀ.

    Attributes:
        u: (o, k), in the dtype of W0.
        sigma: (k,), descending, in float32 or better.
        v: (i, k), in the dtype of W0.
    """

    u: Tensor
    sigma: Tensor
    v: Tensor


def decompose(weights: Mapping[K, Callable[[], Tensor]]) -> dict[K, SVD]:
    """Decompose every weight (o, i) on the CPU; a progress bar appears if it takes long.

    Raises:
        ConfigError: a weight is not finite.
    """
    keys, threads = list(weights), torch.get_num_threads()
    # processes that start together (one per GPU) take the weights in different orders and share the work on disk
    random.Random(os.getpid()).shuffle(keys)
    decompositions: dict[K, SVD] = {}
    pool = _workers(os.getpid(), threads)
    jobs = {pool.submit(_one, str(key), weights[key]): key for key in keys}
    try:
        with _progress(len(jobs)) as advance:
            for job in as_completed(jobs):
                decompositions[jobs[job]] = job.result()
                advance()
    finally:
        for job in jobs:
            job.cancel()
        wait(jobs)
        torch.set_num_threads(threads)  # otherwise, threads started later would also be limited to one
    return decompositions


@cache
def _workers(process: int, threads: int) -> ThreadPoolExecutor:
    """A pool of threads that live as long as this process.

    MKL frees the memory of a finished thread under locks, after Python has joined the thread. A process forked at that
    moment inherits a lock that will never be released, and its first decomposition spins forever.
    """
    return torch_threads(threads, each=1)


def compute(name: str, w0: Tensor) -> SVD:
    """The decomposition itself, without the cache; ``name`` is for the error message."""
    w = w0.detach().cpu().to(torch.float64)
    if not w.isfinite().all():
        raise ConfigError(f"{name}: the pretrained weight holds NaN or infinite values and has no decomposition")
    u, sigma, vh = torch.linalg.svd(w, full_matrices=False)
    dtype = w0.dtype if w0.is_floating_point() and w0.itemsize > 1 else torch.float32
    return SVD(
        u.to(dtype).contiguous(), sigma.to(torch.promote_types(dtype, torch.float32)), vh.T.to(dtype).contiguous()
    )


def folder() -> Path | None:
    """The cache folder, or None if the user has disabled the cache."""
    cache_folder = os.environ.get("GENFT_CACHE", "")
    if cache_folder.lower() in ("off", "0", "none", "false"):
        return None
    if cache_folder:
        return Path(cache_folder).expanduser() / "svd"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genft" / "svd"


def _one(name: str, read: Callable[[], Tensor]) -> SVD:
    w0 = read().detach()
    cache_folder = folder()
    if cache_folder is None or min(w0.shape) < SMALLEST_CACHED:
        return compute(name, w0)
    file = cache_folder / f"{_key(w0)}.safetensors"
    if (cached := _load(file, w0)) is not None:
        return cached
    svd = compute(name, w0)
    _store(file, svd)
    return svd


def _key(w0: Tensor) -> str:
    content = hashlib.blake2b(f"{VERSION} {w0.dtype} {tuple(w0.shape)}".encode(), digest_size=20)
    content.update(w0.contiguous().cpu().view(torch.uint8).numpy().data)
    return content.hexdigest()


def _load(file: Path, w0: Tensor) -> SVD | None:
    """The decomposition in ``file``, or None if there is none or it is damaged."""
    try:
        svd = SVD(**load_file(file))
        os.utime(file)
    except (OSError, SafetensorError, TypeError):
        return None
    left, right = (signs(n, side).to(torch.float64) for side, n in enumerate(w0.shape))
    expected = left.T @ w0.cpu().to(torch.float64) @ right
    restored = (left.T @ svd.u.to(torch.float64) * svd.sigma) @ (svd.v.to(torch.float64).T @ right)
    return svd if distance(expected, restored) <= 1e-2 else None


def _store(file: Path, svd: SVD) -> None:
    limit = _limit()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, save(svd._asdict()))
        _shrink(file.parent, limit)
    except (OSError, ConfigError) as e:
        warnings.warn(
            f"GENFT_CACHE: decompositions cannot be cached ({e}); they are computed again in every run", stacklevel=2
        )


def _limit() -> float:
    gigabytes = os.environ.get("GENFT_CACHE_GB", "10")
    try:
        return float(gigabytes) * 1e9
    except ValueError:
        raise ConfigError(f"GENFT_CACHE_GB: received {gigabytes!r}; allowed: a number of gigabytes") from None


def _shrink(place: Path, limit: float) -> None:
    """Delete the least recently used files until the rest fits; other processes may be doing the same."""
    entries = []
    for path in place.iterdir():
        with suppress(FileNotFoundError):
            status = path.stat()
            entries.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        with suppress(OSError):
            path.unlink()
        total -= size


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each weight; after a while, a bar appears on a terminal, in one process only."""
    if find_spec("rich") is None:  # part of genft[cli]
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    began, done = time.monotonic(), 0
    bar = Progress(console=console, transient=True)
    visible = console.is_terminal and os.environ.get("RANK", "0") == "0"

    def advance() -> None:
        nonlocal done
        done += 1
        if not bar.tasks:
            if not visible or time.monotonic() - began < PROGRESS_AFTER_SECONDS:
                return
            cache_folder = folder()
            note = f", cached in {cache_folder}" if cache_folder else ""
            bar.add_task(f"Singular value decompositions (once{note})", total=total)
            bar.start()
        bar.update(bar.tasks[0].id, completed=done)

    try:
        yield advance
    finally:
        if bar.tasks:
            bar.stop()
