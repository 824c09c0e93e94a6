"""Threads that compute with torch."""

import os
import re
import threading
from pathlib import Path

import torch

from genft.ops.threads import torch_threads

SOURCE = Path(torch_threads.__code__.co_filename).parents[1]


def test_threads_compute_in_a_forked_process() -> None:
    """Eight threads that first call torch at the same moment; without the precaution, nine of ten forks failed."""
    x = torch.randn(1 << 18)
    expected = x.to(torch.bfloat16)  # the parent's own pool, which a fork loses
    codes = []
    for _ in range(10):
        if not (child := os.fork()):
            os._exit(0 if _all_equal(x, expected) else 1)
        codes.append(os.waitpid(child, 0)[1])
    assert codes == [0] * 10


def _all_equal(x: torch.Tensor, expected: torch.Tensor) -> bool:
    together = threading.Barrier(8)

    def rounded(_: int) -> torch.Tensor:
        together.wait(30)
        return x.to(torch.bfloat16)

    try:
        with torch_threads(8) as pool:
            return all(torch.equal(y, expected) for y in pool.map(rounded, range(8)))
    except RuntimeError:
        return False


def test_the_number_of_threads_within_each() -> None:
    before = torch.get_num_threads()
    with torch_threads(2, each=1) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(2))) == [1, 1]
    assert torch.get_num_threads() == before


def test_every_module_that_uses_torch_starts_its_threads_here() -> None:
    others = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        if re.search(r"^(import|from) torch\b", text := file.read_text(encoding="utf-8"), re.M)
        and re.search(r"\bThreadPoolExecutor\(", text)
    }
    assert others == {"ops/threads.py"}
