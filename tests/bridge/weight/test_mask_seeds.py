"""Dropout on the entries of generated matrices: one mask per weight and forward pass, fresh in the next."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from families import FAMILIES
from genft import GenFTConfig
from genft.bridge.weight.layer import WeightLayer


def nonlinear(**settings: Any) -> GenFTConfig:
    return GenFTConfig(
        **{"shared_dim": 4, "act_row": "tanh", "act_col": "tanh", "dropout": 0.5, "init_weights": False, **settings}
    )


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.lin(x), self.lin(x)])


def test_one_mask_per_pass_and_a_fresh_one_in_the_next() -> None:
    model = get_peft_model(CalledTwice(), nonlinear(target_modules=["lin"])).train()
    x = torch.eye(8)
    first, second = model(x), model(x)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], second[0])
    model.eval()
    assert torch.equal(model(x), model(x))


def test_masks_are_fresh_when_only_a_part_of_the_model_is_called() -> None:
    model = get_peft_model(CalledTwice(), nonlinear(target_modules=["lin"])).train()
    part = model.base_model.model.lin
    assert not torch.equal(part(torch.eye(8)), part(torch.eye(8)))


def test_a_seed_fixes_the_masks() -> None:
    model = get_peft_model(CalledTwice(), nonlinear(target_modules=["lin"])).train()
    outputs = []
    for _ in range(2):
        torch.manual_seed(5)
        outputs.append(model(torch.eye(8)))
    assert torch.equal(*outputs)


def gradients(model: PeftModel, batch: dict[str, Tensor], passes: int) -> dict[str, Tensor]:
    torch.manual_seed(6)
    loss = sum(model(**batch).loss for _ in range(passes))
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def test_checkpoints_meet_the_same_masks_again() -> None:
    """DeBERTa calls query_proj twice in one block; two passes before one backward pass, as in contrastive training."""
    f = FAMILIES["deberta"]
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = get_peft_model(f.build(), nonlinear(task_type="SEQ_CLS")).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        found.append(gradients(model, f.batch(), passes=2))
    for name, wanted in found[0].items():
        torch.testing.assert_close(found[1][name], wanted, atol=1e-5, rtol=1e-4, msg=name)


def test_a_layer_added_to_a_model_in_evaluation_does_not_drop_out() -> None:
    model = get_peft_model(CalledTwice().eval(), nonlinear(target_modules=["lin"]))
    assert not next(m for m in model.modules() if isinstance(m, WeightLayer)).training
