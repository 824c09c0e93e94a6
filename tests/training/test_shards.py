"""fully_shard (FSDP2) over two gloo processes on a CPU: the same losses and weights as one process has."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from genft import GenFTConfig, VectorFitConfig
from training.test_ranks import on_two

CONFIGS: dict[str, Any] = {
    "genft": lambda: GenFTConfig(task_type="SEQ_CLS", shared_dim=4),
    "nonlinear": lambda: GenFTConfig(task_type="SEQ_CLS", shared_dim=4, act_row="tanh", act_col="leaky_relu"),
    "vectorfit": lambda: VectorFitConfig(task_type="SEQ_CLS", avf_start=2, avf_interval=1, avf_events=2),
}
STEPS, EXAMPLES = 4, 8


def adapted(folder: Path, config: str) -> nn.Module:
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(folder), CONFIGS[config]()).eval()
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p.add_(0.05 * torch.randn_like(p))
    return model


def train(model: nn.Module, rank: int, ranks: int) -> list[float]:
    """A few steps on this process's share of every batch; the losses of the whole batches."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.SGD(trained, lr=0.1, momentum=0.9), []
    for number in range(STEPS):
        draw = torch.Generator().manual_seed(number)
        ids, labels = torch.randint(4, 24, (EXAMPLES, 6), generator=draw), torch.randint(2, (EXAMPLES,), generator=draw)
        mine = slice(rank * EXAMPLES // ranks, (rank + 1) * EXAMPLES // ranks)
        loss = F.cross_entropy(model(input_ids=ids[mine]).logits, labels[mine])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        if ranks > 1:
            torch.distributed.all_reduce(total)
        losses.append(total.item() / ranks)
    return losses


def _train_in_shards(folder: Path, config: str, out: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    model, mesh = adapted(folder, config), init_device_mesh("cpu", (2,))
    for layer in model.base_model.model.bert.encoder.layer:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    losses = train(model, rank, 2)
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, ignore_frozen_params=True))
    if rank == 0:
        torch.save(state, out / "state.pt")
        (out / "losses.json").write_text(json.dumps(losses))


@pytest.mark.parametrize("config", CONFIGS)
def test_two_shards_train_as_one_process(config: str, bert: Path, tmp_path: Path) -> None:
    """Losses and trained weights, the shared factors among them, whose gradients of all layers are reduced once."""
    on_two(_train_in_shards, bert, config, tmp_path)  # first: where there is a GPU, a fork after a backward pass cannot
    whole = adapted(bert, config)
    losses = train(whole, 0, 1)
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(losses, rel=1e-5)
    state = torch.load(tmp_path / "state.pt")
    expected = {name: p for name, p in whole.named_parameters() if p.requires_grad}
    assert state.keys() == expected.keys()
    for name, p in expected.items():
        torch.testing.assert_close(
            state[name], p.detach(), rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )
