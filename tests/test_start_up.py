"""What a user waits for before anything happens, in processor time of a new process.

The limits are about three times what docs/performance.md reports: a slow or busy machine must pass, and a heavy import
that has crept in must not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import house


@pytest.mark.parametrize(("words", "limit"), [(("--help",), 1.0), (("list", "methods"), 1.5)])
def test_commands_that_need_no_model_start_at_once(words: tuple[str, ...], limit: float) -> None:
    assert house.processor_seconds(house.command(*words), repeats=1) < limit


def test_a_count_imports_no_more_than_it_needs_and_sets_it_aside_from_the_garbage_collector() -> None:
    """``genft params`` took 7 s; a quarter of it went to the collector and an eighth to bitsandbytes."""
    after = (
        "import gc\nassert gc.isenabled() and gc.get_freeze_count() > 10**5\nassert not sys.modules.get('bitsandbytes')"
    )
    assert house.processor_seconds(f"{house.command('params', 'glue')}\n{after}", repeats=1) < 12


def test_genft_adds_little_to_the_import_of_peft() -> None:
    assert house.processor_seconds("import genft", before="import peft", repeats=1) < 0.8
