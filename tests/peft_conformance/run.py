"""Run peft's own ``tests/test_custom_models.py`` with our case lists in place of peft's.

    python tests/peft_conformance/run.py [--sdist DIR] [pytest arguments]

peft's source distribution is fetched with pip (nothing of it is kept in this repository); the two assignments of the
case lists are replaced in its syntax tree; everything else of the file runs as peft wrote it.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPLACED = ("TEST_CASES", "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES")


def fetch_sdist(folder: Path) -> Path:
    """Download and unpack the source distribution of the installed peft; return its folder."""
    pin = f"peft=={version('peft')}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "peft"]
    subprocess.run([*command, "-d", str(folder), pin], check=True)
    with tarfile.open(next(folder.glob("peft-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(p for p in folder.glob("peft-*") if p.is_dir())


def replace_case_lists(source: str) -> str:
    """The test file with the lists of ``cases.py`` assigned where peft assigns its own."""
    tree = ast.parse(source)
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name) and target.id in REPLACED:
            node.value = ast.parse(f"genft_cases.{target.id}", mode="eval").body
            found.add(target.id)
    if missing := set(REPLACED) - found:
        raise SystemExit(f"peft's test file has no assignment of {', '.join(sorted(missing))}; is this peft 0.21?")
    position = next(n for n, node in enumerate(tree.body) if isinstance(node, ast.Import))
    tree.body.insert(position, ast.parse("import genft_cases").body[0])
    return ast.unparse(ast.fix_missing_locations(tree))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdist", type=Path, help="an unpacked source distribution of peft; by default fetched")
    options, pytest_arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sdist = options.sdist or fetch_sdist(folder)
        tests = folder / "tests"
        tests.mkdir()
        for name in ("testing_common.py", "testing_utils.py"):
            (tests / name).write_text((sdist / "tests" / name).read_text())
        source = (sdist / "tests" / "test_custom_models.py").read_text()
        (tests / "test_custom_models.py").write_text(replace_case_lists(source))
        (tests / "genft_cases.py").write_text((HERE / "cases.py").read_text())
        (tests / "conftest.py").write_text((HERE / "selection.py").read_text())
        (tests / "__init__.py").write_text("")
        paths = [str(tests), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
        return subprocess.run(
            [*command, str(tests / "test_custom_models.py"), *pytest_arguments], cwd=folder, env=environment
        ).returncode


if __name__ == "__main__":
    raise SystemExit(main())
