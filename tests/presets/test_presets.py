"""Presets are data: complete, sourced, equal to the published tables, and each one can be built and stepped."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from torch import nn

from genft import ConfigError, GenFTConfig, published
from genft.api.method import Site
from genft.bridge.weight.gradient_probe import silent_factors
from genft.data import Task
from genft.methods import METHODS
from genft.methods.genft import GenFT
from genft.presets import Preset, list_presets, load_preset
from genft.runs.request import build_spec

PAPER, EQUATIONS = load_preset("paper"), load_preset("equations")
ROWS = [(preset, table, task) for preset in (PAPER, EQUATIONS) for table in preset.tables for task in table.tasks]
GENFT_ROWS = [row for row in ROWS if row[1].method == "genft"]
#: What the two activations of the tables are in each preset.
ACTIVATIONS = {"paper": ("act_inner", "act_outer"), "equations": ("act_row", "act_col")}


def row_name(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value, "benchmark", None) or value.name


def request(method: str, task: str, kind: str = "text", preset: Preset = PAPER, **said: Any) -> Any:
    return build_spec(Task(name=task, kind=kind, reader=""), "a-model", preset, method=method, **said)


@pytest.mark.parametrize("name", list_presets())
def test_shipped_presets_hold_only_known_names(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert preset.source
    assert set(preset.methods) | {t.method for t in preset.tables} <= set(METHODS)
    for method in preset.methods:
        request(method, "any", preset=preset)


@pytest.mark.parametrize(("preset", "table", "task"), GENFT_ROWS, ids=row_name)
def test_paper_rows_are_the_published_ones(preset: Preset, table: Any, task: str) -> None:
    """Every hyper-parameter of Tables 8, 9 and 10, and where each came from."""
    (row,) = (
        r for r in published.read("genft_hyperparameters") if (r["benchmark"], r["task"]) == (table.benchmark, task)
    )
    found = request(table.method, task, preset=preset)
    of_table = f"preset {preset.name}: GenFT, arXiv 2506.11042v1, {row['source']}"
    for key in ("w0_ratio", "shared_dim", "specific_dim", "dropout", "scaling"):
        assert found.settings[key] == (float(row[key]), of_table)
    for key in ("init_a", "init_b"):
        assert found.settings[key] == (row[key], of_table)
    for key, printed in zip(ACTIVATIONS[preset.name], ("act_row", "act_col"), strict=True):
        assert found.settings[key] == (row[printed], of_table)
    for key in ("learning_rate", "weight_decay", "epochs", "batch_size"):
        assert found.training[key] == (float(row[key]), of_table)
    assert found.training["label_smoothing"].value == float(row["label_smoothing"] or 0)
    assert found.run["seed"] == (int(row["seed"]), of_table)
    if row["warmup_epochs"]:
        assert round(found.training["warmup"].value * int(row["epochs"]), 2) == float(row["warmup_epochs"])
    note = table.tasks[task].note
    if preset is PAPER and table.benchmark == "glue" and row["note"]:
        assert note.startswith("A = B = 0, a saddle of the equations; here the generator's biases")
    else:
        assert note == row["note"]


def test_every_published_row_has_a_preset() -> None:
    published_rows = {(r["benchmark"], r["task"]) for r in published.read("genft_hyperparameters")}
    for name in ("paper", "equations"):
        assert {(t.benchmark, task) for preset, t, task in GENFT_ROWS if preset.name == name} == published_rows


def test_forms_follow_the_released_code() -> None:
    settings = [request("genft", task, preset=p).settings for p in (PAPER, EQUATIONS) for task in ("cifar100", "cola")]
    vision, text, *equations = settings
    assert [s["form"].value for s in settings] == ["official", "official", "paper", "paper"]
    assert [(s["ratio_power"].value, s["factor_bias"].value) for s in (vision, text)] == [(4, False), (1, True)]
    assert [(s["init_shared"].value) for s in (vision, text)] == ["auto", "linear"]
    assert [s["transpose_delta"].value for s in equations] == [True, False]
    assert (vision["specific_scope"].value, vision["transpose_delta"].value) == ("layer", True)
    assert (text["specific_scope"].value, text["transpose_delta"].value) == ("module", False)
    assert {s["factors"].value for s in (vision, text)} == {"independent"}
    assert {s["init_weights"].value for s in (vision, text)} == {"paper"}


@pytest.mark.parametrize(("preset", "table", "task"), GENFT_ROWS, ids=row_name)
def test_notes_name_the_rows_whose_specific_part_never_trains(preset: Preset, table: Any, task: str) -> None:
    settings = {k: v for _, values in table.row(task) for k, v in values.settings.items()}
    silent = silent_factors(GenFT(GenFTConfig(**settings)), Site("layer.query", 6, 6))
    assert silent == (["a", "b"] if "is a saddle" in table.tasks[task].note else [])


def tiny_vit() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = hf.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_labels=3,
    )
    return hf.ViTForImageClassification(config), {"pixel_values": torch.randn(4, 3, 8, 8)}


def tiny_roberta() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = hf.RobertaConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    return hf.RobertaForSequenceClassification(config), {"input_ids": torch.randint(2, 32, (4, 6))}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of ranks above 16, and of the rows with a note
@pytest.mark.parametrize(("preset", "table", "task"), ROWS, ids=row_name)
def test_every_paper_preset_builds_and_steps(preset: Preset, table: Any, task: str) -> None:
    torch.manual_seed(0)
    model, batch = tiny_roberta() if table.benchmark == "glue" else tiny_vit()
    spec = request(table.method, task, preset=preset).spec
    info = METHODS[table.method]
    following = info.recipe.settings(model, 2)  # type: ignore[arg-type]
    config = info.config(**{**following, **spec.settings}, modules_to_save=["classifier"])  # type: ignore[misc]
    model = get_peft_model(model, config).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    optimizer = torch.optim.AdamW(trained, lr=spec.training.learning_rate, weight_decay=spec.training.weight_decay)
    for _ in range(2):
        loss = nn.functional.cross_entropy(
            model(**batch).logits,
            torch.tensor([0, 1, 2, 0]),
            label_smoothing=spec.training.label_smoothing,
        )
        assert math.isfinite(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))


def test_a_method_without_a_row_takes_what_the_preset_says_in_general() -> None:
    assert request("propulsion", "mnli").settings["degree"].value == 35
    source = "preset paper, for propulsion: Propulsion, arXiv 2409.10927: the released class's default"
    value, origin = request("propulsion", "a file of one's own").settings["degree"]
    assert (value, origin.startswith(source)) == (15, True)


@pytest.mark.parametrize("method", PAPER.methods)
def test_general_values_of_papers_are_sourced_and_known(method: str) -> None:
    values = PAPER.methods[method]
    assert values.source
    assert values.settings or values.training
    spec = request(method, "any").spec
    assert {**spec.training.model_dump(), **values.training} == spec.training.model_dump()
    if METHODS[method].config and method != "adalora":  # which needs the number of steps
        assert METHODS[method].config(**spec.settings)


def test_what_the_user_says_wins_over_the_row() -> None:
    found = request("genft", "cola", settings={"shared_dim": 4}, training={"epochs": 2}, seed=1)
    assert found.settings["shared_dim"] == (4, "command line")
    assert (found.spec.training.epochs, found.spec.seed) == (2, 1)
    assert found.spec.training.batch_size == 64


def test_the_language_model_of_the_authors_code() -> None:
    found = request("genft", "any", preset=load_preset("alpaca"))
    config = METHODS["genft"].config(**found.spec.settings)
    assert (config.form, config.shared_dim, config.specific_dim, config.act_inner) == ("official", 4, 4, "gelu")
    assert (config.w0_ratio, config.scaling, config.transpose_delta, config.factor_bias) == (1.0, 1.0, False, True)
    assert (found.spec.training.learning_rate, found.spec.training.batch_size, found.spec.training.epochs) == (
        3e-4,
        128,
        3,
    )
    assert "train_llama.py" in found.settings["shared_dim"].source


def test_missing_rows_are_named() -> None:
    with pytest.raises(ConfigError, match=r"preset paper, genft: 'cifar10' has no row.*nearest: 'cifar100'"):
        request("genft", "cifar10")
    with pytest.raises(ConfigError, match=r"preset paper: 'full' is not in it; allowed: adalora, "):
        request("full", "cola")


def test_a_table_beside_a_preset_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\nsource = "me"\n')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.toml").write_text(
        'method = "genft"\nbenchmark = "b"\nmodel = "m"\nsource = "notes"\n[tasks.t]\nsettings = { shared_dim = 3 }\n'
    )
    found = request("genft", "t", preset=load_preset(str(tmp_path / "mine.toml")))
    assert found.settings["shared_dim"] == (3, "preset mine: notes")


def test_problems_in_a_table_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\nsource = "me"\n')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.toml").write_text('method = "genft"\nmodell = "m"\n[tasks.t]\nsetings = {}\n')
    with pytest.raises(ConfigError) as error:
        load_preset(str(tmp_path / "mine.toml"))
    text = str(error.value)
    assert "'benchmark' is missing" in text
    assert "unknown key 'modell'" in text
    assert "unknown key 'tasks.t.setings'" in text
