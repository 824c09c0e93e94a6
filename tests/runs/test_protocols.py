"""Which split trains, selects and reports."""

import pytest

from genft import ConfigError
from genft.data import Split, Task, TaskData
from genft.data.task import hold_out
from genft.runs.protocols import PROTOCOLS, assign_roles, get_protocol


def split(name: str, n: int) -> Split:
    return Split(tuple((f"{name}{i}",) for i in range(n)), tuple(float(i % 2) for i in range(n)))


TASK = Task(name="t", kind="text", reader="", classes=("a", "b"))
DATA = TaskData(TASK, {"train": split("train", 40), "validation": split("val", 10), "test": split("test", 20)})


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_example_selects_and_reports_unless_the_name_says_so(name: str) -> None:
    roles = assign_roles(DATA, get_protocol(name))
    train, select, report = (set(getattr(roles, role).inputs) for role in ("train", "select", "report"))
    assert not train & select
    assert not train & report
    assert bool(select & report) == (name in ("validation-best", "test"))


def test_a_tenth_of_train_is_held_out_by_class() -> None:
    roles = assign_roles(DATA, get_protocol("validation"))
    assert (len(roles.train), len(roles.select)) == (36, 4)
    assert sorted(roles.select.labels) == [0, 0, 1, 1]
    assert roles.report == DATA.splits["validation"]


def test_copies_stay_on_one_side_of_the_tenth() -> None:
    texts = tuple((f"text {i // 2}" + "!" * (i % 2),) for i in range(60))
    train = Split(texts, tuple(float(i // 2 % 2) for i in range(60)))
    data = TaskData(TASK, {"train": train, "validation": split("val", 10), "test": split("test", 20)})
    roles = assign_roles(data, get_protocol("validation"))
    sides = [{text.rstrip("!") for (text,) in role.inputs} for role in (roles.train, roles.select)]
    assert not sides[0] & sides[1]
    assert (len(roles.train), len(roles.select)) == (54, 6)
    assert roles.notes == [
        "30 examples are copies of another; copies are kept on the same side of the tenth that selects"
    ]
    assert not assign_roles(data, get_protocol("holdout")).notes


def test_without_copies_the_tenth_is_the_one_of_before() -> None:
    rest, out = hold_out(DATA.splits["train"], 4, 0)
    roles = assign_roles(DATA, get_protocol("validation"))
    assert (roles.train, roles.select, roles.copies) == (rest, out, 0)


def test_limits_are_fixed_draws_by_class() -> None:
    roles = assign_roles(DATA, get_protocol("holdout"), limit_train=10, limit_eval=6)
    assert (len(roles.train), len(roles.select), len(roles.report)) == (10, 6, 6)
    assert sorted(roles.train.labels) == [0] * 5 + [1] * 5
    assert assign_roles(DATA, get_protocol("holdout"), limit_train=10).train == roles.train
    assert len(assign_roles(DATA, get_protocol("holdout"), limit_train=99).train) == 40


def test_unknown_protocols_and_missing_splits() -> None:
    with pytest.raises(ConfigError, match=r"protocol: 'holdot' is not known; .*nearest: 'holdout'"):
        get_protocol("holdot")
    data = TaskData(TASK, {"train": split("train", 40)})
    with pytest.raises(ConfigError, match="protocol 'holdout': split: 'validation' is not in t; allowed: train"):
        assign_roles(data, get_protocol("holdout"))
