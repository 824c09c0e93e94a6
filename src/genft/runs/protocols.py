"""Protocols: which split trains, which selects the epoch, and which reports. Every table names its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from genft.data import Split, Task, TaskData
from genft.data.copies import FEWEST, about_copies, draw_together, keys_together
from genft.data.task import SPLITS, SplitName, hold_out, squash
from genft.errors import ConfigError, not_one_of


@dataclass(frozen=True)
class Protocol:
    """Which splits train, select and report. The selection split is the reporting split only if the name says so.

    Attributes:
        select: the split whose metric chooses the epoch, or None for a tenth of train, held out.
        report: the split whose metric is the result.
        text: a one-line description.
        retrain: whether a second training, up to the chosen epoch, includes the selection split.
        train: the splits that train.
        every: epochs between evaluations.
        suite: the only benchmark that the protocol is for; empty for any task.
    """

    name: str
    select: SplitName | None
    report: SplitName
    text: str
    retrain: bool = False
    train: tuple[SplitName, ...] = ("train",)
    every: int = 1
    suite: str = ""

    def check_suite(self, task: Task) -> None:
        """Raise :class:`~genft.errors.ConfigError` if the protocol belongs to another benchmark."""
        if self.suite and squash(self.suite) != squash(task.suite):
            belongs = f"is a task of {task.suite}" if task.suite else "belongs to no benchmark"
            fitting = [p.name for p in PROTOCOLS.values() if not p.suite or squash(p.suite) == squash(task.suite)]
            raise ConfigError(
                f"protocol: {self.name!r} is for {self.suite}, and {task.name} {belongs}; allowed: {', '.join(fitting)}"
            )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("holdout", "validation", "test", "validation selects the epoch, test reports"),
        Protocol("train-tenth", None, "test", "a tenth of train selects the epoch, test reports"),
        Protocol("validation", None, "validation", "a tenth of train selects the epoch, validation reports"),
        Protocol(
            "validation-best",
            "validation",
            "validation",
            "validation selects the epoch and reports: optimistic, only to reproduce published numbers",
        ),
        Protocol(
            "val200",
            "validation",
            "test",
            "val200 selects the epoch, a second training on train800val200 ends there, test reports",
            retrain=True,
            suite="vtab1k",
        ),
        Protocol("fgvc", "validation", "test", "val selects the epoch, test reports", suite="fgvc"),
        Protocol(
            "test",
            "test",
            "test",
            "the best of test, evaluated every 10 epochs: optimistic, only to reproduce published numbers",
            train=("train", "validation"),
            every=10,
        ),
    )
}


@dataclass(frozen=True)
class Roles:
    """The examples by their role.

    Attributes:
        train, select, report: see :class:`Protocol`.
        retrain: the examples of the second training, or None if the protocol has only one.
        also: further splits to score, by name: MNLI's mismatched.
        copies: how many examples are copies of others, if the selection split was held out from them: copies are on the
            same side.
    """

    train: Split
    select: Split
    report: Split
    retrain: Split | None = None
    also: Mapping[str, Split] = field(default_factory=dict)
    copies: int = 0

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples in each role."""
        roles = {"train": self.train, "select": self.select, "retrain": self.retrain, "report": self.report}
        return {name: len(split) for name, split in roles.items() if split is not None}

    @property
    def notes(self) -> list[str]:
        """What was done with copies, in a sentence with their number."""
        return [f"{about_copies(self.copies)} on the same side of the tenth that selects"] if self.copies else []


def get_protocol(name: str) -> Protocol:
    """The protocol called ``name``.

    Raises:
        ConfigError: there is none; the message suggests the nearest name.
    """
    if name not in PROTOCOLS:
        raise ConfigError(not_one_of("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]


def assign_roles(
    data: TaskData,
    protocol: Protocol,
    limit_train: int | None = None,
    limit_eval: int | None = None,
    limit_select: int | None = None,
    *,
    by_class: bool = True,
) -> Roles:
    """Give every split its role; with limits, a fixed random draw of at most that many examples.

    Args:
        data: the splits.
        protocol: which role each has.
        limit_train, limit_eval, limit_select: the most examples to train, report and select on.
        by_class: whether examples are drawn evenly by class.

    Raises:
        ConfigError: the data lack a split that the protocol needs.
    """

    def limited(split: Split, limit: int | None) -> Split:
        return split if limit is None or limit >= len(split) else hold_out(split, limit, 0, by_class)[1]

    check_splits(data, protocol)
    train = sum((data.splits[name] for name in protocol.train), Split((), ()))
    copies = 0
    if protocol.select is None:
        train, select, copies = _hold_out_a_tenth(data.task, train, by_class)
    else:
        select = data.splits[protocol.select]
    train, select = limited(train, limit_train), limited(select, limit_select or limit_eval)
    return Roles(
        train,
        select,
        limited(data.splits[protocol.report], limit_eval),
        train + select if protocol.retrain else None,
        {name: limited(split, limit_eval) for name, split in data.splits.items() if name not in SPLITS},
        copies,
    )


def check_splits(data: TaskData, protocol: Protocol) -> None:
    """Raise :class:`~genft.errors.ConfigError` if the data lack a split that the protocol needs."""
    missing = "; ".join(f"{file} does not exist" for file in data.missing)
    for name in (*protocol.train, protocol.select, protocol.report):
        if name and name not in data.splits:
            raise ConfigError(
                not_one_of(
                    f"protocol {protocol.name!r}: split",
                    name,
                    data.splits,
                    what=f"is not in {data.task.name}{missing and f' ({missing})'}",
                )
            )


def _hold_out_a_tenth(task: Task, train: Split, by_class: bool) -> tuple[Split, Split, int]:
    """(the rest, a tenth held out, the number of copies, which are kept on the same side)."""
    size, content = max(1, len(train) // 10), keys_together(task.kind, train)
    if (different := len(set(content))) < FEWEST:
        return *hold_out(train, size, 0, by_class), 0
    keep, out = draw_together(train.labels, content, size, 0, by_class)
    return train.take(keep), train.take(out), 0 if content == list(train.together) else len(train) - different
