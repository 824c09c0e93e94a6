"""A run that is ready to start: everything that its spec names has been looked up, read and checked."""

from __future__ import annotations

from dataclasses import dataclass

from genft.api.registry import MethodInfo
from genft.data import Split, TaskData, read
from genft.data.task import Task
from genft.errors import ConfigError
from genft.families.family import Family
from genft.families.registry import get_family
from genft.methods import get_method
from genft.models.source import ModelSource, find_model
from genft.runs.protocols import Protocol, Roles, assign_roles, get_protocol
from genft.runs.settings import Training
from genft.runs.spec import RunSpec
from genft.training import ranks


@dataclass(frozen=True)
class PreparedRun:
    """A spec with the objects that it names, and the key of its result.

    Attributes:
        method, protocol, family: the objects behind the spec's names.
        data: the examples.
        roles: the examples by their role.
        source: the location of the base model, which is not loaded yet.
    """

    spec: RunSpec
    method: MethodInfo
    protocol: Protocol
    family: Family
    data: TaskData
    roles: Roles
    source: ModelSource
    key: str

    @property
    def task(self) -> Task:
        """The task, with its classes."""
        return self.data.task

    @property
    def training(self) -> Training:
        return self.spec.training

    @property
    def name(self) -> str:
        """A readable and unique name, also the name of the adapter's folder."""
        model = self.spec.model.rstrip("/").rpartition("/")[2]
        return f"{self.task.name}-{model}-{self.spec.method}-seed{self.spec.seed}-{self.key[:6]}"

    @property
    def steps(self) -> int:
        """Optimizer steps of the first training run; most protocols have no second one."""
        return self.training.epochs * self.steps_per_epoch(self.roles.train)

    def steps_per_epoch(self, train: Split) -> int:
        return -(-len(train) // self.training.batch_size)


def prepare(
    spec: RunSpec, data: TaskData | None = None, source: ModelSource | None = None, roles: Roles | None = None
) -> PreparedRun:
    """Look up everything that the spec names, read the data, assign the roles and find the model without loading it.

    Args:
        spec: the run.
        data, source, roles: those of this spec, if already known.

    Raises:
        GenFTError: anything that can be refused before training.
    """
    method, protocol = get_method(spec.method), get_protocol(spec.protocol)
    family = get_family(spec.task)
    method.check_kind(family.reads)
    family.check(spec.training)
    if spec.training.batch_size % ranks.count():
        raise ConfigError(
            f"batch_size: {spec.training.batch_size} examples cannot be shared equally by {ranks.count()} processes"
        )
    source = source or find_model(spec.model)
    data = data or read(spec.task)
    family = get_family(data.task)
    family.check(spec.training)  # again, now that the classes are known
    roles = roles or assign_roles(
        data, protocol, spec.limit_train, spec.limit_eval, spec.limit_select, by_class=family.by_class
    )
    key = spec.key(method, source.fingerprint, data.fingerprint)
    return PreparedRun(spec, method, protocol, family, data, roles, source, key)
