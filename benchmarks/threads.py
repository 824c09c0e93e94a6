"""Threads that share an adapted model in evaluation: how many of their outputs differ from those of one thread alone?

    python benchmarks/threads.py --passes 1000

Every registered method of genft, on the small models of the tests.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from test_conformance import MOVED, VARIANTS, adapted, output
from test_transforms import family_of, inputs


def wrong_passes(variant: str, threads: int, passes: int) -> int:
    """Outputs that are not bit for bit what one thread gets; every thread has inputs of its own."""
    family = family_of(variant)
    model, whole = adapted(variant, family, **MOVED), inputs(family)
    batches = [{key: torch.roll(value, n, 0)[: 1 + n % 2] for key, value in whole.items()} for n in range(threads)]
    wanted = [output(model, batch) for batch in batches]

    def wrong(number: int) -> int:
        torch.set_num_threads(1)
        return sum(not torch.equal(output(model, batches[number]), wanted[number]) for _ in range(passes))

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(wrong, range(threads)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--passes", type=int, default=1000, help="forward passes of each thread")
    parser.add_argument("--methods", default=",".join(VARIANTS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    total = 0
    for variant in given.methods.split(","):
        wrong = wrong_passes(variant, given.threads, given.passes)
        total += wrong
        print(f"{variant:18} {wrong} of {given.threads * given.passes} wrong", flush=True)
    sys.exit(total > 0)


if __name__ == "__main__":
    main()
