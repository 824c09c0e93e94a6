"""The state of the code base: sizes of files, classes and functions, import cycles, upward imports, time to start.

    python benchmarks/house.py                     # this tree
    python benchmarks/house.py /elsewhere/src      # another one

tests/test_house.py checks this tree against the limits defined here.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import grimp
import networkx

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "genft"
#: The most lines that each may have.
LIMITS = {"file": 450, "class": 250, "function": 60}
#: Optional libraries that are heavy: what needs one imports it when it is called.
HEAVY = {
    "matplotlib", "optuna", "ray", "diffusers", "bitsandbytes", "timm", "torchvision", "PIL", "datasets",
    "sacrebleu", "rouge_score", "pyarrow.parquet",
    "pillow_heif", "pillow_jxl",
    "tensorboard", "wandb", "mlflow", "trackio", "torch.utils.tensorboard",
    "peft.tuners.lora.corda",  # imports attrs, a fifth of the time of `import genft`, and serves one method
    "pandas", "sklearn",  # half a second each, which `genft list` does not need
    "rich", "scipy",  # parts of genft[cli], which the Python door does without
    "resource",  # Unix alone
    "genft.figures.parameters",  # a figure imports what reads adapters, half a second that a count does not need
    "genft.counts",  # a command that reads a catalogue counts afresh only after a method was added
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something at a line of a file."""

    file: str
    line: int
    what: str
    size: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" + (f", {self.size} lines" if self.size else "")


def sizes(src: Path) -> dict[str, list[Finding]]:
    """Files, classes and functions with their lines, the longest first."""
    by_kind: dict[str, list[Finding]] = {kind: [] for kind in LIMITS}
    for file, tree, lines in _trees(src):
        by_kind["file"].append(Finding(file, 1, "the file", lines))
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                by_kind[kind].append(Finding(file, node.lineno, f"{kind} {node.name}", length))
    return {kind: sorted(entries, key=lambda f: -f.size) for kind, entries in by_kind.items()}


def inner_imports(src: Path) -> list[Finding]:
    """Imports inside functions, other than those of heavy optional libraries."""
    return [
        Finding(file, node.lineno, f"{function.name} imports {module}")
        for file, tree, _ in _trees(src)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in _own_statements(function)
        for module in _imported(node)
        if not {module, module.partition(".")[0]} & HEAVY
    ]


def narrowing_asserts(src: Path) -> list[Finding]:
    """Asserts about nothing but a type."""
    return [
        Finding(file, node.lineno, ast.unparse(node))
        for file, tree, _ in _trees(src)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and _is_isinstance(node.test)
    ]


def import_graph(src: Path) -> grimp.ImportGraph:
    """Who imports whom in the package under ``src``; imports for type checking and inside functions count too."""
    sys.path.insert(0, str(src))
    try:
        return grimp.build_graph(PACKAGE, cache_dir=None)
    finally:
        sys.path.remove(str(src))


def file_circles(graph: grimp.ImportGraph) -> list[list[str]]:
    """Groups of files each of which imports, in some steps, all others of its group."""
    return _circles(_edges(graph))


def package_circles(graph: grimp.ImportGraph) -> list[list[str]]:
    """Groups of packages that import each other, among the rooms of the house and among those inside a room."""
    circles: list[list[str]] = []
    parents = {name.rpartition(".")[0] for name in graph.modules} - {""}
    for parent in sorted(parents):
        between = [
            (a, b) for a, b in ((_child(parent, x), _child(parent, y)) for x, y in _edges(graph)) if a and b and a != b
        ]
        circles += [group for group in _circles(between) if any(graph.find_children(name) for name in group)]
    return circles


def layers() -> list[set[str]]:
    """The layers of the contract in pyproject.toml, the highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = (c for c in settings["contracts"] if c.get("containers") == [PACKAGE])
    return [{re.sub(r"[() ]", "", name) for name in re.split(r"[:|]", layer)} for layer in contract["layers"]]


def upward_imports(graph: grimp.ImportGraph) -> list[Finding]:
    """Imports that point up the list of layers. The public face, ``genft`` itself, stands beside the command line."""
    level = {name: n for n, names in enumerate(layers()) for name in names}

    def of(module: str) -> int:
        return level.get("cli" if module == PACKAGE else module.split(".")[1], len(level))

    return [
        Finding(importer, detail["line_number"], f"imports {imported}")
        for importer, imported in sorted(_edges(graph))
        if of(imported) < of(importer) and importer != PACKAGE
        for detail in graph.get_import_details(importer=importer, imported=imported)
    ]


def processor_seconds(code: str, src: Path | None = None, *, before: str = "", repeats: int = 3) -> float:
    """Processor time that a new Python process takes for ``code``: the median.

    Args:
        code: what is timed, with the start of Python where nothing comes before it.
        src: the folder that holds the package; by default what is installed.
        before: what the process does first, untimed. A difference between two processes would be lost in the noise.
        repeats: how many processes.
    """
    path = os.pathsep.join(filter(None, [str(src or ""), os.environ.get("PYTHONPATH", "")]))
    start = "began = time.process_time()" if before else "began = 0.0"
    timed = f"import time\n{before}\n{start}\n{code}\nprint(time.process_time() - began)"
    taken = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", timed],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        if done.returncode:  # what failed early would look quick
            raise SystemExit(f"{code}\nfailed:\n{done.stdout}{done.stderr}")
        taken.append(float(done.stdout.split()[-1]))
    return statistics.median(taken)


def command(*words: str) -> str:
    """Code that runs a command of genft's command line as a process of its own would; it fails if the command does."""
    return (
        "import contextlib, io, runpy, sys\n"
        "from importlib.util import find_spec\n"
        f"entry = 'genft_cli' if find_spec('genft_cli') else {PACKAGE!r}  # as genft 0.1 was started\n"
        f"sys.argv = ['genft', *{words!r}]\n"
        "try:\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        runpy.run_module(entry, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    if end.code:\n"
        "        raise"
    )


# -------------------------------------------------------------------- details


def _trees(src: Path) -> Iterator[tuple[str, ast.Module, int]]:
    for path in sorted((src / PACKAGE).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield str(path.relative_to(src)), ast.parse(text), len(text.splitlines())


def _own_statements(function: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a function but those of functions inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
            yield from _own_statements(child)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or "."] if isinstance(node, ast.ImportFrom) else []


def _is_isinstance(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp):
        return all(_is_isinstance(value) for value in test.values)
    return isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "isinstance"


def _edges(graph: grimp.ImportGraph) -> list[tuple[str, str]]:
    return [(a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)]


def _circles(edges: list[tuple[str, str]]) -> list[list[str]]:
    groups = networkx.strongly_connected_components(networkx.DiGraph(edges))
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _child(parent: str, module: str) -> str:
    """The child of ``parent`` that is ``module`` or holds it; nothing where there is none."""
    if not module.startswith(f"{parent}."):
        return ""
    return f"{parent}.{module[len(parent) + 1 :].partition('.')[0]}"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("src", nargs="?", type=Path, default=ROOT / "src", help="the folder that holds the package")
    p.add_argument("--no-time", action="store_true", help="do not measure the time to start")
    args = p.parse_args()
    src = args.src.resolve()
    by_kind, graph = sizes(src), import_graph(src)
    print(f"lines of {src}: {sum(f.size for f in by_kind['file']):,} in {len(by_kind['file'])} files")
    for kind, entries in by_kind.items():
        over = [f for f in entries if f.size > LIMITS[kind]]
        print(f"longest {kind}: {entries[0]}; {len(over)} over {LIMITS[kind]} lines")
    for name, groups in (("files", file_circles(graph)), ("packages", package_circles(graph))):
        print(f"circles of {name}: {len(groups)}", *(f"  {', '.join(group)}" for group in groups), sep="\n")
    known = set(chain.from_iterable(layers()))
    rooms = {m.split(".")[1] for m in graph.modules if "." in m}
    if unknown := rooms - known:
        print(f"imports upward: not counted, for the contract does not know {', '.join(sorted(unknown))}")
    else:
        print(f"imports upward: {len(upward_imports(graph))}")
    print(f"imports inside functions, heavy libraries aside: {len(inner_imports(src))}")
    print(f"asserts that narrow a type: {len(narrowing_asserts(src))}")
    if not args.no_time:
        genft = processor_seconds("import genft", src, before="import peft")
        print(f"import genft: {genft:.2f} s beyond {processor_seconds('import peft'):.2f} s of peft")
        print(f"genft --help: {processor_seconds(command('--help'), src):.2f} s")


if __name__ == "__main__":
    main()
