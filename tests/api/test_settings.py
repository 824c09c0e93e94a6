"""What settings allow, and what of them names a result."""

from __future__ import annotations

from typing import Any

import pytest

from genft import ConfigError, GenFTConfig
from genft.api.config import Bounds
from genft.api.settings import describe_settings, key_settings
from genft.data import Task
from genft.methods import get_method
from genft.runs.spec import RunSpec

#: GenFT's default before its form was a setting.
PAPER = {"form": "paper", "scope": "attention", "shared_dim": 24, "specific_dim": 2}


@pytest.mark.parametrize(
    ("method", "settings", "key"),
    [
        ("genft", PAPER, "65da0c3e84acdaf4"),
        ("genft", {**PAPER, "scaling": 0.1, "plan": "beside"}, "170c1aea2b0cadeb"),
        ("vectorfit", {}, "5113cd4f08de14dc"),
        ("lora", {"r": 4}, "e080fd94591dd578"),
        ("propetl_lora", {}, "77a6ac06aeae4191"),
        ("vpt_deep", {}, "170582168357691c"),
    ],
)
def test_results_of_genft_0_1_keep_their_keys(method: str, settings: dict[str, Any], key: str) -> None:
    """Computed with the code before settings were added: those added later do not change a key at their defaults."""
    spec = RunSpec(task=Task(name="t", kind="text", reader=""), model="m", method=method, settings=settings)
    assert spec.key(get_method(method), "a", "b") == key


def test_a_setting_added_later_names_a_result_once_it_is_used() -> None:
    info = get_method("genft")
    assert "form" not in key_settings(info, {"form": "paper"})
    assert key_settings(info, {"form": "bounded"})["form"] == "bounded"
    assert "plan" not in key_settings(info, {"plan": "beside"})


@pytest.mark.parametrize(
    ("bounds", "whole", "words", "good", "bad"),
    [
        (Bounds(ge=0, lt=1), False, "0 <= p < 1", (0, 0.5), (1, -0.1, float("nan"), True, "0")),
        (Bounds(gt=0, le=1), False, "0 < p <= 1", (1, 0.1), (0, 1.1)),
        (Bounds(gt=0), True, "a whole number above 0", (1, 9), (0, 1.5, True)),
        (Bounds(ge=1), True, "a whole number, 1 or more", (1,), (0,)),
        (Bounds(ne=0), False, "any number but 0", (-1, 0.1), (0, float("inf"))),
        (Bounds(lt=2), False, "a number < 2", (1,), (2,)),
    ],
)
def test_bounds(bounds: Bounds, whole: bool, words: str, good: tuple[Any, ...], bad: tuple[Any, ...]) -> None:
    assert bounds.in_words("p", whole=whole) == words
    assert all(bounds.allow(value, whole=whole) for value in good)
    assert not any(bounds.allow(value, whole=whole) for value in bad)


def test_help_says_what_a_setting_allows() -> None:
    rows = describe_settings(get_method("genft"))
    assert rows["dropout"].allowed == "0 <= dropout < 1"
    assert rows["form"].allowed == "paper, official, bounded"
    assert rows["shared_dim"] == ("a whole number", 9, rows["shared_dim"].help, "a whole number, 0 or more")
    assert rows["w0_ratio"].allowed == "any number but 0"


def test_a_bound_is_checked_where_it_is_declared() -> None:
    assert GenFTConfig(w0_ratio=None).w0_ratio is None
    with pytest.raises(ConfigError, match="w0_ratio: received 0; allowed: any number but 0"):
        GenFTConfig(w0_ratio=0)
