"""Threads that share a model in evaluation get what one thread alone gets."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from families import FAMILIES, Family
from genft import METHODS
from genft.bridge.block.layer import BlockLayer
from genft.bridge.forward_pass import ForwardPass

BERT, VIT = FAMILIES["bert"], FAMILIES["vit"]
CASES: dict[str, tuple[Family, dict[str, Any]]] = {
    "adaptformer": (BERT, {}),
    "mam": (BERT, {"prefix_length": 4, "prefix_hidden": 16}),
    "propetl_prefix": (BERT, {"prefix_length": 4, "prefix_hidden": 16, "keep": 0.5}),
    "houlsby": (BERT, {}),
    "vpt_deep": (VIT, {"prompts": 4}),
    "genft": (BERT, {"shared_dim": 4, "act_row": "tanh"}),
    "vectorfit": (BERT, {"avf": False}),
}
THREADS, PASSES = 4, 60


@torch.no_grad()
def output(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).logits


@pytest.mark.parametrize("name", CASES)
def test_threads_do_not_meet(name: str) -> None:
    family, settings = CASES[name]
    model = get_peft_model(family.build(), METHODS[name].config(init_weights=False, **settings)).eval()
    whole = {key: value for key, value in family.batch().items() if key != "labels"}
    batches = [{key: torch.roll(value, n, 0)[: 1 + n % 2] for key, value in whole.items()} for n in range(THREADS)]
    wanted = [output(model, batch) for batch in batches]

    def wrong(number: int) -> int:
        torch.set_num_threads(1)
        return sum(not torch.equal(output(model, batches[number]), wanted[number]) for _ in range(PASSES))

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(wrong, range(THREADS))) == 0


def test_a_thread_that_fails_inside_a_block_leaves_nothing_behind() -> None:
    model = get_peft_model(BERT.build(), METHODS["mam"].config(prefix_length=4, prefix_hidden=16)).eval()
    batch = BERT.batch()
    wanted = output(model, batch)
    layer = next(module for module in model.modules() if isinstance(module, BlockLayer))
    handle = layer.get_base_layer().intermediate.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        output(model, batch)
    handle.remove()
    assert torch.equal(output(model, batch), wanted)


def test_a_pass_is_a_thread_s_own() -> None:
    seen = ForwardPass()
    seen.begin()
    first = seen.number
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: seen.running).result() is False
        assert pool.submit(lambda: seen.begin() or seen.number).result() not in (0, first)
    assert seen.running
    assert seen.number == first
    for twin in (copy.deepcopy(seen), pickle.loads(pickle.dumps(seen))):
        assert not twin.running
