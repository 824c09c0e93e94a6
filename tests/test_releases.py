"""What a release promises about the versions that it works with."""

import re
import subprocess
import sys
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


IMPORT = """
import sys, time
import peft
before = set(sys.modules)
began = time.process_time()
import genft
print(time.process_time() - began)
assert not any(name.startswith(("genft.training", "genft.data", "genft.cli")) for name in sys.modules)
assert not {"datasets", "sklearn", "pandas", "timm", "matplotlib", "optuna"} & (sys.modules.keys() - before)
"""


def test_importing_genft_is_quick() -> None:
    """Less than 0.2 s beyond peft's own; the best of five, for other tests run beside this one."""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
        if (seconds := float(done.stdout)) < 0.2:
            return
    raise AssertionError(f"{seconds:.2f} s")
