"""peft's own methods under genft's names × model families: what genft relies on, not what peft tests itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.pytorch_utils import Conv1D

from families import FAMILIES, Family
from genft import METHODS, ConfigError, TargetError, get_method
from genft.adapters import saved as artifact
from genft.data.preprocessing import Preprocessing
from genft.methods.peft_recipes import AllocateRanks, VBLora
from genft.models.load import LoadedModel
from genft.models.prefixes import accept_prefix
from genft.training.attach import attach, changes_base, make_config

PEFT = [name for name, info in METHODS.items() if info.family == "peft"]
PROMPTS = [name for name in PEFT if METHODS[name].kinds == ("text",)]
CHECKED = ("bert", "deberta", "llama", "gpt2", "t5", "vit", "dinov2", "timm")
#: Settings for weights of 32 by 32 and texts of nine tokens.
SMALL: dict[str, dict[str, Any]] = {
    "fourierft": {"n_frequency": 100, "scaling": 10.0},
    "vera": {"r": 16},
    "hira": {"r": 4},
    **{name: {"num_virtual_tokens": 4} for name in PROMPTS},
}
#: At the start the model is the pretrained one: exactly, up to rounding (W0 is taken apart), or not at all.
ROUNDED = {"dora", "pissa", "hira"}
MOVES_AT_ONCE = {"fourierft", "vblora", *PROMPTS}


def exists(name: str, family: str) -> bool:
    """Whether peft has the method for the family; asked of the family's model, not of its name."""
    model = FAMILIES[family].build()
    if name == "peanut" and any(isinstance(m, Conv1D) for m in model.modules()):
        return False
    if name not in PROMPTS:
        return True
    if kind_of(FAMILIES[family]) == "image" or model.config.is_encoder_decoder:
        return False  # with an encoder and a decoder, the prompt is the decoder's: not what genft trains
    return name != "prefix_tuning" or accept_prefix(model)


def pairs(names: list[str]) -> Any:
    existing = [(name, family) for name in names for family in CHECKED if exists(name, family)]
    return pytest.mark.parametrize(("name", "family"), existing)


def kind_of(family: Family) -> str:
    return "image" if "pixel_values" in family.batch() else "text"


def base_for(name: str, family: Family) -> nn.Module:
    model = family.build()
    assert name != "prefix_tuning" or accept_prefix(model)
    return model


def adapted(name: str, family: Family) -> PeftModel:
    info, model = METHODS[name], base_for(name, family)
    settings = {**info.defaults, **info.recipe.settings(model, 20), **SMALL.get(name, {})}
    batch = family.batch()
    config = make_config(info, settings, model, "SEQ_CLS" if kind_of(family) == "text" else None)
    config.task_type = family.task_type
    if not config.is_prompt_learning:
        config.modules_to_save = list(family.head) or None
    torch.manual_seed(1)
    info.recipe.prepare(model, config, lambda n: [{k: v[i : i + 1] for k, v in batch.items()} for i in range(4)])
    return get_peft_model(model, config).eval()


def output(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def loss_of(model: nn.Module, batch: dict[str, Tensor]) -> float:
    with torch.no_grad():
        return model(**batch).loss.item()


def train(model: nn.Module, batch: dict[str, Tensor], steps: int = 8) -> None:
    model.train()
    torch.manual_seed(3)
    optimizer = torch.optim.AdamW(trained(model).values(), lr=5e-3, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pairs(PEFT)
def test_starts_trains_its_own_saves_and_loads(name: str, family: str, tmp_path: Any) -> None:
    f = FAMILIES[family]
    batch, base = f.batch(), f.build()
    wanted, model = output(base, f.batch()), adapted(name, f)
    start = output(model, batch)
    if name in MOVES_AT_ONCE:
        assert not torch.equal(start, wanted)
    else:
        torch.testing.assert_close(start, wanted, atol=2e-5, rtol=1e-4)
        assert torch.equal(start, wanted) or name in ROUNDED or name == "corda"

    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    loss = loss_of(model, batch)
    train(model, batch)
    assert loss_of(model, batch) < loss
    names = trained(model)
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert moved <= names.keys()
    assert any("modules_to_save" not in key for key in moved)

    if changes_base(model.active_peft_config):
        return  # what is saved then is checked by runs, in tests/training
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    # peft's AdaLoRA computes a loss only where it is trainable
    loaded = PeftModel.from_pretrained(base_for(name, f), tmp_path, is_trainable=name == "adalora").eval()
    torch.testing.assert_close(output(loaded, batch), output(model, batch), atol=1e-6, rtol=1e-5)
    if name not in PROMPTS:  # peft cannot disable the prompt of a model that does not generate
        with model.disable_adapter():
            assert torch.equal(output(model, batch), wanted)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in PEFT if METHODS[name].mergeable])
def test_what_is_listed_as_mergeable_merges(name: str) -> None:
    f = replace(FAMILIES["bert"], head=())
    model, batch = adapted(name, f), f.batch()
    train(model, batch, steps=2)
    wanted = output(model, batch)
    torch.testing.assert_close(output(model.merge_and_unload(), batch), wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_for_texts(name: str) -> None:
    METHODS[name].check_kind("text")
    with pytest.raises(ConfigError, match=f"method: '{name}' works on text, and this task has images"):
        METHODS[name].check_kind("image")


# -------------------------------------------------------------------- peft:NAME


def test_any_other_method_of_peft_has_a_name() -> None:
    info = get_method("peft:RANDLORA")
    assert (info.family, info.origin, info.mergeable) == ("peft", "peft", True)
    assert get_method("peft:CPT").kinds == ("text",)
    with pytest.raises(ConfigError, match=r"method: 'peft:RANDLOR' is not known; .*nearest: 'peft:RANDLORA'"):
        get_method("peft:RANDLOR")
    with pytest.raises(ConfigError, match="method: 'peft:GENFT' is not known"):
        get_method("peft:GENFT")


# -------------------------------------------------------------------- recipes


def loaded(family: str, longest: int = 8) -> LoadedModel:
    model = FAMILIES[family].build()
    preprocessing = Preprocessing(kind="text", max_length=longest)
    return LoadedModel(None, model, None, preprocessing, ("classifier",), task_type="SEQ_CLS")


def no_examples(n: int) -> list[dict[str, Tensor]]:
    return []


def test_loraplus_trains_b_faster_and_saves_plain_lora() -> None:
    info = METHODS["loraplus"]
    config = info.config(loraplus_lr_ratio=4.0)
    assert info.recipe.learning_rate(config, "layer.lora_B.default.weight") == 4.0
    assert info.recipe.learning_rate(config, "layer.lora_A.default.weight") == 1.0
    assert "loraplus_lr_ratio" not in config.to_dict()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"rank_pattern": {"query": 2}, "alpha_pattern": {"query": 3}}]
)
def test_pissa_is_saved_as_lora_of_the_unchanged_model(settings: dict[str, Any], tmp_path: Path) -> None:
    f = FAMILIES["bert"]
    model = attach(loaded("bert"), METHODS["pissa"], {"init_lora_weights": "pissa", "r": 4, **settings}, no_examples)
    train(model, f.batch())
    artifact.save_adapter(tmp_path, model)
    again = PeftModel.from_pretrained(f.build(), tmp_path).eval()
    torch.testing.assert_close(output(again, f.batch()), output(model, f.batch()), atol=2e-5, rtol=1e-4)
    with again.disable_adapter():
        assert torch.equal(output(again, f.batch()), output(f.build(), f.batch()))


def test_adalora_prunes_to_its_budget_and_keeps_it() -> None:
    """Under the callback the ranks left are the target's, and every pruned singular value stays zero."""
    f = FAMILIES["bert"]
    model, batch = adapted("adalora", f), f.batch()
    callback = AllocateRanks(model)
    state, control, args = TrainerState(), TrainerControl(), TrainingArguments(report_to="none")
    optimizer = torch.optim.AdamW(trained(model).values(), lr=1e-2)

    def ranks() -> int:
        return sum(int((p != 0).sum()) for name, p in model.named_parameters() if "lora_E" in name)

    callback.on_train_begin(args, state, control, optimizer=optimizer)
    left = []
    for step in range(20):
        state.global_step = step
        model(**batch).loss.backward()
        optimizer.step()
        callback.on_optimizer_step(args, state, control, optimizer=optimizer)
        optimizer.zero_grad()
        left.append(ranks())
    config = model.active_peft_config
    assert (config.tinit, config.tfinal, config.total_step) == (2, 9, 20)
    assert left[0] == 4 * config.init_r
    assert left[-1] == 4 * config.target_r
    assert left[11:] == left[-1:] * 9
    assert left == sorted(left, reverse=True)
    assert config.rank_pattern is None


def test_adalora_refuses_a_budget_that_is_none() -> None:
    with pytest.raises(ConfigError, match="init_r: received 8; allowed: more than target_r, which is 8"):
        METHODS["adalora"].recipe.prepare(nn.Module(), METHODS["adalora"].config(init_r=8, total_step=9), lambda n: [])


def test_corda_takes_its_directions_from_the_data() -> None:
    """ipm: B A is the projection of W0 on the leading directions of W0 C, for C the covariance of the inputs."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 5, bias=False)).double()
    base[0].weight.data = base[0].weight.data.float()
    w0, x = base[0].weight.detach().clone().double(), torch.randn(64, 6)
    info = METHODS["corda"]
    config = info.config(r=2, lora_alpha=2, target_modules=["0"], calibration_examples=64)
    base.float()
    info.recipe.prepare(base, config, lambda n: ({"input": row[None, None]} for row in x[:n]))
    model = get_peft_model(base, config)
    scaled = x.double() / x.double().amax(dim=1, keepdim=True).abs()
    c = scaled.T @ scaled / 64
    c += 0.01 * c.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(w0 @ c, full_matrices=False)
    wanted = u[:, :2] * s[:2] @ vh[:2] @ torch.linalg.inv(c)
    layer = model.base_model.model[0]
    found = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(layer.get_base_layer().weight.double(), w0 - wanted, atol=1e-4, rtol=1e-3)


def test_corda_names_its_methods() -> None:
    with pytest.raises(ConfigError, match="corda_method: received 'svd'; allowed: ipm, kpm"):
        METHODS["corda"].config(corda_method="svd")


def test_vectors_of_vblora_divide_every_weight() -> None:
    assert VBLora().settings(FAMILIES["bert"].build(), 1) == {"vector_length": 16}  # of 32 and 48


@pytest.mark.parametrize(("family", "keys_values", "mlp"), [("vit", "k_proj", "fc2"), ("timm", "qkv", "fc2")])
def test_ia3_finds_keys_values_and_mlp_where_peft_has_no_table(family: str, keys_values: str, mlp: str) -> None:
    found = METHODS["ia3"].recipe.settings(FAMILIES[family].build(), 1)
    assert keys_values in found["target_modules"]
    assert found["feedforward_modules"] == [mlp]


def test_what_cannot_be_done_is_one_sentence() -> None:
    with pytest.raises(
        ConfigError,
        match=r"prefix_tuning: Deberta\w+ takes no past keys and values, .*; choose another method, .*: bert, roberta",
    ):
        attach(loaded("deberta"), METHODS["prefix_tuning"], {"num_virtual_tokens": 4}, no_examples)
    with pytest.raises(
        ConfigError,
        match=r"max_length: received 32; in addition to the 8 virtual tokens .* 24; use",
    ):
        attach(loaded("bert", 32), METHODS["prompt_tuning"], {"num_virtual_tokens": 8}, no_examples)
    with pytest.raises(
        TargetError, match=r"peft:ADAPTION_PROMPT: cannot be attached to Bert.*: Unsupported model type"
    ):
        attach(loaded("bert"), get_method("peft:ADAPTION_PROMPT"), {}, no_examples)
    with pytest.raises(ConfigError, match="use_dora: cannot be combined with init_lora_weights='pissa'"):
        attach(loaded("bert"), METHODS["pissa"], {"init_lora_weights": "pissa", "use_dora": True}, no_examples)
    fresh = replace(loaded("bert"), fresh=("bert.pooler",))
    with pytest.raises(ConfigError, match=r"p_tuning: bert\.pooler is not in the checkpoint, .*; choose another model"):
        attach(fresh, METHODS["p_tuning"], {"num_virtual_tokens": 4}, no_examples)


def test_peanut_is_the_equation() -> None:
    """ΔW = (f(W0ᵀ A) B)ᵀ · scaling, without layers in between (arXiv 2410.01870, Eq. 2, in peft's orientation)."""
    config = METHODS["peanut"].config(target_modules=["0"], r=3, scaling=2.0, init_weights=False)  # type: ignore[misc]
    model = get_peft_model(nn.Sequential(nn.Linear(5, 4)), config).double()
    layer: Any = model.base_model.model[0]
    a, b = layer.peanut_A["default"].weight.T, layer.peanut_B["default"].weight.T
    wanted = 2.0 * (torch.relu(layer.base_layer.weight.T @ a) @ b).T
    torch.testing.assert_close(layer.get_delta_weight("default"), wanted)
    x = torch.randn(2, 5, dtype=torch.float64)
    torch.testing.assert_close(model(x), layer.base_layer(x) + x @ wanted.T)
