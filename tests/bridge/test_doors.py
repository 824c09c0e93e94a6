"""Every way in which peft can attach an adapter to a model, and models with more than one adapter.

peft's LoRA in the same script is the reference: what works with it works here, or is refused in a sentence.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import (
    LoraConfig,
    PeftModel,
    get_model_status,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.functional import delete_adapter
from peft.utils.save_and_load import get_base_model_state_dict, set_base_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from families import FAMILIES
from genft import METHODS, MergeError, TargetError
from genft.bridge.shared import SharedFactors

BERT = FAMILIES["bert"]
#: Methods with shared factors, of weights and of blocks, and one without.
METHODS_HERE: dict[str, dict[str, Any]] = {
    "genft": {"shared_dim": 4},
    "propetl_adapter": {},
    "propetl_lora": {"r": 4},
    "vectorfit": {"avf": False},
}
each_method = pytest.mark.parametrize("name", METHODS_HERE)
with_shared = pytest.mark.parametrize("name", [n for n in METHODS_HERE if n != "vectorfit"])


def configuration(name: str, **settings: Any) -> Any:
    return METHODS[name].config(**{"init_weights": False, **METHODS_HERE[name], **settings})


@torch.no_grad()
def output(model: nn.Module) -> Tensor:
    return model.eval()(**BERT.batch()).logits


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def train(model: nn.Module, steps: int = 2) -> None:
    model.train()
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**BERT.batch()).loss.backward()
        assert all(p.grad is not None for p in trained(model).values())
        optimizer.step()
    model.eval()


def containers(model: nn.Module) -> list[SharedFactors]:
    return [module for module in model.modules() if isinstance(module, SharedFactors)]


# -------------------------------------------------------------------- one model, adapted twice


@each_method
def test_get_peft_model_twice_on_one_base(name: str, tmp_path: Path) -> None:
    """A notebook cell that is run again: the second model trains, counts and saves what it computes with."""
    base = BERT.build()
    first = get_peft_model(base, configuration(name))
    count = len(trained(first))
    second = get_peft_model(base, configuration(name))
    assert len(trained(second)) == count
    before = output(second)
    train(second)
    after = output(second)
    assert not torch.allclose(before, after, atol=1e-4)
    assert torch.equal(output(first), after)  # both wrap one model, as with LoRA
    for number, model in enumerate((second, first)):
        model.save_pretrained(tmp_path / str(number))
        assert torch.equal(output(PeftModel.from_pretrained(BERT.build(), tmp_path / str(number))), after)
    assert torch.equal(output(second.unload()), output(BERT.build()))
    assert not containers(base)


@each_method
def test_the_second_adapter_of_a_name_replaces_the_first_everywhere(name: str) -> None:
    base = BERT.build()
    get_peft_model(base, configuration(name))
    block = "bert.encoder.layer.0" if METHODS[name].family == "block" else "layer.0.attention.self.query"
    model = get_peft_model(base, configuration(name, target_modules=[block]))
    alone = get_peft_model(BERT.build(), configuration(name, target_modules=[block]))
    assert set(trained(model)) == set(trained(alone))
    alone.load_state_dict({n: p.detach() for n, p in trained(model).items()}, strict=False)
    assert torch.equal(output(model), output(alone))
    assert model.base_model.adapters["default"].every_site == alone.base_model.adapters["default"].every_site
    assert len(model.base_model.own_parameters("default")) == len(alone.base_model.own_parameters("default"))
    train(model)


@pytest.mark.parametrize("name", ["genft", "vectorfit", "bitfit"])
def test_the_default_targets_of_a_second_adapter_are_those_of_the_first(name: str) -> None:
    model = get_peft_model(BERT.build(), METHODS[name].config())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*the other targets are adapted")
        model.add_adapter("second", METHODS[name].config())
    first, second = (model.base_model.adapters[n].every_site for n in ("default", "second"))
    assert first == second


@each_method
def test_two_saved_adapters_on_one_base(name: str, tmp_path: Path) -> None:
    outputs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = get_peft_model(BERT.build(), configuration(name))
        model.save_pretrained(tmp_path / str(seed))
        outputs.append(output(model))
    base = BERT.build()
    PeftModel.from_pretrained(base, tmp_path / "0")
    second = PeftModel.from_pretrained(base, tmp_path / "1")
    assert torch.equal(output(second), outputs[1])
    third = PeftModel.from_pretrained(base, tmp_path / "0", adapter_name="again")
    third.set_adapter("again")
    assert torch.equal(output(third), outputs[0])
    third.set_adapter("default")
    assert torch.equal(output(third), outputs[1])


@each_method
def test_a_wrapped_model_is_wrapped_again(name: str, tmp_path: Path) -> None:
    """As a trainer does that is given a model with an adapter and a configuration."""
    once = get_peft_model(BERT.build(), configuration(name))
    twice = get_peft_model(once, configuration(name))
    assert sum(p.numel() for p in trained(twice).values()) == sum(
        p.numel() for p in trained(get_peft_model(BERT.build(), configuration(name))).values()
    )
    train(twice)
    twice.save_pretrained(tmp_path)
    wanted, again = output(twice), get_peft_model(BERT.build(), configuration(name))
    assert torch.equal(output(PeftModel.from_pretrained(again, tmp_path)), wanted)


@pytest.mark.parametrize("name", ["genft", "propetl_lora"])
def test_other_methods_around_and_inside(name: str) -> None:
    """LoRA on a model with the adapter inside, and the adapter on a model with LoRA inside: both have their effect."""
    lora = LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
    torch.manual_seed(0)
    model = get_peft_model(BERT.build(), configuration(name))
    ours = output(model)
    both = get_peft_model(model, lora, adapter_name="lora")
    assert not torch.allclose(output(both), ours, atol=1e-4)
    with both.disable_adapter():
        assert torch.equal(output(both), output(BERT.build()))
    torch.manual_seed(0)
    model = get_peft_model(BERT.build(), lora)
    theirs, base = output(model), output(BERT.build())
    both = get_peft_model(model, configuration(name), adapter_name="ours")
    assert not torch.allclose(output(both), theirs, atol=1e-4)
    for parameter in both.base_model.own_parameters("ours").values():
        parameter.data.zero_()
    for parameter in both.base_model.adapters["ours"].shared.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(output(both), theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(theirs, base, atol=1e-4)
    with pytest.raises(MergeError, match=r"is itself adapted by"):
        both.merge_adapter()


def test_an_attention_module_that_another_adapter_wraps_is_refused() -> None:
    base = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2)})
    model = get_peft_model(base, METHODS["genft"].config(target_modules=["attention"], shared_dim=2))
    with pytest.raises(TargetError, match=r"MultiheadAttention cannot be adapted by vectorfit while"):
        get_peft_model(model, METHODS["vectorfit"].config(target_modules=["attention"]), adapter_name="second")


@with_shared
def test_a_copy_shares_nothing_with_its_original(name: str) -> None:
    model = get_peft_model(BERT.build(), configuration(name))
    wanted = output(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        (container,) = containers(twin)
        assert twin.base_model.adapters["default"].shared is container["default"]
        train(twin)
        assert not torch.equal(output(twin), wanted)
    assert torch.equal(output(model), wanted)


# -------------------------------------------------------------------- without get_peft_model


@each_method
def test_inject_adapter_in_model(name: str) -> None:
    """The same numbers, names and switches as with ``get_peft_model``."""
    torch.manual_seed(0)
    wrapped = get_peft_model(BERT.build(), configuration(name))
    model = inject_adapter_in_model(configuration(name), BERT.build())
    assert {f"base_model.model.{n}" for n in trained(model)} == set(trained(wrapped))
    tensors = get_peft_model_state_dict(wrapped)
    result = set_peft_model_state_dict(model, tensors)
    assert not result.unexpected_keys
    assert torch.equal(output(model), output(wrapped))
    saved = get_peft_model_state_dict(model)
    assert {k.removeprefix("base_model.model.") for k in tensors} == {
        k.removeprefix("base_model.model.") for k in saved
    }
    train(model)
    inject_adapter_in_model(configuration(name), model, adapter_name="second")
    assert len(get_peft_model_state_dict(model, adapter_name="second")) == len(saved)
    delete_adapter(model, adapter_name="second", prefix=f"{name}_")
    assert not any(".second." in key for key in model.state_dict())


@each_method
def test_low_cpu_mem_usage_through_inject(name: str) -> None:
    torch.manual_seed(0)
    wrapped = get_peft_model(BERT.build(), configuration(name))
    model = inject_adapter_in_model(configuration(name), BERT.build(), low_cpu_mem_usage=True)
    set_peft_model_state_dict(model, get_peft_model_state_dict(wrapped), low_cpu_mem_usage=True)
    assert not any(p.is_meta for p in model.parameters())
    assert torch.equal(output(model), output(wrapped))


@each_method
def test_an_adapter_from_the_keys_of_a_state_dict(name: str) -> None:
    """peft finds the modules by the keys; the configuration names too many."""
    part = "bert.encoder.layer.1" if METHODS[name].family == "block" else "layer.1.attention.self.query"
    small = inject_adapter_in_model(configuration(name, target_modules=[part]), BERT.build())
    tensors = get_peft_model_state_dict(small)
    with pytest.warns(RuntimeWarning, match="inconsistency was discovered"):
        model = inject_adapter_in_model(configuration(name), BERT.build(), state_dict=tensors)
    set_peft_model_state_dict(model, tensors)
    assert torch.equal(output(model), output(small))


@each_method
def test_adapters_of_transformers_itself(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``add_adapter`` and its kin. transformers 5.24 asks for a peft newer than any release; nothing it uses is."""
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "0.21.0")
    base = BERT.build()
    base.save_pretrained(tmp_path / "base")

    def fresh() -> Any:
        return hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")

    model = fresh()
    model.add_adapter(configuration(name))
    assert set(trained(model)) == {n for n in trained(model) if f"{name}_" in n}
    train(model)
    wanted = output(model)
    model.disable_adapters()
    assert torch.equal(output(model), output(fresh()))
    assert not trained(model)
    model.enable_adapters()
    assert torch.equal(output(model), wanted)
    model.add_adapter(configuration(name), "second")
    assert all(".second." in n for n in trained(model))
    model.set_adapter("default")
    assert torch.equal(output(model), wanted)
    assert all(".default." in n for n in trained(model))
    model.save_pretrained(tmp_path / "adapter")
    loaded = fresh()
    loaded.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(output(loaded), wanted)
    assert torch.equal(output(hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter")), wanted)
    model.delete_adapter("second")
    assert not any(".second." in key for key in model.state_dict())
    assert torch.equal(output(model), wanted)


def test_an_adapter_on_a_part_and_one_on_the_whole() -> None:
    """Each finds its own shared factors, wherever they are."""
    model = BERT.build()
    inject_adapter_in_model(configuration("genft"), model.bert, adapter_name="part")
    part = output(model)
    whole = get_peft_model(model, configuration("genft"), adapter_name="whole")
    whole.set_adapter("whole")
    assert not torch.allclose(output(whole), part, atol=1e-4)
    for layer in (m for m in model.modules() if hasattr(m, "own_factors")):
        layer.set_adapter("part")
    assert torch.equal(output(whole), part)


# -------------------------------------------------------------------- names


@pytest.mark.parametrize("names", [("0", "1"), ("encoder", "model"), ("attention", "bert"), ("genft", "shared")])
@pytest.mark.parametrize("method", ["genft", "vectorfit"])
def test_adapters_named_like_parts_of_the_model(names: tuple[str, str], method: str, tmp_path: Path) -> None:
    """peft looks for an adapter's name anywhere in a tensor's path; nothing may be lost or blamed for that."""
    first, second = names
    model = get_peft_model(BERT.build(), configuration(method), adapter_name=first)
    model.add_adapter(second, configuration(method))
    outputs = {}
    for name in names:
        model.set_adapter(name)
        outputs[name] = output(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(BERT.build(), tmp_path / first, adapter_name=first)
    loaded.load_adapter(tmp_path / second, second)
    for name in names:
        loaded.set_adapter(name)
        assert torch.equal(output(loaded), outputs[name])


@with_shared
def test_files_of_the_first_release_load(name: str, tmp_path: Path) -> None:
    """They name shared factors by the tuner that owned them: ``base_model.genft_shared.u_in_32``."""
    model = get_peft_model(BERT.build(), configuration(name))
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    old = {
        key.replace(f"base_model.model.{name}_shared.", f"base_model.{name}_shared."): t for key, t in tensors.items()
    }
    assert old.keys() != tensors.keys()
    save_file(old, file)
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(BERT.build(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
        assert torch.equal(output(loaded), output(model))


# -------------------------------------------------------------------- the switches of peft


@each_method
def test_switches_reach_everything_that_is_trained(name: str) -> None:
    # peft's status reads the layers, where GenFT has tensors only if some factors are their own
    settings = {"specific_dim": 2} if name == "genft" else {}
    model = get_peft_model(BERT.build(), configuration(name, **settings))
    everything = set(trained(model))
    with model.disable_adapter():
        assert not trained(model)
    assert set(trained(model)) == everything
    model.set_requires_grad("default", False)
    assert not trained(model)
    model.set_requires_grad("default", True)
    assert set(trained(model)) == everything
    model.add_adapter("second", configuration(name, **settings))
    model.base_model.set_adapter("second", inference_mode=True)
    assert not trained(model)
    model.set_adapter("default")
    assert set(trained(model)) == everything
    status = get_model_status(model)
    assert status.requires_grad == {"default": True, "second": False}


@with_shared
def test_shared_factors_are_cast_with_the_others(name: str) -> None:
    base = BERT.build().to(torch.bfloat16)
    for autocast, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        model = get_peft_model(copy.deepcopy(base), configuration(name), autocast_adapter_dtype=autocast)
        assert {p.dtype for p in trained(model).values()} == {dtype}


@each_method
def test_the_base_model_s_state_dict_is_the_base_model_s(name: str) -> None:
    base = BERT.build()
    wanted = {key: value.clone() for key, value in base.state_dict().items()}
    model = get_peft_model(base, configuration(name))
    tensors = get_base_model_state_dict(model)
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[key], value) for key, value in wanted.items())
    doubled = {key: 2 * value for key, value in wanted.items()}
    set_base_model_state_dict(model, doubled)
    assert all(torch.equal(value, doubled[key]) for key, value in get_base_model_state_dict(model).items())
