"""An adapter handed over: what plain peft, or plain transformers, loads gives the same outputs without genft."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from typer.testing import CliRunner

from families import FAMILIES, SMALL, Family, seeded, tokens
from genft import AdapterFileError, BitFitConfig, ConfigError, GenFTConfig, MergeError
from genft.adapters import merge, to_lora
from genft.adapters import saved as artifact
from genft.adapters.folder import new_folder
from genft.adapters.lora import balanced
from genft.adapters.output_change import outputs, random_batches
from genft.adapters.saved import open_adapter
from genft.cli import app
from genft.data import Task
from genft.data.preprocessing import Preprocessing
from genft.models.load import LoadedModel, head_modules
from genft.models.source import find_model

#: Runs where genft cannot be imported: loads every case and saves its outputs.
STRANGER = """
import json, sys
sys.modules["genft"] = None
import torch, transformers
from peft import PeftModel
for case in json.load(open(sys.argv[1])):
    model = getattr(transformers, case["class"]).from_pretrained(case["model"])
    if case["adapter"]:
        model = PeftModel.from_pretrained(model, case["adapter"])
    with torch.no_grad():
        torch.save(model.eval()(**torch.load(case["batch"])).logits, case["out"])
try:
    import genft
except ImportError:
    print("without genft")
"""


def roberta() -> nn.Module:
    sizes = {"intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 32}
    return hf.RobertaForSequenceClassification(hf.RobertaConfig(**SMALL, **sizes, num_labels=3))


#: bert's head is one weight; RoBERTa's is a module of two, of which peft's own conversion keeps one
CASES = {
    **FAMILIES,
    "roberta": Family(
        seeded(roberta), tokens("class"), {"target_modules": ["query", "value"]}, (), "SEQ_CLS", ("classifier",)
    ),
}


def adapted(family: Family, base: nn.Module | None = None, **settings: Any) -> PeftModel:
    """GenFT on a small model, far from its start, its head changed too."""
    torch.manual_seed(0)
    config = {"init_weights": False, "shared_dim": 5, "specific_dim": 2, "scaling": 0.2} | settings
    config = GenFTConfig(form="paper", **family.queries_values, task_type=family.task_type, **config)
    config.modules_to_save = list(family.head) or None
    model = get_peft_model(base or family.build(), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter += torch.randn_like(parameter)
    return model


def inputs_of(family: Family) -> dict[str, Tensor]:
    batch = family.batch()
    labels = batch.pop("labels")
    return batch | ({"decoder_input_ids": labels[:, :3]} if family.task_type == "SEQ_2_SEQ_LM" else {})


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


@dataclass
class HandedOver:
    """One model with its adapter on disk, as LoRA and merged, and what a stranger made of both."""

    base: Path
    adapter: Path
    expected: Tensor
    from_lora: Tensor
    from_merged: Tensor
    lora: Path
    reports: dict[str, Any]


def command(*args: object) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in args] + ["--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def handed_over(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HandedOver]:
    root = tmp_path_factory.mktemp("export")
    made, jobs = {}, []
    for name, family in CASES.items():
        place = root / name
        family.build().save_pretrained(place / "base")
        base = type(family.build()).from_pretrained(place / "base")
        model, batch = adapted(family, base), inputs_of(family)
        model.save_pretrained(place / "adapter")
        torch.save(batch, place / "batch.pt")
        labels = ["--num-labels", 3] if name == "roberta" else []
        reports = {
            "lora": command("to-lora", place / "adapter", "--out", place / "lora", *labels),
            "merged": command("merge", place / "adapter", "--out", place / "merged", *labels),
        }
        for kind, at, adapter in (("lora", "base", place / "lora"), ("merged", "merged", "")):
            jobs.append(
                {
                    "class": type(base).__name__,
                    "model": str(place / at),
                    "adapter": str(adapter),
                    "batch": str(place / "batch.pt"),
                    "out": str(place / f"{kind}.pt"),
                }
            )
        made[name] = (place, logits(model, batch), reports)
    (root / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(root / "jobs.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip().endswith("without genft"), done.stderr
    assert "missing" not in done.stderr.lower(), done.stderr
    return {
        name: HandedOver(
            place / "base",
            place / "adapter",
            expected,
            torch.load(place / "lora.pt"),
            torch.load(place / "merged.pt"),
            place / "lora",
            reports,
        )
        for name, (place, expected, reports) in made.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_exact_lora_means_the_same_to_peft_alone(handed_over: dict[str, HandedOver], name: str) -> None:
    case = handed_over[name]
    assert case.reports["lora"]["exact"]
    assert max(layer["error"] for layer in case.reports["lora"]["layers"]) < 2e-6
    torch.testing.assert_close(case.from_lora, case.expected, atol=2e-5, rtol=1e-4)
    assert case.reports["lora"]["change"]["relative"] < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_merged_folder_means_the_same_to_transformers_alone(handed_over: dict[str, HandedOver], name: str) -> None:
    case = handed_over[name]
    torch.testing.assert_close(case.from_merged, case.expected, atol=2e-5, rtol=1e-4)
    assert case.reports["merged"]["change"]["relative"] < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_the_update_matters_in_these_cases(handed_over: dict[str, HandedOver], name: str) -> None:
    """So that the tests above could fail."""
    case = handed_over[name]
    base = logits(type(CASES[name].build()).from_pretrained(case.base), inputs_of(CASES[name]))
    assert (case.expected - base).abs().max() > 1e-2


def test_rank_is_that_of_the_construction(handed_over: dict[str, HandedOver]) -> None:
    """a + b for a whole weight; slices of one weight share a, so q and v of it have a + 2 b."""
    assert {layer["rank"] for layer in handed_over["llama"].reports["lora"]["layers"]} == {5 + 2}
    assert {layer["rank"] for layer in handed_over["gpt2"].reports["lora"]["layers"]} == {5 + 2 * 2}
    assert {layer["rank"] for layer in handed_over["timm"].reports["lora"]["layers"]} == {5 + 2 * 2}


def test_rows_outside_of_slices_stay_zero(handed_over: dict[str, HandedOver]) -> None:
    from safetensors.torch import load_file

    tensors = load_file(handed_over["timm"].lora / "adapter_model.safetensors")
    keys = [k for k in tensors if "qkv.lora_B" in k]
    assert len(keys) == 2
    for key in keys:
        q, k, v = tensors[key].chunk(3)
        assert torch.count_nonzero(k) == 0
        assert torch.count_nonzero(q) > 0
        assert torch.count_nonzero(v) > 0
    (note,) = handed_over["timm"].reports["lora"]["notes"]
    assert "zero in its rows outside of q, v" in note


def test_config_says_what_a_server_reads(handed_over: dict[str, HandedOver]) -> None:
    gpt2 = json.loads((handed_over["gpt2"].lora / "adapter_config.json").read_text())
    assert (gpt2["peft_type"], gpt2["task_type"]) == ("LORA", "CAUSAL_LM")
    assert gpt2["target_modules"] == ["c_attn"]
    assert gpt2["r"] == gpt2["lora_alpha"] == 9
    assert gpt2["fan_in_fan_out"] is True
    assert gpt2["base_model_name_or_path"] == str(handed_over["gpt2"].base)
    vit = json.loads((handed_over["vit"].lora / "adapter_config.json").read_text())
    assert vit["auto_mapping"]["base_model_class"] == "ViTForImageClassification"
    assert vit["modules_to_save"] == ["classifier"]
    bert = json.loads((handed_over["bert"].lora / "adapter_config.json").read_text())
    assert sorted(bert["modules_to_save"]) == ["classifier", "score"]


# ---------------------------------------------------------------- approximations


@pytest.mark.parametrize("name", ["bert", "gpt2", "timm"])
def test_full_rank_reproduces_a_nonlinear_update(name: str, tmp_path: Path) -> None:
    family = CASES[name]
    model, batch = adapted(family, act_row="gelu", act_col="tanh"), inputs_of(family)
    expected = logits(model, batch)
    lora = to_lora(model, rank=32)
    assert not lora.exact
    lora.save(tmp_path)
    again = PeftModel.from_pretrained(family.build(), str(tmp_path))
    torch.testing.assert_close(logits(again, batch), expected, atol=2e-5, rtol=1e-4)


def test_errors_fall_with_the_rank_and_are_the_best_possible() -> None:
    model = adapted(CASES["bert"], act_row="gelu", act_col="tanh")
    few, more = to_lora(model, rank=2), to_lora(model, rank=6)
    for a, b in zip(few.layers, more.layers, strict=True):
        assert 1 > a.error > b.error > 0
    path = few.layers[0].module
    singular = torch.linalg.svdvals(model.get_base_model().get_submodule(path).get_delta_weight("default").detach())
    best = float((singular[2:] ** 2).sum().sqrt() / singular.norm())
    assert few.layers[0].error == pytest.approx(best, rel=1e-3)


def test_energy_gives_each_weight_its_rank(tmp_path: Path) -> None:
    family = CASES["bert"]
    model, batch = adapted(family, act_row="gelu", act_col="tanh"), inputs_of(family)
    with torch.no_grad():  # one update much simpler than the others
        for parameter in model.get_base_model().bert.encoder.layer[0].attention.self.query.parameters():
            parameter.mul_(20 if parameter.requires_grad else 1)
    lora = to_lora(model, energy=0.9)
    ranks = {layer.module: layer.rank for layer in lora.layers}
    assert len(set(ranks.values())) > 1
    assert all(layer.error <= (1 - 0.9) ** 0.5 + 1e-4 for layer in lora.layers)
    assert lora.config.rank_pattern == {path: rank for path, rank in ranks.items() if rank != lora.config.r}
    assert lora.config.alpha_pattern == lora.config.rank_pattern

    lora.save(tmp_path)
    again = PeftModel.from_pretrained(family.build(), str(tmp_path))
    base = family.build()
    head = model.get_base_model().classifier.modules_to_save["default"].state_dict()
    base.classifier.load_state_dict(head)
    for path in ranks:
        a, b = (lora.tensors[f"base_model.model.{path}.lora_{x}.weight"] for x in "AB")
        base.get_submodule(path).weight.data += b @ a
    torch.testing.assert_close(logits(again, batch), logits(base, batch), atol=2e-5, rtol=1e-4)


def test_automatic_rank_of_a_nonlinear_update_keeps_99_percent() -> None:
    lora = to_lora(adapted(CASES["bert"], act_row="gelu", act_col="gelu"))
    assert not lora.exact
    assert all(layer.error <= 0.1 + 1e-4 for layer in lora.layers)


def test_rank_below_the_constructed_one_approximates() -> None:
    model = adapted(CASES["llama"])
    assert to_lora(model, rank=7).exact
    cut = to_lora(model, rank=3)
    assert not cut.exact
    assert {layer.rank for layer in cut.layers} == {3}
    assert all(layer.error > 1e-3 for layer in cut.layers)


def test_an_untrained_update_becomes_zero() -> None:
    lora = to_lora(adapted(CASES["bert"], init_weights=True))
    assert lora.exact
    assert {(layer.rank, layer.error) for layer in lora.layers} == {(1, 0.0)}


def test_balanced_drops_only_what_is_not_there() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(12, 4), torch.randn(9, 4)
    a, b = balanced(torch.cat([left, left], dim=1), torch.cat([right, right], dim=1))
    assert a.shape == (4, 9)
    torch.testing.assert_close(b @ a, 2 * left @ right.T)
    torch.testing.assert_close(a.norm(), b.norm())


def test_only_the_adapted_modules_are_named() -> None:
    """The leaf name alone would also catch the second layer."""
    lora = to_lora(adapted(CASES["bert"], layers_to_transform=[0]))
    assert lora.config.target_modules == {f"bert.encoder.layer.0.attention.self.{leaf}" for leaf in ("query", "value")}


def test_half_precision_factors_stay_half() -> None:
    model = adapted(CASES["llama"]).to(torch.bfloat16)
    lora = to_lora(model)
    assert {t.dtype for t in lora.tensors.values()} == {torch.bfloat16}
    assert max(layer.error for layer in lora.layers) < 2e-2


# ---------------------------------------------------------------- what cannot be handed over


def test_biases_cannot_become_lora() -> None:
    model = get_peft_model(CASES["bert"].build(), BitFitConfig(task_type="SEQ_CLS"))
    with pytest.raises(ConfigError, match=r"changes biases .* which a LoRA adapter cannot hold; merge it instead"):
        to_lora(model)


def test_a_block_method_can_be_neither() -> None:
    from genft.methods.adaptformer import AdaptFormerConfig

    model = get_peft_model(CASES["bert"].build(), AdaptFormerConfig(task_type="SEQ_CLS"))
    with pytest.raises(ConfigError, match=r"to-lora: it computes a nonlinear function alongside .* keep it attached"):
        to_lora(model)
    with pytest.raises(MergeError, match=r"merge: .* keep it attached"):
        merge(model)


def test_multihead_attention_is_refused() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
    model = get_peft_model(nn.TransformerEncoder(layer, 1), GenFTConfig(target_modules=["self_attn"]))
    with pytest.raises(ConfigError, match=r"nn\.MultiheadAttention, where peft's LoRA is bypassed"):
        to_lora(model)


def test_what_peft_cannot_convert_is_said_in_a_sentence() -> None:
    from peft import IA3Config

    model = get_peft_model(CASES["bert"].build(), IA3Config(task_type="SEQ_CLS"))
    with pytest.raises(ConfigError, match=r"to-lora: peft cannot convert Linear \(bert"):
        to_lora(model)


def test_peft_methods_can_be_converted_too() -> None:
    model = get_peft_model(CASES["bert"].build(), LoraConfig(task_type="SEQ_CLS", init_lora_weights=False))
    with pytest.warns(UserWarning, match="already a LoRA adapter"):
        lora = to_lora(model, rank=4)
    assert {layer.rank for layer in lora.layers} == {4}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"rank": 0}, r"rank: received 0; allowed: 1 to 32, the smaller side of bert"),
        ({"rank": 33}, r"rank: received 33; allowed: 1 to 32"),
        ({"energy": 1.5}, r"energy: received 1.5; allowed: 0 < energy <= 1"),
        ({"rank": 2, "energy": 0.5}, r"rank, energy: give one of them"),
    ],
)
def test_impossible_ranks_are_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_lora(adapted(CASES["bert"], act_row="gelu"), **said)


def test_a_merged_bias_that_the_class_lacks_is_refused() -> None:
    """Llama's q_proj has no bias: a merged one would be lost on loading."""
    model = adapted(CASES["llama"])
    layer = model.get_base_model().model.layers[0].self_attn.q_proj.get_base_layer()
    layer.bias = nn.Parameter(torch.ones(layer.out_features))
    with pytest.raises(MergeError, match=r"q_proj.bias is a tensor that LlamaForCausalLM does not have"):
        merge(model)


# ---------------------------------------------------------------- folders and commands


def test_existing_folders_are_left_alone(handed_over: dict[str, HandedOver], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for name in ("merge", "to-lora"):
        result = CliRunner().invoke(app, [name, str(handed_over["llama"].adapter), "--out", str(tmp_path)])
        assert result.exit_code == 2
        assert "not an empty folder" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"

    def interrupted() -> None:
        with new_folder(out) as folder:
            (folder / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(out.parent.iterdir()) == []
    with new_folder(out) as folder:
        (folder / "whole").write_text("whole")
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    assert (out / "whole").is_file()


def test_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"), new_folder(tmp_path / "file" / "out"):
        pass


def test_label_count_is_asked_for(handed_over: dict[str, HandedOver], tmp_path: Path) -> None:
    """peft does not save how many outputs a head has; a base with another number of them must not be guessed."""
    base = str(tmp_path / "base")
    hf.RobertaForSequenceClassification.from_pretrained(
        handed_over["roberta"].base, num_labels=5, ignore_mismatched_sizes=True
    ).save_pretrained(base)
    with pytest.raises(AdapterFileError, match="pass --num-labels, the number of outputs of its head"):
        open_adapter(handed_over["roberta"].adapter, base)
    opened = open_adapter(handed_over["roberta"].adapter, base, 3)
    torch.testing.assert_close(logits(opened.model, inputs_of(CASES["roberta"])), handed_over["roberta"].expected)


def test_not_an_adapter_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match="is not a folder with a saved adapter"):
        open_adapter(tmp_path)


def test_an_adapter_that_genft_trained(tmp_path: Path) -> None:
    """With its own record of the task: labels, images read as in training, `genft predict` on the LoRA form."""
    from PIL import Image

    family = CASES["vit"]
    family.build().save_pretrained(tmp_path / "base")
    base = hf.ViTForImageClassification.from_pretrained(tmp_path / "base", id2label={0: "cat", 1: "dog"})
    preprocessing = Preprocessing(kind="image", image_size=32, mean=(0.5, 0.4, 0.3), interpolation="bicubic")
    source = find_model(str(tmp_path / "base"))
    loaded = LoadedModel(source, base, None, preprocessing, head_modules(base))
    task = Task(name="pets", kind="image", reader="", classes=("cat", "dog"))
    adapter = tmp_path / "adapter"
    artifact.save(adapter, adapted(family, base), loaded, task, "genft", "holdout", 0.5)
    (tmp_path / "images").mkdir()
    for i in range(3):
        noise = torch.randint(256, (40, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(noise.numpy()).save(tmp_path / "images" / f"{i}.png")

    lora = command("to-lora", adapter, "--out", tmp_path / "lora", "--input", tmp_path / "images")
    assert lora["exact"]
    assert lora["change"]["relative"] < 1e-5
    assert lora["change"]["inputs"].startswith("the 3 inputs")
    before, after = (
        command("predict", folder, "--input", tmp_path / "images") for folder in (adapter, tmp_path / "lora")
    )
    for a, b in zip(before, after, strict=True):
        assert (a["predicted"], a["probability"]) == (b["predicted"], pytest.approx(b["probability"], abs=1e-5))

    command("merge", adapter, "--out", tmp_path / "merged")
    merged = hf.AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == {0: "cat", 1: "dog"}
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path / "merged")
    image = Image.open(tmp_path / "images" / "0.png")
    probability = logits(merged, processor(image, return_tensors="pt")).softmax(-1).max()
    assert float(probability) == pytest.approx(before[0]["probability"], abs=2e-3)


@pytest.mark.parametrize("name", ["t5", "vit", "gpt2"])
def test_random_inputs_fit_the_model(name: str) -> None:
    model = CASES[name].build()
    first, second = (outputs(model, random_batches(model)) for _ in range(2))
    assert first.isfinite().all()
    assert torch.equal(first, second)
