"""Adapters in the layout of the authors' code, written by our transcription, become ours exactly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from genft import AdapterFileError, ConfigError, GenFTConfig
from genft.adapters.official import import_official
from genft.adapters.saved import open_adapter
from genft.cli import app
from genft.methods.genft_config import is_official, what_it_is
from official_genft import Generator, specific_product

D, SHARED_DIM, SPECIFIC = 16, 3, 2
CONFIG: dict[str, Any] = {
    "peft_type": "GENFT", "task_type": "SEQ_CLS", "generator_share_dim": SHARED_DIM, "individual_features": SPECIFIC,
    "individual_init_a": "kaiming_uniform", "individual_init_b": "zero", "ratio_W0": 0.5, "scaling": 0.7, "drop": 0.1,
    "inner_activation": "leakyrelu", "outer_activation": "tanh", "bias": "none", "fan_in_fan_out": False,
    "target_modules": ["query", "value"], "modules_to_save": ["classifier", "score"],
}  # fmt: skip


def roberta() -> nn.Module:
    torch.manual_seed(0)
    shape = hf.RobertaConfig(
        vocab_size=32, hidden_size=D, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    return hf.RobertaForSequenceClassification(shape).eval()


IDS = torch.tensor([[2, 5, 9, 3], [4, 4, 7, 8]])


def generator_tensors(a: int, biases: bool, r: int) -> dict[str, Tensor]:
    found = {}
    for stage in (1, 2):
        found[f"share_{stage}_a.weight"], found[f"share_{stage}_b.weight"] = torch.randn(a, D), torch.randn(D, a)
        if biases:
            found[f"share_{stage}_a.bias"], found[f"share_{stage}_b.bias"] = torch.randn(r), torch.randn(D)
    return found


def theirs(tensors: dict[str, Tensor], config: dict[str, Any], ratio: float) -> Generator:
    names = {"None": "identity", "leakyrelu": "leaky_relu", "gelu": "gelu", "relu": "relu", "tanh": "tanh"}
    inner, outer = (names[config[f"{which}_activation"]] for which in ("inner", "outer"))
    weights, biases = (
        {name.partition(".")[0]: t for name, t in tensors.items() if name.endswith(kind)} for kind in ("weight", "bias")
    )
    return Generator(weights, inner, outer, config["scaling"], ratio, biases)


def write_texts(folder: Path, **changed: Any) -> Tensor:
    """Save as their fork of peft does, and return the logits of their model in evaluation."""
    torch.manual_seed(1)
    config = CONFIG | changed
    a, b = config["generator_share_dim"], config["individual_features"]
    model = roberta()
    shared = generator_tensors(a, biases=True, r=a + b) if a else {}
    tensors = {}
    for name, tensor in shared.items():
        part, kind = name.split(".")
        tensors[f"base_model.generator.genft_{part}.linear.{kind}"] = tensor
    generator = theirs(shared, config, 1.0) if a else None
    for path, module in list(model.named_modules()):
        if path.rpartition(".")[2] not in config["target_modules"]:
            continue
        w = module.weight.detach()
        pair = (torch.randn(b, D), torch.randn(D, b)) if b else ()
        for letter, tensor in zip("ab", pair, strict=False):
            tensors[f"base_model.model.{path}.genft_individual_weight_{letter}"] = tensor
        if generator is None:
            delta = config["scaling"] * specific_product(pair[1], pair[0])
        else:
            delta = generator(config["ratio_W0"] * w if b else w, *pair)
        module.weight.data = w + delta  # as it stands, not transposed
    for name, p in model.classifier.named_parameters():
        p.data.normal_()
        tensors[f"base_model.model.classifier.{name}"] = p.detach().clone()
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"individual_features": 0},
        {"generator_share_dim": 0, "drop": 0.0},
        {"inner_activation": "None", "outer_activation": "None"},
        {"inner_activation": "gelu", "outer_activation": "relu", "ratio_W0": 1.6},
    ],
)
def test_texts(changed: dict[str, Any], tmp_path: Path) -> None:
    wanted = write_texts(tmp_path / "theirs", **changed)
    imported = import_official(tmp_path / "theirs", roberta(), tmp_path / "ours")
    with torch.no_grad():
        torch.testing.assert_close(imported(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-5)
        again = PeftModel.from_pretrained(roberta(), tmp_path / "ours").eval()
        torch.testing.assert_close(again(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-5)
    config = GenFTConfig.from_pretrained(tmp_path / "ours")
    assert (config.form, config.transpose_delta, config.ratio_power) == ("official", False, 1)
    assert not is_official(json.loads((tmp_path / "ours" / "adapter_config.json").read_text()))


def test_the_command(tmp_path: Path) -> None:
    wanted = write_texts(tmp_path / "theirs")
    roberta().save_pretrained(tmp_path / "base")
    arguments = ["import-official", str(tmp_path / "theirs"), "--base", str(tmp_path / "base")]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "ours"), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    # the generator with its biases, and a pair for query and value of two layers
    adapter = 4 * SHARED_DIM * D + 2 * (SHARED_DIM + SPECIFIC) + 2 * D + 4 * 2 * SPECIFIC * D
    assert told["adapter"] == adapter
    assert told["head"] == sum(p.numel() for p in roberta().classifier.parameters())
    opened = open_adapter(tmp_path / "ours", num_labels=3)
    with torch.no_grad():
        torch.testing.assert_close(opened.model(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-5)
    again = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "ours")])
    assert again.exit_code == 2
    assert "already exists; choose a new folder" in again.stderr
    other = CliRunner().invoke(app, ["import-official", str(tmp_path / "base"), *arguments[2:], "--out", "x"])
    assert other.exit_code == 2
    assert "contains neither adapter_config.json nor best_model.pt" in other.stderr


def write_images(folder: Path, base: nn.Module, **changed: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    torch.manual_seed(1)
    arguments = {
        "generator_share_dim": SHARED_DIM, "individual_features": SPECIFIC, "individual_init_a": "zero",
        "individual_init_b": "normal", "ratio_W0": 1.4, "inner_activation": "None", "outer_activation": "leakyrelu",
        "scaling": 0.3, "dpr": 0.1, "bias": False, **changed,
    }  # fmt: skip
    a, b = arguments["generator_share_dim"], arguments["individual_features"]
    tensors = {}
    for name, tensor in generator_tensors(a, biases=False, r=a + b).items():
        part, kind = name.split(".")
        tensors[f"blocks.0.attn.gen.genft_{part}.linear.{kind}"] = tensor
    for n in range(2):
        if b:
            tensors[f"blocks.{n}.attn.genft_individual_weight_a"] = torch.randn(b, D)
            tensors[f"blocks.{n}.attn.genft_individual_weight_b"] = torch.randn(D, b)
    tensors |= {"head.weight": torch.randn(5, D), "head.bias": torch.randn(5)}
    folder.mkdir()
    (folder / "args.yaml").write_text(yaml.safe_dump(arguments))
    torch.save({"epoch": 10, "model": tensors, "best_acc": 0.5}, folder / "best_model.pt")
    return arguments, tensors


class ViT(nn.Module):
    """Named as timm names it: blocks, attn, a fused qkv, head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(D, 3 * D)})}) for _ in range(2)
        )
        self.head = nn.Linear(D, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            q, k, v = block["attn"]["qkv"](x).split(D, dim=-1)
            x = torch.tanh(q * k + v)
        return self.head(x)


@pytest.mark.parametrize("changed", [{}, {"individual_features": 0}, {"ratio_W0": 0.6, "inner_activation": "gelu"}])
def test_images(changed: dict[str, Any], tmp_path: Path) -> None:
    arguments, tensors = write_images(tmp_path / "theirs", ViT(), **changed)
    x, base = torch.randn(4, D), ViT()
    imported = import_official(tmp_path / "theirs", ViT(), tmp_path / "ours")
    shared = {k.split("genft_")[1].replace(".linear", ""): t for k, t in tensors.items() if "genft_share" in k}
    generator, y = theirs(shared, arguments, arguments["ratio_W0"]), x
    with torch.no_grad():
        for n, block in enumerate(base.blocks):
            qkv = block["attn"]["qkv"]
            pair = [tensors.get(f"blocks.{n}.attn.genft_individual_weight_{letter}") for letter in "ab"]
            q, k, v = qkv(y).split(D, dim=-1)
            q = q + y @ generator(qkv.weight[:D], *pair)
            v = v + y @ generator(qkv.weight[-D:], *pair)
            y = torch.tanh(q * k + v)
        wanted = y @ tensors["head.weight"].T + tensors["head.bias"]
        torch.testing.assert_close(imported(x), wanted, rtol=1e-4, atol=1e-4)
        again = PeftModel.from_pretrained(ViT(), tmp_path / "ours").eval()
        torch.testing.assert_close(again(x), wanted, rtol=1e-4, atol=1e-4)


def test_a_folder_of_theirs_is_recognised() -> None:
    assert is_official(CONFIG)
    assert not is_official(GenFTConfig().to_dict())
    assert not is_official({"peft_type": "LORA", "generator_share_dim": 3})
    assert "genft import-official there --base MODEL --out DIR" in what_it_is("there")


def test_a_folder_of_theirs_met_by_peft_is_one_sentence(tmp_path: Path) -> None:
    write_texts(tmp_path / "theirs", base_model_name_or_path="roberta-base")
    where = re.escape(str(tmp_path / "theirs"))
    sentence = (
        rf"^{where}: this adapter was saved by the GenFT authors' own code, .*; "
        rf"convert it with `genft import-official {where} --base roberta-base --out DIR`$"
    )
    with pytest.raises(AdapterFileError, match=sentence):
        PeftModel.from_pretrained(roberta(), tmp_path / "theirs")
    adapted = get_peft_model(roberta(), GenFTConfig(task_type="SEQ_CLS"))
    with pytest.raises(AdapterFileError, match=sentence):
        adapted.load_adapter(str(tmp_path / "theirs"), "second")
    with pytest.raises(AdapterFileError, match=r"genft import-official FOLDER --base roberta-base --out DIR`$"):
        PeftConfig.from_pretrained(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("changed", "error", "sentence"),
    [
        ({"bias": "all"}, ConfigError, "bias: 'all' trains the base's own biases"),
        ({"fan_in_fan_out": True}, ConfigError, "fan_in_fan_out: transposed weights"),
        ({"generator_share_dim": 0, "drop": 0.1}, ConfigError, "drop: 0.1 without a generator .* in evaluation too"),
        ({"target_modules": 5}, AdapterFileError, "target_modules is 5; a list of names is needed"),
        ({"modules_to_save": 7}, AdapterFileError, "modules_to_save is 7; a list of names is needed"),
        ({"task_type": "SEQ_CLASS"}, AdapterFileError, "task_type: .*'SEQ_CLASS'.*nearest: 'SEQ_CLS'"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(
    changed: dict[str, Any], error: type[Exception], sentence: str, tmp_path: Path
) -> None:
    write_texts(tmp_path / "theirs", **{key: value for key, value in changed.items() if key != "target_modules"})
    file = tmp_path / "theirs" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(error, match=sentence):
        import_official(tmp_path / "theirs", roberta(), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_an_activation_that_their_code_does_not_know_is_told_and_an_initialisation_does_not_matter(
    tmp_path: Path,
) -> None:
    write_texts(tmp_path / "theirs")
    file = tmp_path / "theirs" / "adapter_config.json"
    changed = {"inner_activation": "leaky_relu", "individual_init_a": "kaiming"}
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.warns(UserWarning, match=r"inner_activation: 'leaky_relu' is not a name .*; it knows relu, leakyrelu"):
        adapted = import_official(tmp_path / "theirs", roberta(), tmp_path / "ours")
    assert adapted.peft_config["default"].act_inner == "identity"


def test_damaged_and_strange_folders_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterFileError, match=r"contains neither adapter_config.json nor best_model.pt"):
        import_official(tmp_path / "empty", roberta(), tmp_path / "ours")
    (tmp_path / "empty" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(AdapterFileError, match="is not an adapter of the GenFT authors' code"):
        import_official(tmp_path / "empty", roberta(), tmp_path / "ours")
    write_texts(tmp_path / "theirs", target_modules=["query"])
    file = tmp_path / "theirs" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": ["query", "value"]}))
    with pytest.raises(AdapterFileError, match=r"attention.self.value: the file has no pair for it"):
        import_official(tmp_path / "theirs", roberta(), tmp_path / "ours")
    write_images(tmp_path / "images", ViT())

    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("executed",))

    torch.save({"model": {"head.bias": Evil()}}, tmp_path / "images" / "best_model.pt")
    with pytest.raises(AdapterFileError, match=r"best_model.pt: cannot be read"):
        import_official(tmp_path / "images", ViT(), tmp_path / "ours")
    (tmp_path / "images" / "args.yaml").unlink()
    with pytest.raises(AdapterFileError, match=r"args.yaml: is missing"):
        import_official(tmp_path / "images", ViT(), tmp_path / "ours")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(ConfigError, match=r"out: .*full already exists"):
        import_official(tmp_path / "theirs", roberta(), tmp_path / "full")
