"""What the registry says of every method."""

from __future__ import annotations

from genft import METHODS, published


def test_groups_follow_the_published_tables() -> None:
    """The rows of the paper's Tables 1, 2, 3 and 11 that genft has, and the adapter that its GLUE table means."""
    printed = {row["method"] for benchmark in ("glue", "vtab1k", "fgvc") for row in published.read(benchmark)}
    of_paper = {name for name, info in METHODS.items() if info.group == "paper"}
    assert of_paper == printed & METHODS.keys() | {"houlsby"}
    assert {name for name, info in METHODS.items() if info.group == "relative"} == {
        "vectorfit",
        "svft",
        "lora_xs",
        "wegeft",
        "ssf",
        "peanut",
    }
