"""Write configurations of our methods in the layout of peft's own comparison, method_comparison/MetaMathQA.

    python benchmarks/peft_experiments.py [FOLDER]        # by default examples/peft_comparison/experiments

Copy the folder over the ``experiments`` of a checkout of peft and run there, with genft installed:

    python -c "import genft, runpy, sys; sys.argv[0] = 'run.py'; runpy.run_path('run.py', run_name='__main__')" \
        -v experiments/genft/llama-3.2-3B-default/

``import genft`` is what lets peft read the configurations. peft's own LoRA of rank 32 adapts q and v, so methods that
take any weight do the same here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from genft import get_method
from genft.presets import load_preset

FOLDER = Path(__file__).parent.parent / "examples" / "peft_comparison" / "experiments"
QV = {"target_modules": ["q_proj", "v_proj"]}
ATTENTION = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}

#: (method, name of the experiment) → settings; the learning rate is the default preset's.
EXPERIMENTS: dict[tuple[str, str], dict[str, Any]] = {
    ("genft", "default"): {},
    ("genft", "attention-a64-b8"): {**ATTENTION, "shared_dim": 64, "specific_dim": 8},
    ("genft", "equations"): {**ATTENTION, "form": "paper", "shared_dim": 24, "specific_dim": 2},
    ("genft", "leaky-relu-rows"): {"act_row": "leaky_relu"},
    ("vectorfit", "default"): {},
    ("vectorfit", "relative"): {"relative": True},
    ("svft", "plain"): QV,
    ("svft", "banded"): {**QV, "pattern": "banded"},
    ("lora_xs", "default"): QV,
    ("wegeft", "default"): QV,
    ("ssf", "default"): {},
    ("propulsion", "default"): {},
}


def write(folder: Path) -> list[Path]:
    """Write every experiment and return their folders."""
    rates = load_preset("default").methods
    written = []
    for (method, name), settings in EXPERIMENTS.items():
        experiment = folder / method / f"llama-3.2-3B-{name}"
        experiment.mkdir(parents=True, exist_ok=True)
        info = get_method(method)
        info.config(task_type="CAUSAL_LM", **{**info.defaults, **settings}).save_pretrained(str(experiment))
        rate = rates[method].training["learning_rate"] if method in rates else 1e-3
        training = {"optimizer_kwargs": {"lr": rate, "weight_decay": 0.0}}
        (experiment / "training_params.json").write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
        written.append(experiment)
    return written


if __name__ == "__main__":
    for path in write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER):
        print(path)
