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
began = time.process_time()
import peft
before, of_peft = set(sys.modules), time.process_time()
import genft
print(of_peft - began, time.process_time() - of_peft)
assert not any(name.startswith(("genft.training", "genft.data", "genft.cli")) for name in sys.modules)
assert not {"datasets", "sklearn", "pandas", "timm", "matplotlib", "optuna"} & (sys.modules.keys() - before)
"""


def test_importing_genft_is_quick() -> None:
    """Less than 0.2 s beyond peft's own, or a twentieth of it on a slow machine; best of five."""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        of_peft, of_genft = map(float, done.stdout.split())
        if of_genft < max(0.2, 0.05 * of_peft):
            return
    raise AssertionError(f"{of_genft:.2f} s, and {of_peft:.2f} s for peft")
