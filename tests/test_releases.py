"""What a release promises about the versions that it works with."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_lowest_versions_that_are_tested_are_those_that_are_allowed() -> None:
    allowed = dict(re.findall(r'"([\w-]+)>=([\d.]+)', (ROOT / "pyproject.toml").read_text()))
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "tests" / "lowest.txt").read_text(), re.MULTILINE))
    assert pins.keys() == {"torch", "torchvision", "transformers", "peft", "accelerate", "timm"}

    def numbers(version: str) -> list[int]:
        parts = [int(n) for n in version.split(".")]
        return parts + [0] * (3 - len(parts))

    assert {name: numbers(v) for name, v in pins.items()} == {name: numbers(allowed[name]) for name in pins}
