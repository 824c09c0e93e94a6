"""How far an update and its factors move in training, for settings that learn and for rates at which they collapse.

    python benchmarks/norms.py --data ~/data --out norms.csv

Trains MiniLM-L6 on 1,000 rows of STS-B for five epochs, once per case. Every few steps it records ‖ΔW‖ / ‖W0‖, the mean
over the adapted weights, and the norm of every kind of factor in proportion to its start; then the correlation on the
selection split. A factor that starts at zero is given in absolute terms, as the mean over its columns.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import TrainerCallback

from genft.api.settings import parse_settings
from genft.data import load_task
from genft.methods import get_method
from genft.models.weights import FrozenWeight
from genft.presets import load_preset
from genft.runs.quiet import be_quiet
from genft.runs.request import build_spec
from genft.runs.settings import Training
from genft.training.prepared import prepare
from genft.training.session import Session

ATTENTION = ("scope=attention", "shared_dim=24", "specific_dim=2")
UNLIMITED = ("relative_limit=none",)
CASES = (
    ("genft", (), 3e-3),
    ("genft", (), 1e-2),
    ("genft", UNLIMITED, 1e-3),
    ("genft", UNLIMITED, 3e-3),
    ("genft", (*ATTENTION, *UNLIMITED), 1e-3),
    ("genft", (*ATTENTION, *UNLIMITED), 3e-3),
    ("genft", ("form=paper", *ATTENTION), 5e-3),
    ("genft", ("form=paper", *ATTENTION), 2e-2),
    ("lora", (), 3e-3),
    ("lora", (), 1e-2),
)
STEPS = (1, 5, 10, 20, 40, 80, 160, 315)


class Norms(TrainerCallback):
    """Records norms after the steps of ``STEPS``.

    Attributes:
        records: (step, name of a norm, its value).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.start = dict(self._factors())
        self.records: list[tuple[int, str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step not in STEPS:
            return
        ratios = [
            float(layer.get_delta_weight("default").norm() / FrozenWeight.of(layer.get_base_layer()).weight.norm())
            for layer in self.model.modules()
            if isinstance(layer, BaseTunerLayer) and hasattr(layer, "get_delta_weight")
        ]
        self.records.append((state.global_step, "‖ΔW‖/‖W0‖", fmean(ratios)))
        for kind, norm in self._factors():
            start = self.start[kind]
            self.records.append((state.global_step, kind, norm / start if start else norm))

    def _factors(self) -> Iterator[tuple[str, float]]:
        """(kind, mean norm of a column) of the adapter's tensors, by the last part of their names."""
        norms: dict[str, list[float]] = defaultdict(list)
        for name, p in self.model.named_parameters():
            if p.requires_grad and p.dim() == 2 and "default" in name and "modules_to_save" not in name:
                kind = name.removesuffix(".weight").removesuffix(".default").rpartition(".")[2]
                norms[kind.rstrip("0123456789").rstrip("_")].append(float(p.detach().norm() / p.shape[1] ** 0.5))
        return ((kind, fmean(values)) for kind, values in sorted(norms.items()))


def run(root: Path, method: str, pairs: tuple[str, ...], rate: float) -> Iterator[dict[str, Any]]:
    info = get_method(method)
    spec = build_spec(
        load_task("stsb", root),
        "minilm-l6",
        load_preset("default"),
        method=info,
        settings=parse_settings(info, pairs, Training.model_fields),
        training={"epochs": 5, "batch_size": 16, "learning_rate": rate},
        seed=0,
        limit_train=1000,
        limit_select=500,
    ).spec
    prepared = prepare(spec, method=info)
    session = Session(prepared)
    norms = Norms(session.model)
    with tempfile.TemporaryDirectory() as folder:
        fitted = session.fit(prepared.roles.select, Path(folder), [norms])
    case = {"method": " ".join((method, *pairs)), "rate": rate}
    for step, name, value in norms.records:
        yield {**case, "step": step, "what": name, "value": f"{value:.4g}"}
    for epoch in fitted.history.epochs:
        yield {**case, "step": round(63 * epoch["epoch"]), "what": "pearson", "value": f"{epoch['pearson']:.4g}"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "norms.csv")
    given = options.parse_args()
    be_quiet()
    rows: list[dict[str, Any]] = []
    for case in CASES:
        rows += run(given.data, *case)
        with given.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(case, *(f"{row['step']}: {row['value']}" for row in rows[-5:]), flush=True)


if __name__ == "__main__":
    main()
