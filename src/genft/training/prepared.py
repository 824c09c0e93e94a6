"""A run that is ready to start: everything that its spec names has been looked up, read and checked."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass

import torch

from genft.api.registry import MethodInfo
from genft.data import Split, TaskData, read
from genft.data.images import decoded_as_before
from genft.data.task import Task
from genft.errors import ConfigError
from genft.families.family import Family
from genft.families.registry import get_family
from genft.files import name_part
from genft.methods import get_method
from genft.models.source import ModelSource, find_model
from genft.runs.measured import Result
from genft.runs.protocols import Protocol, Roles, assign_roles, get_protocol
from genft.runs.settings import Training
from genft.runs.spec import RunSpec
from genft.runs.store import Store
from genft.training import ranks


@dataclass(frozen=True)
class PreparedRun:
    """A spec with the objects that it names, and the key of its result.

    Attributes:
        method, protocol, family: the objects behind the spec's names.
        data: the examples.
        roles: the examples by their role.
        source: the location of the base model, which is not loaded yet.
        key: the name of the result.
        former_key: the result's name in versions of genft whose keys left out ``input_fingerprint``, or None if the run
            is learned otherwise since.
        input_fingerprint: a hash of what turns examples into the model's input.
    """

    spec: RunSpec
    method: MethodInfo
    protocol: Protocol
    family: Family
    data: TaskData
    roles: Roles
    source: ModelSource
    key: str
    former_key: str | None
    input_fingerprint: str

    def stored(self, store: Store) -> Result | None:
        """The finished result, or None if there is none yet.

        A result of a genft whose keys left out how examples become the model's input is found by its former key and
        given the present one, unless images are decoded otherwise today.
        """
        former = self.former_key
        if former and not store.path(self.key).is_file() and store.path(former).is_file() and self._decoded_as_before():
            store.rename(former, self.key)
        return store.get(self.key)

    def _decoded_as_before(self) -> bool:
        inputs = (inputs for split in self.data.splits.values() for inputs in split.inputs)
        return self.task.kind != "image" or decoded_as_before([path for (path,) in inputs])

    @property
    def task(self) -> Task:
        """The task, with its classes."""
        return self.data.task

    @property
    def training(self) -> Training:
        return self.spec.training

    @property
    def name(self) -> str:
        """Readable, and unique by the whole key: the name of the adapter's folder."""
        task, model = name_part(self.task.name), name_part(self.spec.model.rstrip("/").rpartition("/")[2])
        return f"{task}-{model}-{self.spec.method}-seed{self.spec.seed}-{self.key}"

    @property
    def steps(self) -> int:
        """Optimizer steps of the first training run; most protocols have no second one."""
        return self.training.epochs * self.steps_per_epoch(self.roles.train)

    def steps_per_epoch(self, train: Split) -> int:
        return -(-len(train) // self.training.batch_size)


def prepare(
    spec: RunSpec,
    data: TaskData | None = None,
    source: ModelSource | None = None,
    roles: Roles | None = None,
    method: MethodInfo | None = None,
) -> PreparedRun:
    """Look up everything that the spec names, read the data, assign the roles and find the model without loading it.

    Args:
        spec: the run.
        data, source, roles, method: those of this spec, if already known.

    Raises:
        GenFTError: anything that can be refused before training.
    """
    method, protocol = method or get_method(spec.method), get_protocol(spec.protocol)
    family = get_family(spec.task)
    method.check_kind(family.reads)
    family.check(spec.training)
    _check_machine(spec.training, method)
    source = source or find_model(spec.model)
    data = data or read(spec.task)
    family = type(family)(data.task)  # now with the classes
    family.check(spec.training)
    roles = roles or assign_roles(
        data, protocol, spec.limit_train, spec.limit_eval, spec.limit_select, by_class=family.by_class
    )
    of_inputs = hashlib.sha256(f"{source.input_fingerprint} {data.pixel_fingerprint}".encode()).hexdigest()
    fingerprints = source.fingerprint, data.fingerprint
    revision = _revision(family, source, roles)
    key = spec.key(method, *fingerprints, of_inputs, revision)
    former_key = None if revision else spec.key(method, *fingerprints)
    return PreparedRun(spec, method, protocol, family, data, roles, source, key, former_key, of_inputs)


def _check_machine(training: Training, method: MethodInfo) -> None:
    """Refuse values that this machine, or the number of its processes, cannot fulfil."""
    parts = ranks.count() * training.grad_accumulation
    if training.batch_size % parts:
        by = f"{ranks.count()} processes" if training.grad_accumulation == 1 else f"{parts} parts"
        raise ConfigError(
            f"batch_size: {training.batch_size} examples cannot be shared equally by {by}"
            + ("" if training.grad_accumulation == 1 else " (grad_accumulation × processes)")
        )
    if training.precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("precision: fp16 needs a CUDA GPU, and there is none; allowed here: float32, bf16")
    if training.quantise != "none":
        if method.family == "baseline":
            raise ConfigError(f"quantise: {method.name!r} trains weights of the base, which must not be quantised")
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError("quantise: needs bitsandbytes; install it: pip install bitsandbytes")


def _revision(family: Family, source: ModelSource, roles: Roles) -> str | None:
    """What this run learns otherwise than in genft 0.1."""
    changes = [family.revision] if family.revision else []
    if family.reads == "text" and source.has_own_pooling:
        changes.append("pooler trained")
    if roles.copies:
        changes.append("copies held together")
    return ", ".join(changes) or None
