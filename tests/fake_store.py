"""Stores with results that nothing was trained for: real specs, made-up predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genft.data import load_task
from genft.families.metrics import METRICS
from genft.models.parameters import Counts
from genft.presets import load_preset
from genft.runs.measured import ComparedRun, Cost, History, Provenance, Result, Scores
from genft.runs.request import build_spec
from genft.runs.store import Store, pack

MODEL = "models/tiny"
_PARAMETERS = {"genft": 67_584, "vectorfit": 27_648, "lora": 147_456, "bitfit": 40_000, "linear": 0, "full": 22_565_000}


def put(
    out: Path,
    tasks: Mapping[str, Mapping[str, float]],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    model: str = MODEL,
    examples: int = 300,
    bench: str | None = None,
    epochs: int = 4,
    **said: Any,
) -> Store:
    """Put runs into the store at ``out``.

    Args:
        tasks: {task: {method: share of right answers}}; in a regression the correlation.
        bench: the name of the comparison that the runs belong to; None: no bench knows them.
        said: for :func:`build_spec`: settings, training, protocol, limits.
    """
    store = Store(out).open()
    training = {"epochs": epochs, **said.pop("training", {})}
    for name, methods in tasks.items():
        for method, skill in methods.items():
            for seed in seeds:
                result = _result(name, method, skill, seed, model, examples, training, said)
                store.put(result)
                if bench:
                    cell = ComparedRun(matrix=bench, task=name, label=method, seed=seed, key=result.key)
                    store.add_compared([cell])
    return store


def _result(
    name: str,
    method: str,
    skill: float,
    seed: int,
    model: str,
    examples: int,
    training: dict[str, Any],
    said: dict[str, Any],
) -> Result:
    task = load_task(name, Path("data"))
    spec = build_spec(task, model, load_preset("default"), method=method, seed=seed, training=training, **said).spec
    key = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]
    rng = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))  # the test set of the task
    noise = np.random.default_rng(int(key, 16))
    predicted: Any
    target: Any
    if task.regression:
        target = rng.normal(0, 1, examples).astype(np.float32)
        predicted = (skill * target + (1 - skill**2) ** 0.5 * noise.normal(0, 1, examples)).astype(np.float32)
    else:
        classes = len(task.classes) or task.class_count
        target = rng.integers(0, classes, examples).astype(np.uint16)
        hard = rng.random(examples)
        right = 0.7 * hard + 0.3 * noise.random(examples) < skill + noise.normal(0, 0.01)
        predicted = np.where(right, target, (target + 1) % classes).astype(np.uint16)
    value = METRICS[task.metric].score(predicted, target)
    curve = [value * (1 - 0.5 / (1 + epoch)) for epoch in range(spec.training.epochs)]
    adapter = _PARAMETERS[method]
    return Result(
        key=key,
        label=f"{name}-tiny-{method}-seed{seed}-{key[:6]}",
        spec=spec.model_dump(mode="json"),
        task=name,
        model=model,
        method=method,
        seed=seed,
        protocol=spec.protocol,
        examples={"train": 1000, "select": 100, "report": examples},
        scores=Scores(
            metric=task.metric, value=value, metrics={task.metric: value}, interval=(value - 0.03, value + 0.03)
        ),
        history=History(
            epochs=[
                {"epoch": i + 1.0, task.metric: v, "loss": 1 - v / 2, "train_loss": 1 - v} for i, v in enumerate(curve)
            ],
            best_epoch=spec.training.epochs,
            steps=63 * spec.training.epochs,
            resumed_at=0,
        ),
        counts=Counts(adapter=adapter, head=1_925, total=22_784_650),
        cost=Cost(
            seconds=40.0,
            seconds_per_step=0.1 + adapter**0.5 / 2e4,
            peak_memory_bytes=1_200_000_000 + 20 * adapter,
            peak_memory_of="process",
            adapter_bytes=4 * adapter,
        ),
        provenance=Provenance(
            model_fingerprint="m" + model,
            data_fingerprint="d" + name,
            device="CPU (x86_64, 2 threads)",
            versions={"genft": "0.1.0", "torch": "2.14.1"},
            started="2026-11-22T10:00:00+00:00",
        ),
        adapter="adapters/x",
        predictions=pack(predicted),
        targets=pack(target),
    )
