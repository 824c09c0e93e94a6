"""Which split trains, which selects the epoch, which is reported. Every table names the protocol it used."""

from __future__ import annotations

from dataclasses import dataclass

from genft.data import Split, TaskData
from genft.data.task import SplitName, hold_out
from genft.errors import ConfigError, not_one_of


@dataclass(frozen=True)
class Protocol:
    """The selecting split is never the reporting one, unless the protocol's name says so.

    Attributes:
        select: the split whose metric chooses the epoch; None means a tenth of train, held out.
        report: the split whose metric is the result.
        text: one line for people.
    """

    name: str
    select: SplitName | None
    report: SplitName
    text: str


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("holdout", "validation", "test", "validation selects the epoch, test reports"),
        Protocol("validation", None, "validation", "a tenth of train selects the epoch, validation reports"),
        Protocol(
            "validation-best",
            "validation",
            "validation",
            "validation selects the epoch and reports: too good, only to reproduce published numbers",
        ),
    )
}


@dataclass(frozen=True)
class Roles:
    """The examples by what they are for."""

    train: Split
    select: Split
    report: Split


def get_protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise ConfigError(not_one_of("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]


def assign_roles(
    data: TaskData, protocol: Protocol, limit_train: int | None = None, limit_eval: int | None = None
) -> Roles:
    """Give every split its role; with limits, a fixed draw by class of at most so many examples."""
    stratify = not data.task.regression

    def limited(split: Split, limit: int | None) -> Split:
        return split if limit is None or limit >= len(split) else hold_out(split, limit, 0, stratify)[1]

    for name in ("train", protocol.select, protocol.report):
        if name and name not in data.splits:
            raise ConfigError(
                not_one_of(
                    f"protocol {protocol.name!r}: split",
                    name,
                    data.splits,
                    what=f"is not in {data.task.name}",
                )
            )
    train = data.splits["train"]
    if protocol.select is None:
        train, select = hold_out(train, max(1, len(train) // 10), 0, stratify)
    else:
        select = data.splits[protocol.select]
    return Roles(
        limited(train, limit_train),
        limited(select, limit_eval),
        limited(data.splits[protocol.report], limit_eval),
    )
