"""The learning rate over a run, against transformers' and timm's."""

import pytest
import torch
from transformers import get_scheduler

from genft import ConfigError
from genft.records import check
from genft.runs.settings import Training
from genft.training.schedule import learning_rate

EPOCHS, STEPS = 10, 7


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.33])
def test_rates_are_those_of_transformers(name: str, warmup: float) -> None:
    training = Training(epochs=EPOCHS, learning_rate=0.3, schedule=name, warmup=warmup)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    rise = -int(-warmup * EPOCHS * STEPS // 1)
    theirs = get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        optimizer,
        num_warmup_steps=rise,
        num_training_steps=EPOCHS * STEPS,
    )
    for step in range(EPOCHS * STEPS):
        assert learning_rate(training, 0.3, step, STEPS) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        theirs.step()


def test_timms_cosine() -> None:
    scheduler = pytest.importorskip("timm.scheduler")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = scheduler.CosineLRScheduler(optimizer, t_initial=100, warmup_t=10, lr_min=1e-5, warmup_lr_init=1e-6)
    ours = Training(
        epochs=100,
        learning_rate=1e-3,
        schedule="timm-cosine",
        warmup=0.1,
        first_learning_rate=1e-6,
        last_learning_rate=1e-5,
    )
    for epoch in range(100):
        theirs.step(epoch)
        for step in (0, STEPS - 1):
            rate = learning_rate(ours, 1e-3, epoch * STEPS + step, STEPS)
            assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch


def test_floors_hold_for_every_schedule() -> None:
    training = Training(epochs=EPOCHS, learning_rate=0.3, warmup=0.1, first_learning_rate=0.1, last_learning_rate=0.2)
    rates = [learning_rate(training, 0.3, step, STEPS) for step in range(EPOCHS * STEPS + 1)]
    assert (rates[0], rates[7], rates[-1]) == (0.1, 0.3, 0.2)
    with pytest.raises(ConfigError, match=r"last_learning_rate: 0\.5 is above the learning rate, 0\.3"):
        check(Training, {"learning_rate": 0.3, "last_learning_rate": 0.5}, "training")
