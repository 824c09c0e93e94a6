"""What a release promises about the versions that it works with."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(file: str) -> list[Requirement]:
    """The lines of a constraints file that hold for this Python and system."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
    return [r for r in map(Requirement, filter(None, lines)) if r.marker is None or r.marker.evaluate()]


def pins(file: str) -> dict[str, str]:
    return {
        canonicalize_name(r.name): spec.version
        for r in requirements(file)
        for spec in r.specifier
        if spec.operator == "=="
    }


def needed(requirement: Requirement, seen: set[tuple[str, str]]) -> None:
    """Add what the requirement brings along, directly and indirectly, as far as it is installed here."""
    try:
        declared = importlib.metadata.requires(requirement.name) or []
    except importlib.metadata.PackageNotFoundError:
        declared = []
    for extra in ("", *requirement.extras):
        if (key := (canonicalize_name(requirement.name), extra)) in seen:
            continue
        seen.add(key)
        for r in map(Requirement, declared):
            if r.marker is None or r.marker.evaluate({"extra": extra}):
                needed(r, seen)


def test_every_dependency_is_pinned() -> None:
    """Direct and indirect, for all extras and for building the package. After a change: ``make lock``."""
    extras = [r for extra in PROJECT["project"]["optional-dependencies"].values() for r in extra]
    direct = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], *extras]
    seen: set[tuple[str, str]] = set()
    for r in map(Requirement, direct):
        if r.marker is None or r.marker.evaluate():
            needed(r, seen)
    assert {name for name, _ in seen} - {"genft"} - pins("constraints.txt").keys() == set()


def test_pins_agree_with_what_is_allowed() -> None:
    exact = pins("constraints.txt")
    assert len(exact) == len(requirements("constraints.txt"))
    for r in map(Requirement, PROJECT["project"]["dependencies"]):
        assert canonicalize_name(r.name) not in exact or exact[canonicalize_name(r.name)] in r.specifier, r
    assert pins("constraints.in").items() <= exact.items()


def test_the_lowest_versions_that_are_tested_are_those_that_are_allowed() -> None:
    allowed = dict(re.findall(r'"([\w-]+)>=([\d.]+)', (ROOT / "pyproject.toml").read_text()))
    lowest = pins("tests/lowest.txt")
    assert lowest.keys() == {"torch", "torchvision", "transformers", "peft", "accelerate", "timm"}

    def numbers(version: str) -> list[int]:
        parts = [int(n) for n in version.split(".")]
        return parts + [0] * (3 - len(parts))

    assert {name: numbers(v) for name, v in lowest.items()} == {name: numbers(allowed[name]) for name in lowest}


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


HELP = """
import contextlib, io, runpy, sys, time
sys.argv = ["genft", "--help"]
shown = io.StringIO()
try:
    with contextlib.redirect_stdout(shown):
        runpy.run_module("genft_cli", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
assert "train" in shown.getvalue()
print(time.process_time())
"""


def test_help_answers_at_once() -> None:
    """Within 0.5 s of processor time on a usual machine, where importing peft alone takes 4 s; best of three."""
    taken = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        taken.append(float(done.stdout))
        if taken[-1] < 1.5:
            return
    raise AssertionError(f"genft --help took {min(taken):.2f} s: it must not import torch, peft or transformers")
