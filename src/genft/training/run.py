"""One run, from a spec to a result: read, load, attach, train, evaluate, save."""

from __future__ import annotations

import contextlib
import datetime
import gc
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, set_seed

from genft.adapters import saved as artifact
from genft.bridge.layer import derived_settings
from genft.data import Split, TaskData, read
from genft.data.encode import Encoded, encode
from genft.errors import ConfigError
from genft.families.metrics import METRICS, metric_for, score_all
from genft.methods import get_method
from genft.models.load import LoadedModel, ModelSource, find_model, load_model
from genft.models.parameters import count_parameters
from genft.runs.protocols import Roles, assign_roles, get_protocol
from genft.runs.spec import RunSpec
from genft.runs.store import Cost, Counts, History, Provenance, Result, Scores, Store, pack
from genft.training import ranks
from genft.training.attach import attach, targeted
from genft.training.callbacks import Inferred, Watch, ignore
from genft.training.loop import Fitted, decide, fit
from genft.training.memory import PeakMemory
from genft.training.trackers import tracker_callbacks


@dataclass(frozen=True)
class Plan:
    """A spec with its data read and its model found: what a run will do, and the key of its result."""

    spec: RunSpec
    data: TaskData
    roles: Roles
    source: ModelSource
    key: str

    @property
    def name(self) -> str:
        """Readable and unique: the name of the adapter's folder."""
        model = self.spec.model.rstrip("/").rpartition("/")[2]
        return f"{self.data.task.name}-{model}-{self.spec.method}-seed{self.spec.seed}-{self.key[:6]}"

    @property
    def steps(self) -> int:
        """Optimizer steps of the first training, which is the only one where the protocol has no second."""
        return self.steps_on(self.roles.train)

    def steps_on(self, train: Split) -> int:
        training = self.spec.training
        return training.epochs * -(-len(train) // training.batch_size)


def prepare(
    spec: RunSpec, data: TaskData | None = None, source: ModelSource | None = None, roles: Roles | None = None
) -> Plan:
    """Read the data, give them their roles and find the model, unless they are given, without loading it.

    Everything that can be refused early is refused here.
    """
    get_method(spec.method).check_kind(spec.task.kind)
    metric_for(spec.task.metric, classes=0 if spec.task.regression else None)
    if spec.task.regression and spec.training.label_smoothing:
        raise ConfigError("label_smoothing: is for classes, and this task predicts a number")
    if spec.task.kind == "text" and spec.training.augment != "none":
        raise ConfigError("augment: is for images, and this task has texts")
    if spec.training.batch_size % ranks.count():
        raise ConfigError(
            f"batch_size: {spec.training.batch_size} examples cannot be shared equally by {ranks.count()} processes"
        )
    protocol = get_protocol(spec.protocol)
    source = source or find_model(spec.model)
    data = data or read(spec.task)
    metric_for(data.task.metric, classes=0 if data.task.regression else len(data.task.classes))
    roles = roles or assign_roles(data, protocol, spec.limit_train, spec.limit_eval, spec.limit_select)
    return Plan(spec, data, roles, source, spec.key(source.fingerprint, data.fingerprint))


def build(plan: Plan, train: Split | None = None) -> tuple[LoadedModel, nn.Module, Inferred]:
    """(the model with its head, the same with the method on it, what was inferred), from the seed of the run.

    Args:
        plan: the run.
        train: what it will be trained on; None for the training examples of the plan.
    """
    training = plan.spec.training
    steps = plan.steps_on(train or plan.roles.train)
    set_seed(plan.spec.seed)
    loaded = load_model(
        plan.source,
        plan.data.task,
        training.image_size,
        drop_path=training.drop_path,
        imagenet=training.normalise == "imagenet",
        crop=training.augment == "crop",
    )
    info, said = get_method(plan.spec.method), plan.spec.settings
    follows = {k: v for k, v in info.recipe.settings(loaded.model, steps).items() if k not in said}
    model = attach(loaded, info, {**said, **follows}, partial(_examples, plan, loaded))
    count = count_parameters(model, loaded.trained_in_full)
    inferred = Inferred(
        targets=dict(Counter(name.rpartition(".")[2] for name in targeted(model))),
        settings=follows | derived_settings(model, "default"),
        head=loaded.trained_in_full,
        adapter_parameters=count.adapter,
        head_parameters=count.head,
        total_parameters=count.total,
        preprocessing=loaded.preprocessing,
        device=_device(),
        notes=loaded.notes,
    )
    return loaded, model, inferred


def run_once(
    plan: Plan, store: Store, watch: Watch = ignore, report_to: Sequence[str] = (), *, again: bool = False
) -> Result:
    """The result from the store, or from :func:`run`; where another process is at this run, what that one found.

    Args:
        again: run even if there is a result.
    """
    with store.claim(plan.key) if ranks.is_first() else contextlib.nullcontext():
        found = ranks.share(None if again or not ranks.is_first() else store.get(plan.key))
        if found and ranks.is_first():
            store.drop_checkpoints(plan.key)  # of a process that was killed when it had stored its result
        return found or run(plan, store, watch, report_to)


def run(plan: Plan, store: Store, watch: Watch = ignore, report_to: Sequence[str] = ()) -> Result:
    """Do the run, or go on with it where it was interrupted; its result is in the store when this returns.

    Args:
        report_to: trackers that are told how it goes; TensorBoard's files lie under ``logs`` in the store.

    Raises:
        GenFTError: the first thing that is wrong, in one sentence.
    """
    spec, task = plan.spec, plan.data.task
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    classes = 0 if task.regression else len(task.classes)
    if not ranks.is_first():
        watch, report_to = ignore, ()
    loaded, model, inferred = build(plan)
    watch(inferred)
    with PeakMemory() as peak:
        folder = store.checkpoints(plan.key)
        logs = store.out / "logs" / plan.name
        trackers = tracker_callbacks(report_to, logs)
        fitted = _fit(plan, loaded, model, plan.roles.train, plan.roles.select, folder, watch, trackers)
        epochs, best_epoch, steps, resumed_at = fitted.epochs, fitted.best_epoch, fitted.steps, fitted.resumed_at
        if plan.roles.retrain is not None:
            del loaded, model, fitted
            gc.collect()  # the first model, which its trainer refers to in circles
            loaded, model, _ = build(plan, plan.roles.retrain)
            trackers = tracker_callbacks(report_to, logs / "retrain")
            fitted = _fit(
                plan, loaded, model, plan.roles.retrain, None, folder / "retrain", watch, trackers, best_epoch
            )
            steps, resumed_at = steps + fitted.steps, resumed_at + fitted.resumed_at
        predicted, target = decide(fitted.trainer.predict_arrays(_encoded(plan, loaded, plan.roles.report)))
        metrics = score_all(predicted, target, classes=classes)
        for name, split in plan.roles.also.items():
            beside = score_all(*decide(fitted.trainer.predict_arrays(_encoded(plan, loaded, split))), classes=classes)
            metrics |= {f"{metric} ({name})": value for metric, value in beside.items()}
    value = metrics[task.metric]
    adapter = store.adapter(plan.name)
    size = 0
    if ranks.is_first():
        size = artifact.save(adapter, model, loaded, task, spec.method, spec.protocol, value)
    small = np.float32 if task.regression else np.uint16
    result = Result(
        key=plan.key,
        label=plan.name,
        spec=spec.model_dump(mode="json"),
        task=task.name,
        model=spec.model,
        method=spec.method,
        seed=spec.seed,
        protocol=spec.protocol,
        examples=plan.roles.sizes,
        scores=Scores(
            metric=task.metric, value=value, metrics=metrics, interval=METRICS[task.metric].interval(predicted, target)
        ),
        history=History(epochs=epochs, best_epoch=best_epoch, steps=steps, resumed_at=resumed_at),
        counts=Counts(
            adapter=inferred.adapter_parameters, head=inferred.head_parameters, total=inferred.total_parameters
        ),
        cost=Cost(
            seconds=time.perf_counter() - clock,
            seconds_per_step=fitted.seconds_per_step,
            peak_memory_bytes=peak.bytes,
            peak_memory_of=peak.of,
            adapter_bytes=size,
        ),
        provenance=Provenance(
            model_fingerprint=plan.source.fingerprint,
            data_fingerprint=plan.data.fingerprint,
            device=inferred.device,
            versions={name: version(name) for name in ("genft", "torch", "transformers", "peft", "accelerate")},
            started=started.isoformat(timespec="seconds"),
        ),
        adapter=adapter.relative_to(store.out).as_posix(),
        predictions=pack(predicted.astype(small)),
        targets=pack(target.astype(small)),
    )
    if ranks.is_first():
        store.put(result)
        store.drop_checkpoints(plan.key)
    return ranks.share(result)


def _encoded(plan: Plan, loaded: LoadedModel, split: Split, **how: Any) -> Encoded:
    regression = plan.data.task.regression
    return encode(split.inputs, split.labels, loaded.preprocessing, loaded.tokenizer, regression, **how)


def _fit(
    plan: Plan,
    loaded: LoadedModel,
    model: nn.Module,
    train: Split,
    select: Split | None,
    checkpoints: Path,
    watch: Watch,
    callbacks: Sequence[TrainerCallback],
    stop_after: int | None = None,
) -> Fitted:
    """Train on ``train``: to the best epoch on ``select``, or up to and with epoch ``stop_after``."""
    return fit(
        loaded,
        model,
        _encoded(plan, loaded, train, augment=plan.spec.training.augment, several_passes=True),
        _encoded(plan, loaded, select, several_passes=True) if select is not None else None,
        plan.spec.training,
        recipe=get_method(plan.spec.method).recipe,
        metric=METRICS[plan.data.task.metric],
        seed=plan.spec.seed,
        checkpoints=checkpoints,
        watch=watch,
        every=get_protocol(plan.spec.protocol).every,
        stop_after=stop_after,
        name=plan.name,
        callbacks=callbacks,
    )


def _examples(plan: Plan, loaded: LoadedModel, n: int) -> Iterator[dict[str, torch.Tensor]]:
    """``n`` training examples, drawn with the run's seed, as the model's inputs one by one."""
    train = plan.roles.train
    drawn = np.random.default_rng(plan.spec.seed).permutation(len(train))[:n]
    data = encode([train.inputs[i] for i in drawn], None, loaded.preprocessing, loaded.tokenizer)
    for i in range(len(data)):
        yield {key: torch.as_tensor(value)[None] for key, value in data[i].items()}


def _device() -> str:
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        name = f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return name if ranks.count() == 1 else f"{ranks.count()} × {name}"
