"""The rules of the house that ruff and mypy do not know: sizes, the direction of imports, where tests live.

The measuring is in benchmarks/house.py, which also prints it for any tree.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"


def load_house() -> Any:
    spec = importlib.util.spec_from_file_location("house", ROOT / "benchmarks" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


house = load_house()


@pytest.fixture(scope="module")
def graph() -> Any:
    return house.import_graph(SRC)


def none_of(entries: Sequence[object], advice: str) -> None:
    if entries:
        pytest.fail("\n".join([advice, *(f"  {entry}" for entry in entries)]), pytrace=False)


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("file", "These files hold more than one idea: move one of the ideas into a file of its own."),
        ("class", "These classes do more than one thing: give the state of one of them a class of its own."),
        ("function", "These functions have several steps: name the steps, each a function of its own."),
    ],
    ids=["file", "class", "function"],
)
def test_sizes(kind: str, advice: str) -> None:
    limit = house.LIMITS[kind]
    too_long = [entry for entry in house.sizes(SRC)[kind] if entry.size > limit]
    none_of(too_long, f"At most {limit} lines a {kind}. {advice}")


def test_imports_inside_functions_are_of_heavy_libraries() -> None:
    none_of(
        house.inner_imports(SRC),
        "Import at the top of the file. If that makes a circle, the code is in the wrong room: move it. Only heavy "
        "optional libraries (HEAVY in benchmarks/house.py) are imported where they are used.",
    )


def test_no_assert_only_narrows_a_type() -> None:
    none_of(
        house.narrowing_asserts(SRC),
        "Make the type known instead: a generic class, a narrower signature, or a check with a sentence for the user.",
    )


def test_no_import_points_up(graph: Any) -> None:
    none_of(
        house.upward_imports(graph),
        "A room imports only rooms below it (layers in pyproject.toml, [tool.importlinter]), and only the "
        "command line the public face `genft`: move what is shared down, or hand it in as an argument.",
    )


def test_no_files_import_each_other(graph: Any) -> None:
    circles = [" → ".join([*group, group[0]]) for group in house.file_circles(graph)]
    none_of(circles, "Each of these files needs all others of its group: move what they share into a file below them.")


def test_no_packages_import_each_other(graph: Any) -> None:
    circles = [", ".join(group) for group in house.package_circles(graph)]
    none_of(circles, "These packages need each other: move what they share into a room below them.")


def test_tests_mirror_the_rooms() -> None:
    homeless = [
        path.relative_to(ROOT)
        for path in sorted((ROOT / "tests").glob("*/**/test_*.py"))
        if not (SRC / "genft" / path.parent.relative_to(ROOT / "tests")).is_dir()
    ]
    none_of(homeless, "A test lives in the folder that has the name of the room it tests, as in src/genft.")


# -------------------------------------------------------------------- the measuring itself


BAD = """
import json


class Thing:
    def first(self):
        import json
        import matplotlib.pyplot
        from genft.errors import ConfigError

        def second():
            from . import other
        assert isinstance(self, Thing)
        assert isinstance(self, Thing) and self.first
"""


def test_what_is_forbidden_is_found(tmp_path: Path) -> None:
    (tmp_path / "genft").mkdir()
    (tmp_path / "genft" / "bad.py").write_text(BAD)
    imports = {(entry.line, entry.what) for entry in house.inner_imports(tmp_path)}
    assert imports == {(7, "first imports json"), (9, "first imports genft.errors"), (12, "second imports .")}
    assert [entry.line for entry in house.narrowing_asserts(tmp_path)] == [13]
    assert {kind: entries[0].size for kind, entries in house.sizes(tmp_path).items()} == {
        "file": 14,
        "class": 10,
        "function": 9,
    }


def test_circles_and_directions_are_found() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in [
        ("genft.methods.a", "genft.bridge.b"),
        ("genft.bridge.b", "genft.bridge.c"),
        ("genft.bridge.c", "genft.methods.d"),
        ("genft.ops.e", "genft.ops.f"),
        ("genft.ops.f", "genft.ops.e"),
        ("genft.ops.e", "genft"),
        ("genft", "genft.bridge.b"),
    ]:
        graph.add_import(importer=importer, imported=imported, line_number=1, line_contents="")
    for package in ("genft.methods", "genft.bridge", "genft.ops"):
        graph.add_module(package)
    assert house.file_circles(graph) == [["genft.ops.e", "genft.ops.f"]]
    assert house.package_circles(graph) == [["genft.bridge", "genft.methods"]]
    assert [str(entry) for entry in house.upward_imports(graph)] == [
        "genft.methods.a:1: imports genft.bridge.b",
        "genft.ops.e:1: imports genft",
    ]


def test_a_command_that_fails_is_not_timed() -> None:
    with pytest.raises(SystemExit, match="failed"):
        house.processor_seconds("raise SystemExit(2)")
    assert house.processor_seconds("sum(range(10**6))", before="pass", repeats=1) > 0
    assert "raise" in house.command("--help")
