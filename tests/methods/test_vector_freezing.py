"""Adaptive vector freezing: what it freezes, that nobody has to call it, and what it survives."""

from __future__ import annotations

import copy
import io
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

from families import FAMILIES
from genft import VectorFitConfig
from genft.data import task_from_path
from genft.methods.vector_freezing import HISTORY_FILE, KEY, strengths
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.store import Store
from genft.training.callbacks import Progress
from genft.training.prepared import prepare
from genft.training.run import run

BERT = FAMILIES["bert"]
#: Freezes after steps 2, 4 and 6.
EARLY: dict[str, Any] = {"avf_start": 2, "avf_interval": 2, "avf_top_k": 3, "avf_events": 3}


def adapted(**settings: Any) -> PeftModel:
    config = VectorFitConfig(task_type="SEQ_CLS", modules_to_save=["classifier"], **{**EARLY, **settings})
    torch.manual_seed(2)
    model = get_peft_model(BERT.build(), config).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def vectors(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained vectors by AVF's names for them."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    return inner.base_model.own_parameters("default")


def history(model: PeftModel) -> dict[str, Any] | None:
    freezing = model.base_model.adapters["default"].method.freezing
    return freezing.history if freezing else None


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, accumulate: int = 1) -> None:
    for _ in range(accumulate):
        (model(**BERT.batch()).loss / accumulate).backward()
    optimizer.step()
    optimizer.zero_grad()


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in vectors(model).items()}


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in vectors(model).items() if not torch.equal(p, before[name])}


def test_freezes_the_strongest_vectors_and_ranks_anew() -> None:
    model = adapted()
    optimizer = adamw(model)
    smoothed = dict.fromkeys(vectors(model), 0.0)
    frozen: list[str] = []
    for done in range(10):
        if done:
            for name, p in vectors(model).items():
                smoothed[name] = 0.99 * smoothed[name] + 0.01 * float(p.abs().mean())
        if done in (2, 4, 6):
            frozen = sorted(smoothed, key=lambda name: -smoothed[name])[:3]
        before = snapshot(model)
        step(model, optimizer)
        assert moved(model, before) == set(smoothed) - set(frozen), f"step {done + 1}"
    events = history(model)["events"]
    assert [e["step"] for e in events] == [2, 4, 6]
    assert events[-1]["frozen"] == frozen
    assert history(model)["vectors"] == list(smoothed)
    assert len(events[0]["strength"]) == len(smoothed)
    # S̃ after two steps: ranked by it, the frozen ones come first
    named = dict(zip(history(model)["vectors"], events[0]["strength"], strict=True))
    assert min(named[n] for n in events[0]["frozen"]) >= max(
        v for n, v in named.items() if n not in events[0]["frozen"]
    )


def test_frozen_means_no_momentum_and_no_decay() -> None:
    model = adapted(avf_interval=100)
    optimizer = adamw(model)
    for _ in range(3):
        step(model, optimizer)
    (event,) = history(model)["events"]
    state = {n: copy.deepcopy(optimizer.state[p]) for n, p in vectors(model).items()}
    for _ in range(3):
        step(model, optimizer)
    for name, p in vectors(model).items():
        same = torch.equal(optimizer.state[p]["exp_avg"], state[name]["exp_avg"])
        assert same == (name in event["frozen"])
        assert (optimizer.state[p]["step"] == state[name]["step"]) == (name in event["frozen"])


def test_strength_is_the_mean_absolute_offset() -> None:
    offsets = [nn.Parameter(torch.tensor([1.0, -3.0])), nn.Parameter(torch.tensor([0.0, 0.0, 6.0]))]
    assert strengths(offsets).tolist() == [2.0, 2.0]


def test_never_freezes_everything() -> None:
    model = adapted(target_modules=["0.attention.self.query"], avf_top_k=9)
    optimizer = adamw(model)
    for _ in range(4):
        step(model, optimizer)
    assert [len(e["frozen"]) for e in history(model)["events"]] == [1]


@pytest.mark.parametrize("settings", [{"avf": False}, {"avf_events": 0}])
def test_can_be_switched_off(settings: dict[str, Any]) -> None:
    model = adapted(**settings)
    optimizer = adamw(model)
    for _ in range(4):
        before = snapshot(model)
        step(model, optimizer)
        assert moved(model, before) == set(before)
    assert history(model) is None


def test_accumulated_gradients_count_as_one_step() -> None:
    model = adapted()
    optimizer = adamw(model)
    for _ in range(5):
        step(model, optimizer, accumulate=3)
    assert [e["step"] for e in history(model)["events"]] == [2, 4]


def test_survives_switching_adapters() -> None:
    def switch(model: PeftModel) -> None:
        model.add_adapter("other", VectorFitConfig(task_type="SEQ_CLS", modules_to_save=["classifier"], **EARLY))
        model.set_adapter("other")
        model.set_adapter("default")
        with model.disable_adapter():
            model(**BERT.batch())
        model.base_model.disable_adapter_layers()
        model.base_model.enable_adapter_layers()
        model.train()

    def run(interrupt: Callable[[PeftModel], None]) -> tuple[dict[str, Tensor], Any]:
        model = adapted()
        optimizer = adamw(model)
        for _ in range(3):
            step(model, optimizer)
        interrupt(model)
        for _ in range(3):
            step(model, optimizer)
        return snapshot(model), history(model)

    (plain, expected), (switched, got) = run(lambda model: None), run(switch)
    assert got == expected
    assert all(torch.equal(plain[name], switched[name]) for name in plain)


def test_state_travels_with_the_optimizer() -> None:
    """A hand-written loop that saves model and optimizer, stops and resumes, ends like an uninterrupted one."""

    def run(stop_at: int | None) -> tuple[dict[str, Tensor], Any]:
        model = adapted()
        optimizer = adamw(model)
        for n in range(8):
            if n == stop_at:
                file = io.BytesIO()
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
                file.seek(0)
                loaded = torch.load(file, weights_only=True)
                model = adapted()
                optimizer = adamw(model)
                model.load_state_dict(loaded["model"])
                optimizer.load_state_dict(loaded["optimizer"])
            step(model, optimizer)
        return snapshot(model), history(model)

    expected, events = run(None)
    for stop_at in (1, 3, 5):
        got, got_events = run(stop_at)
        assert got_events == events
        assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_an_earlier_state_dict_stays_as_it_was() -> None:
    model = adapted()
    optimizer = adamw(model)
    step(model, optimizer)
    (kept,) = optimizer.state_dict()["param_groups"][0][KEY].values()
    step(model, optimizer)
    assert kept["steps"] == 0
    (state,) = optimizer.param_groups[0][KEY].values()
    assert state["steps"] == 1


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copied_model_freezes_its_own_vectors(duplicate: Callable[[PeftModel], PeftModel]) -> None:
    original = adapted()
    model = duplicate(original)
    optimizer = adamw(model)
    before = snapshot(original)
    for _ in range(4):
        step(model, optimizer)
    assert [e["step"] for e in history(model)["events"]] == [2]
    assert history(original) is None
    assert moved(original, before) == set()


def test_closures() -> None:
    """LBFGS and Lightning compute the gradients inside the step."""
    model = adapted()
    optimizer = adamw(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(**BERT.batch()).loss
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    before = snapshot(model)
    optimizer.step(closure)
    (event,) = history(model)["events"]
    assert moved(model, before) == set(before) - set(event["frozen"])


def test_other_optimizers_do_not_count() -> None:
    model = adapted()
    optimizer, other = adamw(model), torch.optim.SGD([nn.Parameter(torch.ones(2, requires_grad=True))], lr=1.0)
    for _ in range(3):
        step(model, optimizer)
        other.step()
        other.step()
    assert [e["step"] for e in history(model)["events"]] == [2]


def test_what_is_deleted_or_merged_away_stops_nothing() -> None:
    model = adapted()
    optimizer = adamw(model)
    step(model, optimizer)
    kept = model.base_model
    model.merge_and_unload()
    optimizer.step()
    assert kept.own_parameters("default") == {}


def test_training_without_it_is_said_once_and_loudly() -> None:
    model = adapted()

    def by_hand(steps: int) -> None:
        for _ in range(steps):
            model(**BERT.batch()).loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    if p.grad is not None:
                        p -= 0.01 * p.grad
                        p.grad = None

    with pytest.warns(UserWarning, match="ADAPTIVE VECTOR FREEZING IS NOT RUNNING"):
        by_hand(5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*ADAPTIVE VECTOR FREEZING")
        by_hand(5)


def test_nothing_is_said_where_it_runs_or_where_nobody_trains() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*ADAPTIVE VECTOR FREEZING")
        model = adapted()
        optimizer = adamw(model)
        for _ in range(3):
            step(model, optimizer)
        for model in (adapted(), adapted(avf=False)):
            for _ in range(6):
                model(**BERT.batch())
            with torch.no_grad():
                next(iter(vectors(model).values())).add_(1.0)
            model(**BERT.batch())


class Examples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """As many different examples as one training run of 8 steps needs."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {
            "input_ids": torch.randint(3, 64, (9,), generator=generator),
            "attention_mask": torch.ones(9, dtype=torch.int64),
            "labels": torch.tensor(index % 2),
        }


def trainer(folder: Path, model: PeftModel, **arguments: Any) -> Trainer:
    settings = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        learning_rate=1e-2,
        weight_decay=0.1,
        save_steps=5,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        **arguments,
    )
    return Trainer(model=model, args=settings, train_dataset=Examples())


def test_under_trainer_without_a_word_and_resumed(tmp_path: Path) -> None:
    whole = adapted()
    trainer(tmp_path, whole).train()
    events = history(whole)["events"]
    assert [e["step"] for e in events] == [2, 4, 6]
    checkpoint = tmp_path / "checkpoint-5"
    assert [e["step"] for e in json.loads((checkpoint / HISTORY_FILE).read_text())["events"]] == [2, 4]

    resumed = adapted()
    trainer(tmp_path, resumed).train(resume_from_checkpoint=str(checkpoint))
    assert history(resumed) == history(whole)
    expected = snapshot(whole)
    assert moved(resumed, expected) == set()


def test_under_genft_train_and_resumed(reviews: Path, bert: Path, tmp_path: Path) -> None:
    """An interrupted and resumed run has the vectors and the history of an uninterrupted one."""
    settings = {**EARLY, "avf_interval": 4}
    training = {"epochs": 3, "batch_size": 8}
    task, preset = task_from_path(reviews), Preset(name="none", source="")
    request = build_spec(task, str(bert), preset, settings=settings, training=training, method="vectorfit")
    planned = prepare(request.spec)

    def interrupt(event: Any) -> None:
        if isinstance(event, Progress) and event.step == 8:
            raise KeyboardInterrupt

    found = []
    for name in ("whole", "parts"):
        store = Store(tmp_path / name).open()
        if name == "parts":
            with pytest.raises(KeyboardInterrupt):
                run(planned, store, interrupt)
        result = run(planned, store)
        folder = store.out / result.adapter
        found.append((load_file(folder / "adapter_model.safetensors"), json.loads((folder / HISTORY_FILE).read_text())))
        assert result.history.resumed_at == (6 if name == "parts" else 0)
    (whole, events), (parts, events_of_parts) = found
    assert [e["step"] for e in events["events"]] == [2, 6, 10]
    assert events_of_parts == events
    assert all(torch.equal(v, parts[name]) for name, v in whole.items())


def test_trainer_does_not_decay_the_vectors(tmp_path: Path) -> None:
    model = adapted()
    optimizer = trainer(tmp_path, model).create_optimizer()
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decay[id(p)] for p in vectors(model).values()} == {0.0}
    assert {decay[id(p)] for n, p in model.named_parameters() if n.endswith("default.weight")} == {0.1}


def _train_in_ddp(rank: int, rendezvous: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    model = DistributedDataParallel(adapted())
    optimizer = adamw(model)
    ids = torch.randint(3, 64, (4, 9), generator=torch.Generator().manual_seed(rank))
    for _ in range(6):
        before = snapshot(model)
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    result = {"history": history(model.module), "moved": moved(model, before), "vectors": snapshot(model)}
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_freeze_alike(tmp_path: Path) -> None:
    """Each on its own data, under DistributedDataParallel."""
    mp.start_processes(_train_in_ddp, (str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert [e["step"] for e in first["history"]["events"]] == [2, 4]
    assert first["history"] == second["history"]
    assert first["moved"] == second["moved"] == set(first["vectors"]) - set(first["history"]["events"][-1]["frozen"])
    assert all(torch.equal(v, second["vectors"][name]) for name, v in first["vectors"].items())


def test_sharded_parameters_freeze_alike(tmp_path: Path) -> None:
    """FSDP2, where the vectors are DTensors (here of one process: more take a minute to start)."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        whole, sharded = adapted(), adapted()
        mesh = init_device_mesh("cpu", (1,))
        for layer in sharded.base_model.model.bert.encoder.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        for model in (whole, sharded):
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
            for _ in range(6):
                step(model, optimizer)
        assert len(history(whole)["events"]) == 2
        assert [e["frozen"] for e in history(sharded)["events"]] == [e["frozen"] for e in history(whole)["events"]]
        for name, p in vectors(whole).items():
            torch.testing.assert_close(vectors(sharded)[name].full_tensor(), p, rtol=1e-5, atol=1e-6)
    finally:
        dist.destroy_process_group()


# ---------------------------------------------------------------- several models, optimizers and groups


def test_two_models_in_one_optimizer_freeze_each_for_itself() -> None:
    alone = adapted()
    optimizer = adamw(alone)
    for _ in range(7):
        step(alone, optimizer)
    first, second = adapted(), adapted()
    both = torch.optim.AdamW(
        [p for m in (first, second) for p in m.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1
    )
    for _ in range(7):
        (first(**BERT.batch()).loss + second(**BERT.batch()).loss).backward()
        both.step()
        both.zero_grad()
    assert [e["step"] for e in history(first)["events"]] == [2, 4, 6]
    assert history(first) == history(second) == history(alone)
    assert all(torch.equal(v, vectors(first)[name]) for name, v in vectors(alone).items())


def test_a_vector_that_the_user_freezes_keeps_its_strength() -> None:
    model = adapted()
    optimizer = adamw(model)
    for _ in range(3):
        step(model, optimizer)
    name = next(n for n in vectors(model) if n not in history(model)["events"][-1]["frozen"])
    vectors(model)[name].requires_grad_(False)
    before = snapshot(model)
    for _ in range(2):
        step(model, optimizer)
    assert torch.equal(vectors(model)[name], before[name])
    assert name not in history(model)["events"][-1]["frozen"]
    vectors(model)[name].requires_grad_(True)
    for _ in range(2):
        step(model, optimizer)
    events = history(model)["events"]
    assert [e["step"] for e in events] == [2, 4, 6]
    place = history(model)["vectors"].index(name)
    assert events[1]["strength"][place] > 0
    assert all(len(e["strength"]) == len(vectors(model)) for e in events)


def test_an_added_parameter_group_keeps_strengths_with_their_owners() -> None:
    model = adapted()
    late = {name: p for name, p in vectors(model).items() if "layer.0" in name}
    early = [p for p in model.parameters() if p.requires_grad and all(p is not q for q in late.values())]
    optimizer = torch.optim.AdamW(early, lr=1e-2)
    for _ in range(5):
        step(model, optimizer)
    first = history(model)["events"]
    optimizer.add_param_group({"params": list(late.values())})
    for _ in range(2):
        step(model, optimizer)
    events, names = history(model)["events"], history(model)["vectors"]
    assert events[:2] == first
    assert [e["step"] for e in events] == [2, 4, 6]
    assert not any("layer.0" in name for e in first for name in e["frozen"])
    strength = dict(zip(names, events[2]["strength"], strict=True))
    assert all(strength[name] < min(s for n, s in strength.items() if n not in late) for name in late)


def test_the_history_of_two_optimizers_is_one() -> None:
    model = adapted()
    split = {kind: [p for n, p in model.named_parameters() if p.requires_grad and n.endswith("sigma_bias") == kind]
             for kind in (True, False)}  # fmt: skip
    optimizers = [torch.optim.AdamW(parameters, lr=1e-2) for parameters in split.values()]
    for _ in range(7):
        model(**BERT.batch()).loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    events = history(model)["events"]
    assert [e["step"] for e in events] == [2, 4, 6]
    for event in events:  # three of each optimizer's own
        assert [name.endswith("sigma_bias") for name in event["frozen"]].count(True) == 3
        assert len(event["frozen"]) == 6
        assert min(event["strength"]) > 0


def test_a_checkpoint_of_an_earlier_version_goes_on() -> None:
    """There the state lay under the adapter's name, with strengths by position."""
    model = adapted()
    optimizer = adamw(model)
    for _ in range(3):
        step(model, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    (state,) = saved["param_groups"][0].pop(KEY).values()
    saved["param_groups"][0][KEY] = {"default": {k: v for k, v in state.items() if k != "names"}}
    twin = copy.deepcopy(model)
    resumed = adamw(twin)
    resumed.load_state_dict(saved)
    for _ in range(3):
        step(model, optimizer)
        step(twin, resumed)
    assert history(twin) == history(model)
    assert moved(twin, snapshot(model)) == set()
