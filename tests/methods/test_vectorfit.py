"""VectorFit on models: what it trains and counts, exactness, targets, and near-tied singular values."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from families import FAMILIES
from genft import METHODS, BaseMismatchError, ConfigError, TargetError, VectorFitConfig
from genft.bridge.base_check import file_entries
from genft.ops import svd as svd_cache

BERT = FAMILIES["bert"]
FORMS: dict[str, dict[str, Any]] = {
    "auto": {},
    "factored": {"plan": "factored"},
    "materialised": {"plan": "materialised"},
    "lean": {"lean": True},
    "lean factored": {"lean": True, "plan": "factored"},
    "lean materialised": {"lean": True, "plan": "materialised"},
}
RELATIVE = [{"relative": True, **form} for form in FORMS.values()]
SIGMA, BIAS = "sigma_bias", "bias"


def adapted(family: str = "bert", **settings: Any) -> PeftModel:
    f = FAMILIES[family]
    config = VectorFitConfig(task_type=f.task_type, modules_to_save=list(f.head) or None, **settings)
    torch.manual_seed(2)
    return get_peft_model(f.build(), config).eval()


def output(model: nn.Module, family: str = "bert") -> Tensor:
    with torch.no_grad():
        return model(**FAMILIES[family].batch()).logits


def counts(model: nn.Module) -> dict[str, int]:
    found = {SIGMA: 0, BIAS: 0}
    for name, p in model.named_parameters():
        if p.requires_grad and "vectorfit_factors" in name:
            found[SIGMA if name.endswith(SIGMA) else BIAS] += p.numel()
    return found


# ---------------------------------------------------------------- what is trained


def deberta(**settings: Any) -> PeftModel:
    """DeBERTaV3-base without values; its adapter does not depend on the vocabulary."""
    shape = hf.DebertaV2Config(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        relative_attention=True,
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=256,
    )
    with torch.device("meta"):
        model = hf.DebertaV2Model(shape)
    return get_peft_model(model, VectorFitConfig(**settings))


def test_counts_of_deberta_v3_base() -> None:
    assert counts(deberta()) == {SIGMA: 55_296, BIAS: 82_944}
    assert counts(deberta(train_bias=False)) == {SIGMA: 55_296, BIAS: 0}
    assert counts(deberta(train_sigma=False)) == {SIGMA: 0, BIAS: 82_944}
    assert counts(deberta(scope="attention")) == {SIGMA: 36_864, BIAS: 36_864}
    assert counts(deberta(layers_to_transform=[0, 11])) == {SIGMA: 55_296 // 6, BIAS: 82_944 // 6}


def test_a_saved_adapter_of_deberta_v3_base_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = deberta()
    trained = {name: torch.zeros(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    # values of the right sizes, and the configuration as a real base would leave it
    adapter = model.base_model.adapters["default"]
    sites = adapter.every_site
    adapter.fingerprint = {
        site.module: {"sketch": "A" * 344, "dtype": "float32", "shape": [3072, 768], "hash": "0" * 32} for site in sites
    }
    sketches = file_entries(adapter, model, {str(site): torch.zeros(8, 8) for site in sites})
    monkeypatch.setattr("genft.bridge.base_check.file_entries", lambda *_: sketches)
    model.save_pretrained(tmp_path, state_dict=trained)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(v.numel() for name, v in stored.items() if name not in sketches) == 138_240
    assert set(sketches) <= set(stored)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 700_000


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_trains_min_o_i_and_its_bias(family: str) -> None:
    model = adapted(family)
    sites = model.base_model.adapters["default"].every_site
    assert counts(model) == {
        SIGMA: sum(min(site.out_features, site.in_features) for site in sites),
        BIAS: sum(site.out_features for site in sites if site.has_bias),
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", ["block", "attention"])
def test_default_targets(family: str, scope: str) -> None:
    """q, k, v and the output of every attention; in a block also the two (or three, where gated) weights of an MLP."""
    model = adapted(family, scope=scope)
    sites = model.base_model.adapters["default"].every_site
    mlp = {"llama": 3}.get(family, 2)
    attentions, blocks = {"t5": (6, 4)}.get(family, (2, 2))
    assert len(sites) == 4 * attentions + (mlp * blocks if scope == "block" else 0)
    assert all(re.search(r"\.\d+\.", site.module) for site in sites)
    if scope == "attention":
        assert all("att" in site.module.lower() for site in sites)


def test_models_without_layers_need_targets() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(TargetError, match=r"no linear weight is inside a list of layers of Sequential.*all-linear"):
        get_peft_model(model, VectorFitConfig())
    assert counts(get_peft_model(model, VectorFitConfig(target_modules=["0", "1"]))) == {SIGMA: 6, BIAS: 6}


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="train_sigma, train_bias: both are off"):
        VectorFitConfig(train_sigma=False, train_bias=False)
    with pytest.raises(ConfigError) as error:
        VectorFitConfig(avf_start=0, avf_beta=1.0, plan="fast", lean=True, exact=False)
    assert len(error.value.problems) == 4
    with pytest.raises(TargetError, match="train_bias: none of the adapted weights has a bias"):
        adapted("llama", train_sigma=False)
    with pytest.raises(ConfigError, match=r"lean: needs base weights in float32; .* is in torch.bfloat16"):
        get_peft_model(BERT.build().to(torch.bfloat16), VectorFitConfig(lean=True))


# ---------------------------------------------------------------- the function


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["bert", "gpt2", "timm"])
def test_every_form_starts_exactly_and_is_the_same_function(form: str, family: str) -> None:
    base = output(FAMILIES[family].build(), family)
    assert torch.equal(output(adapted(family, **FORMS[form]), family), base)
    moved = adapted(family, init_weights=False, **FORMS[form])
    torch.testing.assert_close(
        output(moved, family), output(adapted(family, init_weights=False), family), rtol=1e-3, atol=1e-4
    )
    with moved.disable_adapter():
        assert torch.equal(output(moved, family), base)


@pytest.mark.parametrize("settings", RELATIVE, ids=FORMS)
def test_relative_singular_values(settings: dict[str, Any]) -> None:
    """σ0 (1 + α) is σ0 + δ with δ = σ0 α, in every form, with the gradients that follow."""
    base = output(BERT.build())
    assert torch.equal(output(adapted(**settings)), base)
    model, plain = adapted(**settings), adapted()
    trained = dict(plain.named_parameters())
    for module in model.modules():
        if (own := getattr(module, "vectorfit_factors", None)) is not None:
            kept = module.vectorfit_constants["default"].tensors
            with torch.no_grad():
                own["default"]["sigma_bias"].normal_(std=0.2)
                name = next(n for n, p in model.named_parameters() if p is own["default"]["sigma_bias"])
                trained[name].copy_(kept["sigma"] * own["default"]["sigma_bias"])
    torch.testing.assert_close(output(model), output(plain), rtol=1e-3, atol=1e-4)
    for m in (model, plain):
        m.train()
        for module in m.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        m(**BERT.batch()).loss.backward()
    for module, path in ((m, n) for n, m in model.named_modules() if hasattr(m, "vectorfit_factors")):
        wanted = plain.get_submodule(path).vectorfit_factors["default"]["sigma_bias"].grad
        sigma = module.vectorfit_constants["default"].tensors["sigma"]
        got = module.vectorfit_factors["default"]["sigma_bias"].grad
        torch.testing.assert_close(got, sigma * wanted, rtol=1e-2, atol=1e-4)


def test_singular_values_and_biases_have_rates_of_their_own() -> None:
    config = VectorFitConfig(sigma_lr_ratio=10.0, bias_lr_ratio=0.5)
    recipe = METHODS["vectorfit"].recipe
    model = get_peft_model(FAMILIES["timm"].build(), config)
    rates = {name.rpartition(".")[2]: recipe.learning_rate(config, name)
             for name, p in model.named_parameters() if p.requires_grad}  # fmt: skip
    assert rates["sigma_bias"] == rates["q_sigma_bias"] == 10.0
    assert rates["bias"] == rates["q_bias"] == 0.5
    assert recipe.learning_rate(VectorFitConfig(), "x.sigma_bias") == 1.0


@pytest.mark.parametrize("settings", [{}, {"train_bias": False}, {"train_sigma": False}, {"lean": True}])
def test_base_biases_stay_and_merging_is_undone_exactly(settings: dict[str, Any]) -> None:
    model = adapted(init_weights=False, **settings)
    wanted, before = output(model), {n: p.clone() for n, p in model.named_parameters() if "base_layer" in n}
    model.train()
    model(**BERT.batch()).loss.backward()
    trained = [p for p in model.parameters() if p.grad is not None]
    assert not any(p.grad is not None for n, p in model.named_parameters() if "base_layer" in n)
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    model.eval()
    model.merge_adapter()
    torch.testing.assert_close(output(model), wanted, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_base_that_is_no_plain_linear_layer_keeps_its_own_gradient() -> None:
    config = VectorFitConfig(target_modules=["0"], init_weights=False, train_bias=False)
    model = get_peft_model(nn.Sequential(Doubled(6, 6)), config)
    x = torch.randn(3, 6, requires_grad=True)
    layer = model.base_model.model[0]
    w = 2 * layer.base_layer.weight + layer.get_delta_weight("default")
    (dx,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(dx, torch.ones(3, 6) @ w)


def test_bases_are_not_buffers() -> None:
    """DistributedDataParallel would broadcast them in every forward pass."""
    model = adapted()
    assert not any("vectorfit" in name for name, _ in model.named_buffers())
    assert not any("constants" in name for name in model.state_dict())
    layer = model.base_model.model.bert.encoder.layer[0].intermediate.dense
    kept = layer.vectorfit_constants["default"].tensors
    assert {name: tuple(t.shape) for name, t in kept.items()} == {"u": (48, 32), "sigma": (32,), "v": (32, 32)}
    assert {t.dtype for t in model.half() and layer.vectorfit_constants["default"].tensors.values()} == {torch.half}


def test_the_lean_form_keeps_the_smaller_basis() -> None:
    layer = adapted(lean=True).base_model.model.bert.encoder.layer[0]
    shapes = {
        name: {key: tuple(t.shape) for key, t in module.vectorfit_constants["default"].tensors.items()}
        for name, module in (("wide", layer.output.dense), ("tall", layer.intermediate.dense))
    }
    assert shapes == {"wide": {"u": (32, 32), "sigma": (32,)}, "tall": {"sigma": (32,), "v": (32, 32)}}


# ---------------------------------------------------------------- near-tied singular values

TIED = "bert.encoder.layer.0.attention.self.query"


def tied_base() -> nn.Module:
    """A base whose first query weight has two singular values that agree to 1e-9."""
    model = BERT.build()
    weight = model.get_submodule(TIED).weight
    u, sigma, vh = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    sigma[1] = sigma[0] * (1 - 1e-9)
    weight.data = ((u * sigma) @ vh).float()
    return model


def another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the decomposition finds other vectors for the two tied values, as another LAPACK may."""
    compute = svd_cache.compute

    def rotated(name: str, w0: Tensor) -> svd_cache.SVD:
        svd = compute(name, w0)
        if abs(svd.sigma[0] - svd.sigma[1]) > 1e-6 * svd.sigma[0]:
            return svd
        turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
        u, v = svd.u.clone(), svd.v.clone()
        u[:, :2], v[:, :2] = svd.u[:, :2] @ turn, svd.v[:, :2] @ turn
        torch.testing.assert_close((u * svd.sigma) @ v.T, w0, rtol=1e-4, atol=1e-5)
        return svd_cache.SVD(u, svd.sigma, v)

    monkeypatch.setattr(svd_cache, "compute", rotated)


def train_and_save(folder: Path, **settings: Any) -> Tensor:
    model = get_peft_model(tied_base(), VectorFitConfig(**settings)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(torch.linspace(-0.5, 0.5, p.numel()) if "sigma" in name else 0.1 * torch.ones_like(p))
    model.save_pretrained(folder)
    return output(model)


@pytest.mark.parametrize("settings", [{}, {"lean": True}])
def test_a_rotated_basis_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    wanted = train_and_save(tmp_path, **settings)
    assert torch.equal(output(PeftModel.from_pretrained(tied_base(), tmp_path)), wanted)
    another_machine(monkeypatch)
    for low_cpu_mem_usage in (False, True):
        with pytest.raises(BaseMismatchError, match=rf"its update of {TIED} is another matrix.*save_bases=True"):
            PeftModel.from_pretrained(tied_base(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)


def test_a_rotation_that_changes_nothing_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = get_peft_model(tied_base(), VectorFitConfig()).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.2) if p.requires_grad else None
    model.save_pretrained(tmp_path)
    another_machine(monkeypatch)
    loaded = PeftModel.from_pretrained(tied_base(), tmp_path)
    torch.testing.assert_close(output(loaded), output(model), rtol=1e-4, atol=1e-4)


def test_saved_bases_do_not_depend_on_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_and_save(tmp_path / "first")
    # the way out that the error message names: load where it was trained, and save again
    config = PeftConfig.from_pretrained(tmp_path / "first")
    config.save_bases = True
    again = PeftModel.from_pretrained(tied_base(), tmp_path / "first", config=config).eval()
    again.save_pretrained(tmp_path / "second")
    another_machine(monkeypatch)
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(tied_base(), tmp_path / "second", low_cpu_mem_usage=low_cpu_mem_usage).eval()
        assert torch.equal(output(loaded), output(again))
    stored = load_file(tmp_path / "second" / "adapter_model.safetensors")
    assert sum(".vectorfit_constants." in name for name in stored) == 3 * 12


def test_a_base_that_gets_its_values_after_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter attached on the meta device decomposes, and checks, in the first forward pass."""
    wanted = train_and_save(tmp_path)

    def load() -> PeftModel:
        real = tied_base()
        with torch.device("meta"):
            base = hf.BertForSequenceClassification(real.config)
        model = get_peft_model(base, PeftConfig.from_pretrained(tmp_path)).eval()
        modules = {name.replace(".base_layer", ""): module for name, module in base.named_modules()}
        for name, value in [*real.named_parameters(), *real.named_buffers()]:
            path, _, leaf = name.rpartition(".")
            setattr(getattr(modules[path], "base_layer", modules[path]), leaf, value)
        trained = load_file(tmp_path / "adapter_model.safetensors")
        set_peft_model_state_dict(model, trained, low_cpu_mem_usage=True)
        return model

    assert torch.equal(output(load()), wanted)
    another_machine(monkeypatch)
    with pytest.raises(BaseMismatchError, match="another matrix"):
        output(load())


def test_loading_older_values_compares_with_what_came_with_them(tmp_path: Path) -> None:
    """A sketch belongs to the file that it is in, and not to what was saved or loaded before."""
    train_and_save(tmp_path / "one")
    model = PeftModel.from_pretrained(tied_base(), tmp_path / "one", is_trainable=True)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0) if p.requires_grad else None
    model.save_pretrained(tmp_path / "two")
    model.load_adapter(str(tmp_path / "one"), "default", is_trainable=True)
    values = get_peft_model_state_dict(model)
    assert all(torch.equal(v, values[k]) for k, v in load_file(tmp_path / "one" / "adapter_model.safetensors").items())


def test_a_resume_on_another_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainer loads the values of a checkpoint without the configuration beside them."""

    def trainer() -> hf.Trainer:
        settings = hf.TrainingArguments(
            output_dir=str(tmp_path), max_steps=2, save_steps=1, report_to="none", disable_tqdm=True, use_cpu=True
        )
        model = get_peft_model(tied_base(), VectorFitConfig())
        batch = {name: t[0] for name, t in BERT.batch().items()}
        return hf.Trainer(model=model, args=settings, train_dataset=[batch] * 8)

    trainer().train()
    checkpoint = tmp_path / "checkpoint-1"
    train_and_save(tmp_path / "adapter")  # in a few steps the two tied values may move alike, which hides the rotation
    name = "adapter_model.safetensors"
    (checkpoint / name).write_bytes((tmp_path / "adapter" / name).read_bytes())
    assert trainer().train(resume_from_checkpoint=str(checkpoint)).global_step == 2
    another_machine(monkeypatch)
    with pytest.raises(BaseMismatchError, match=rf"its update of {TIED} is another matrix"):
        trainer().train(resume_from_checkpoint=str(checkpoint))


def test_an_adapter_from_another_precision(tmp_path: Path) -> None:
    """bf16 rounds W0 by more than the gaps between its singular values: other vectors, another function. The way out
    that the message names works."""
    shape = hf.BertConfig(
        hidden_size=128, intermediate_size=128, num_attention_heads=2, num_hidden_layers=1, vocab_size=8
    )
    base = hf.BertModel(shape).eval()
    ids = torch.tensor([[2, 5, 3, 7]])

    def changed(model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model(ids).last_hidden_state.float()

    plain, model = changed(base), get_peft_model(copy.deepcopy(base), VectorFitConfig())
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3) if p.requires_grad else None
    model.save_pretrained(tmp_path)
    wanted = changed(model.eval())
    with pytest.raises(BaseMismatchError) as error:
        PeftModel.from_pretrained(copy.deepcopy(base).to(torch.bfloat16), tmp_path)
    assert "on a base in float32 and this one is in bfloat16" in str(error.value)
    assert "load the base in float32, attach the adapter, and cast the model then (model.to(torch.bfloat16))" in str(
        error.value
    )
    found = changed(PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval().to(torch.bfloat16))
    assert (found - wanted).norm() < 0.02 * wanted.norm()
    assert (wanted - plain).norm() > 0.2 * wanted.norm()
