"""The shapes in the signatures of ops/ and methods/ are true: their tests pass with every call checked."""

from __future__ import annotations

import inspect
import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from genft import methods, ops

TESTS = Path(__file__).parent
#: Formulas and whole models, without what compiles, forks or trains long.
SHORT = ["methods/test_genft_forms.py", "methods/test_propulsion.py", "ops/test_lowrank.py", "ops/test_spectral.py"]
ALL = [
    *SHORT,
    "methods/test_genft.py",
    "methods/test_e2vpt.py",
    "methods/test_block_formulas.py",
    "methods/test_fpet.py",
    "methods/test_lora_xs.py",
    "methods/test_ssf.py",
    "methods/test_sa2vp.py",
    "methods/test_spt_deep.py",
    "methods/test_svft.py",
    "methods/test_vapt.py",
    "methods/test_wegeft.py",
    "methods/test_vectorfit.py",
    "ops/test_generator.py",
    "ops/test_masks.py",
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False)


@pytest.mark.parametrize("checked", [SHORT, pytest.param(ALL, marks=pytest.mark.nightly)], ids=["short", "all"])
def test_signatures_hold_in_the_tests_of_ops_and_methods(checked: list[str]) -> None:
    # settings of wrong types are refused by name elsewhere
    wrong = ("refuse", "impossible", "problems")
    selected = " and ".join(f"not {name}" for name in ("compile", "meta", "well_formed", "another_machine", *wrong))
    files = [str(TESTS / name) for name in checked]
    done = run("-m", "pytest", "-p", "checked_shapes", "-p", "no:cacheprovider", "-q", "-x", "-k", selected, *files)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    ("call", "function"),
    [
        ("generator.generate(torch.ones(4, 3), generator.Stage(*torch.ones(2, 3, 2)), None)", ""),
        ("generator.generate(torch.ones(4), None, None)", "generate"),
        ("spectral.delta_weight(torch.ones(4, 3), torch.ones(2), torch.ones(5, 3))", "delta_weight"),
        ("spectral.root_mean_square(torch.ones(4))", "root_mean_square"),
        ("initial.orthonormal_(torch.ones(4))", "orthonormal_"),
    ],
)
def test_a_wrong_shape_is_caught(call: str, function: str) -> None:
    done = run("-c", f"import checked_shapes, torch\nfrom genft.ops import generator, initial, spectral\n{call}")
    assert (done.returncode == 0) == (function == "")
    if function:
        assert "TypeCheckError" in done.stderr
        assert function in done.stderr


@pytest.mark.parametrize("package", [ops, methods], ids=["ops", "methods"])
def test_public_functions_of_tensors_state_shapes(package: object) -> None:
    """A public function or method that takes or returns a bare Tensor says of which shape, or is listed here."""
    opaque = {
        "spread",
        "zero_dropped_",
        "keep_probability",
        "masked",
        "linear",
    }  # memory of any shape; a Base of any kind
    bare = []
    for found in pkgutil.iter_modules(package.__path__):  # type: ignore[attr-defined]
        module = import_module(f"{package.__name__}.{found.name}")  # type: ignore[attr-defined]
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                returned = str(value.__annotations__.get("return", ""))
                if returned in ("Tensor", "tuple[Tensor, Tensor]") and name not in opaque:
                    bare.append(f"{module.__name__}.{name}")
    assert bare == []
