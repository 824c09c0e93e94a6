"""``pip install genft`` without extras: the Python door works, and the command line says what it lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import genft_cli
from genft.data import task_from_path
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.store import Store
from genft.training.prepared import prepare
from genft.training.run import run

#: What only extras bring; pyarrow comes with datasets.
HIDDEN = (*genft_cli.NEEDED, "pyarrow", "timm", "torchvision", "PIL", "matplotlib", "optuna")
HIDE = f"""
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = staticmethod(
    lambda name, path=None, target=None: None if name.split(".")[0] in {HIDDEN!r} else find(name, path, target)
)
"""

DOOR = """
import sys, torch, transformers, genft
from peft import PeftModel, get_peft_model
base, adapter, out = sys.argv[1:]
for config in (genft.GenFTConfig(shared_dim=4), genft.VectorFitConfig()):
    new = lambda: transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    torch.manual_seed(0)
    model = get_peft_model(new(), config)
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "labels": torch.tensor([1])}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(out)
    expected = model(**batch).logits
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(new(), out).eval()
    torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loaded.merge_and_unload()(**batch).logits, expected, atol=1e-5, rtol=1e-4)
print(genft.load_adapter(adapter).predict(["w1 good w2"]).shape)
"""


def without_extras(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", HIDE + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_python_door_works_without_extras(bert: Path, reviews: Path, tmp_path: Path) -> None:
    spec = build_spec(task_from_path(reviews), str(bert), Preset(name="none", source=""), training={"epochs": 1}).spec
    result = run(prepare(spec), Store(tmp_path).open())
    done = without_extras(DOOR, str(bert), str(tmp_path / result.adapter), str(tmp_path / "saved"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch.Size([1, 2])"


def test_the_command_names_what_is_missing_and_how_to_get_it() -> None:
    done = without_extras("import sys; sys.argv = ['genft', '--help']; from genft_cli import main; main()")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "error: the command line needs typer, rich, pandas, datasets, sklearn, scipy, not installed here: "
        "pip install 'genft[cli]'"
    )
