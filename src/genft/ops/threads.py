"""Threads that compute with torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch


def torch_threads(count: int | None = None, each: int | None = None) -> ThreadPoolExecutor:
    """A pool of ``count`` threads that may call torch, in a forked process as well.

    After a fork, whichever thread first asks torch for its own pool replaces the one that was lost with the parent's
    threads. Two threads that ask at once get "Invalid thread pool!" (torch 2.14), so the calling thread asks first.

    Args:
        count: None for as many as concurrent.futures starts by itself.
        each: on how many threads torch computes within each of them; None for torch's own number.
    """
    torch.set_num_threads(torch.get_num_threads())
    if each is None:
        return ThreadPoolExecutor(count)
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(each,))
