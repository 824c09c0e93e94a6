"""E²VPT: importance against masks that autograd differentiates, pruning, and a run that starts again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor

from benchmark_data import save_vtab
from families import FAMILIES
from genft import METHODS, ConfigError
from genft.adapters import saved
from genft.data import load_task
from genft.methods.e2vpt import E2VPTConfig, choose
from genft.presets import Preset
from genft.runs.request import build_spec
from genft.runs.store import Store, unpack
from genft.training.callbacks import Inferred, Progress
from genft.training.prepared import PreparedRun, prepare
from genft.training.run import run


def test_importance_is_the_mean_gradient_of_the_masks() -> None:
    """ρ and ζ as tensors of ones, multiplied into the prompts of every block and differentiated by autograd."""
    f, config = FAMILIES["timm"], E2VPTConfig(prompts=4, segments=8, prune_prompts=0.5, prune_segments=0.25)
    model: Any = get_peft_model(f.build().double(), config, autocast_adapter_dtype=False).double().eval()
    prompts = [p for n, p in model.base_model.own_parameters("default").items() if n.endswith(".prompts")]
    batch = {name: value.double() if value.is_floating_point() else value for name, value in f.batch().items()}
    halves = [{name: value[rows] for name, value in batch.items()} for rows in (slice(0, 2), slice(2, 4))]

    def losses(n: int, size: int) -> Iterator[Tensor]:
        assert (n, size) == (16, 64)
        yield from (model(**half).loss for half in halves)

    found = METHODS["e2vpt"].recipe.found_after_training(model, config, losses)
    names = [n for n, _ in model.named_parameters() if n.split(".")[-1] == "prompts"]
    assert len(names) == len(prompts) == 2
    of_rho, of_zeta = torch.zeros(4).double(), torch.zeros(4, 8).double()
    for half in halves:
        rho, zeta = (torch.ones_like(total, requires_grad=True) for total in (of_rho, of_zeta))
        mask = rho[:, None] * torch.cat([zeta[:, j : j + 1].expand(4, 4) for j in range(8)], dim=1)
        masked = {name: mask * p.detach() for name, p in zip(names, prompts, strict=True)}
        loss = torch.func.functional_call(model, masked, kwargs=half).loss
        for total, gradient in zip((of_rho, of_zeta), torch.autograd.grad(loss, (rho, zeta)), strict=True):
            total += gradient.abs() / 2
    # a normalisation undoes the scale of a whole prompt; only its epsilon leaves a trace
    assert 0 < of_rho.max() < 1e-2 * of_zeta.max()
    worst = of_rho.argsort()[:2].tolist()
    for k, kept in enumerate(found["kept"]):
        lost = [] if k in worst else of_zeta[k].argsort()[:2].tolist()
        assert kept == ("0" * 8 if k in worst else "".join("0" if j in lost else "1" for j in range(8)))


def test_one_prompt_and_four_segments_are_always_kept() -> None:
    torch.manual_seed(0)
    everything = E2VPTConfig(prompts=3, prune_prompts=1.0, prune_segments=1.0)
    importance = torch.tensor([0.1, 0.3, 0.2])
    kept = choose(importance, torch.rand(3, 16), everything)
    assert [row.count("1") for row in kept] == [0, 4, 0]
    assert choose(torch.rand(1), torch.rand(1, 16), E2VPTConfig(prompts=1, prune_segments=0.0)) == ["1" * 16]


def test_what_does_not_fit_is_refused() -> None:
    for kept in (["1" * 16], ["1" * 15] * 2, ["1" * 15 + "2"] * 2, "11"):
        with pytest.raises(ConfigError, match=r"kept: received .* 2 texts of 16 digits 0 or 1"):
            E2VPTConfig(prompts=2, kept=kept)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"segments: received 5; must divide the width of .*, which is 32"):
        get_peft_model(FAMILIES["vit"].build(), E2VPTConfig(segments=5))


SETTINGS = {"prompts": 4, "key_values": 2, "prune_prompts": 0.5, "segments": 8}


def plan(root: Path, model: Path) -> PreparedRun:
    training = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "image_size": 32}
    none = Preset(name="none", source="")
    task = load_task("eurosat", root)
    return prepare(build_spec(task, str(model), none, training=training, method="e2vpt", settings=SETTINGS).spec)


def test_a_run_prunes_starts_again_and_resumes(timm_vit: Path, tmp_path: Path) -> None:
    save_vtab(tmp_path / "data" / "vtab-1k" / "eurosat", sizes=(24, 10, 12), classes=10)
    planned = plan(tmp_path / "data", timm_vit)
    told: list[Inferred] = []
    hear = lambda event: told.append(event) if isinstance(event, Inferred) else None  # noqa: E731
    whole = run(planned, store := Store(tmp_path / "whole").open(), hear)
    assert [any("kept as found in the trained model" in note for note in t.notes) for t in told] == [False, True]
    # twice 2 epochs of 24 examples in batches of 8, then the chosen epochs on 34
    assert whole.history.steps == 2 * 2 * 3 + whole.history.best_epoch * 5
    trained = saved.load(tmp_path / "whole" / whole.adapter)
    kept = trained.model.peft_config["default"].kept
    assert [row.count("1") for row in kept].count(0) == 2
    assert {row.count("1") for row in kept} == {0, 4}
    again = trained.predict(list(planned.roles.report.inputs))
    assert again.argmax(1).tolist() == unpack(whole.predictions).tolist()
    assert not store.checkpoints(planned.key).exists()

    passed = []

    def kill(event: Progress | Inferred) -> None:
        """At the second epoch of the training that starts again."""
        if isinstance(event, Progress) and event.phase == "train" and event.epoch is None and event.step == 5:
            passed.append(event)
            if len(passed) == 2:
                raise KeyboardInterrupt

    store = Store(tmp_path / "killed").open()
    with pytest.raises(KeyboardInterrupt):
        run(planned, store, kill)
    resumed = run(planned, store)
    assert resumed.history.resumed_at == 6 + 3
    assert (resumed.predictions, resumed.history.epochs) == (whole.predictions, whole.history.epochs)
