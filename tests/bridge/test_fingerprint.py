"""An adapter knows its base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from families import FAMILIES
from genft import AdapterFileError, BaseMismatchError, GenFTConfig, allow_other_base
from genft.bridge import fingerprint
from genft.ops.sketch import signs

BERT = FAMILIES["bert"]


def saved(folder: Path) -> PeftModel:
    model = get_peft_model(BERT.build(), GenFTConfig(task_type="SEQ_CLS", shared_dim=4, init_weights=False))
    model.save_pretrained(folder)
    return model


def other_base(layer: int = 1) -> nn.Module:
    model = BERT.build()
    weight = model.bert.encoder.layer[layer].attention.self.value.weight
    weight.data = torch.randn_like(weight) * weight.std()
    return model


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_travels_in_the_adapter_file_and_not_in_the_configuration(tmp_path: Path) -> None:
    model = saved(tmp_path)
    text = (tmp_path / "adapter_config.json").read_text()
    assert json.loads(text)["base_fingerprint"] is None
    assert len(text) < 2500
    tensors = stored(tmp_path)
    weights = {name: json.loads(bytes(tensors.pop(name).tolist())) for name in list(tensors) if name.endswith("_base")}
    assert "base_model.model.bert.encoder.layer.0.attention.self.query.genft_base" in weights
    assert len(weights) == 12  # six in each of two layers
    assert all(len(fingerprint.decode(w["sketch"])) == 64 and w["dtype"] == "float32" for w in weights.values())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(v.numel() for v in tensors.values()) == trainable


def test_a_file_that_is_read_and_written_keeps_it(tmp_path: Path) -> None:
    saved(tmp_path / "one")
    PeftModel.from_pretrained(BERT.build(), tmp_path / "one", is_trainable=True).save_pretrained(tmp_path / "two")
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_file_that_was_cast_keeps_it(tmp_path: Path) -> None:
    saved(tmp_path)
    save_file({k: v.to(torch.bfloat16) for k, v in stored(tmp_path).items()}, tmp_path / "adapter_model.safetensors")
    PeftModel.from_pretrained(BERT.build(), tmp_path)
    with pytest.raises(BaseMismatchError, match=r"layer\.1\.attention\.self\.value is another float32"):
        PeftModel.from_pretrained(other_base(), tmp_path)


def test_a_file_that_was_scaled_can_be_loaded_but_not_checked(tmp_path: Path) -> None:
    saved(tmp_path)
    save_file({k: v / 2 for k, v in stored(tmp_path).items()}, tmp_path / "adapter_model.safetensors")
    with pytest.warns(UserWarning, match="records of 12 base weights were edited"):
        PeftModel.from_pretrained(other_base(), tmp_path)


def test_values_for_an_adapter_that_is_on_the_model_are_checked_too(tmp_path: Path) -> None:
    values = get_peft_model_state_dict(saved(tmp_path))
    other = get_peft_model(other_base(), GenFTConfig(task_type="SEQ_CLS", shared_dim=4))
    with pytest.raises(BaseMismatchError, match=r"layer\.1\.attention\.self\.value is another float32"):
        set_peft_model_state_dict(other, values)
    value = other.base_model.model.bert.encoder.layer[1].attention.self.value.base_layer.weight
    value.requires_grad_(True)  # trained beside the adapter, so it has moved since it was saved
    set_peft_model_state_dict(other, values)
    value.requires_grad_(False)
    value.data.copy_(BERT.build().bert.encoder.layer[1].attention.self.value.weight)
    set_peft_model_state_dict(other, values)


def test_another_base_is_refused_by_the_first_weight_that_differs(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(
        BaseMismatchError, match=r"another base model: .*layer\.1\.attention\.self\.value is another float32"
    ):
        PeftModel.from_pretrained(other_base(), tmp_path)
    with allow_other_base():
        PeftModel.from_pretrained(other_base(), tmp_path)


def test_the_same_base_in_bf16_loads_and_another_in_bf16_does_not(tmp_path: Path) -> None:
    saved(tmp_path)
    PeftModel.from_pretrained(BERT.build().to(torch.bfloat16), tmp_path)
    with pytest.raises(BaseMismatchError, match=r"layer\.1.*away from the one"):
        PeftModel.from_pretrained(other_base().to(torch.bfloat16), tmp_path)


def test_one_configuration_serves_two_models(tmp_path: Path) -> None:
    config = GenFTConfig(task_type="SEQ_CLS", shared_dim=4)
    first = get_peft_model(BERT.build(), config)
    get_peft_model(other_base(), config)
    first.save_pretrained(tmp_path)
    PeftModel.from_pretrained(BERT.build(), tmp_path)


@pytest.mark.parametrize("trained", [False, True])
def test_an_adapter_fits_the_base_that_it_was_trained_on(tmp_path: Path, trained: bool) -> None:
    """Not the one on which it was attached, if other weights are loaded afterwards, or trained beside it."""
    model = get_peft_model(BERT.build(), GenFTConfig(task_type="SEQ_CLS", shared_dim=4, init_weights=False))
    weight = model.base_model.model.bert.encoder.layer[1].attention.self.value.base_layer.weight
    if trained:
        weight.requires_grad_(True)
        model(**BERT.batch()).loss.backward()
        torch.optim.SGD([weight], lr=1e-3).step()
    else:
        weight.data.copy_(other_base().bert.encoder.layer[1].attention.self.value.weight)
    model.save_pretrained(tmp_path)
    with pytest.raises(BaseMismatchError, match=r"layer\.1\.attention\.self\.value is another float32"):
        PeftModel.from_pretrained(BERT.build(), tmp_path)
    base = BERT.build()
    base.bert.encoder.layer[1].attention.self.value.weight.data.copy_(weight)
    PeftModel.from_pretrained(base, tmp_path)


def test_a_cast_of_the_base_leaves_its_fingerprint(tmp_path: Path) -> None:
    model = saved(tmp_path / "before")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "after")
    before, after = (stored(tmp_path / name) for name in ("before", "after"))
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name.endswith("_base"))


def test_a_merged_model_is_neither_recorded_nor_loaded_onto(tmp_path: Path) -> None:
    model = saved(tmp_path)
    model.merge_adapter()
    with pytest.raises(BaseMismatchError, match="has an adapter merged into it; unmerge"):
        model.add_adapter("second", GenFTConfig(task_type="SEQ_CLS", shared_dim=4))
    with pytest.raises(BaseMismatchError, match="unmerge it before loading weights"):
        model.load_adapter(tmp_path, "default")


def test_a_model_without_values_yet_is_checked_at_its_first_forward_pass(tmp_path: Path) -> None:
    saved(tmp_path)
    model = PeftModel.from_pretrained(BERT.build().to("meta"), tmp_path, low_cpu_mem_usage=True)
    real = PeftModel.from_pretrained(BERT.build(), tmp_path)
    with allow_other_base():
        wrong = PeftModel.from_pretrained(other_base(), tmp_path)
    model.load_state_dict(wrong.state_dict(), assign=True)
    with pytest.raises(BaseMismatchError, match=r"layer\.1"):
        model(**BERT.batch())
    model = PeftModel.from_pretrained(BERT.build().to("meta"), tmp_path, low_cpu_mem_usage=True)
    model.load_state_dict(real.state_dict(), assign=True)
    model(**BERT.batch())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sketch_survives_rounding_and_tells_weights_apart(dtype: torch.dtype) -> None:
    w = torch.randn(96, 64) * 0.05
    one = fingerprint.take(w)
    assert fingerprint.differs(one, fingerprint.take(w.to(dtype))) is None
    assert fingerprint.distance(one, fingerprint.take(w.to(dtype))) < 3e-3
    assert fingerprint.differs(one, fingerprint.take(torch.randn(96, 64) * 0.05)) is not None
    assert fingerprint.differs(one, fingerprint.take(w.T.contiguous())) is not None


def test_sketch_of_row_shards_adds_up() -> None:
    """Signs depend on the row's number alone, so the sketch of a whole weight is the sum over its shards."""
    w = torch.randn(10, 6)
    left, right = signs(10, 0), signs(6, 1)
    whole = left.T @ w @ right
    parts = left[:4].T @ w[:4] @ right + left[4:].T @ w[4:] @ right
    torch.testing.assert_close(whole, parts)
    assert torch.equal(signs(10, 0)[:4], signs(4, 0))


def test_signs_never_change() -> None:
    """Saved adapters hold sketches made with these."""
    positive = [[int(v > 0) for v in row] for row in signs(3, 0)]
    assert positive == [[0, 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 1, 1, 1, 0]]


@pytest.mark.parametrize("damage", ["missing", "nan", "truncated"])
def test_a_damaged_adapter_file_is_refused(tmp_path: Path, damage: str) -> None:
    saved(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(Exception, match=r"(?i)safetensors|incomplete|header|invalid"):
            PeftModel.from_pretrained(BERT.build(), tmp_path)
        return
    tensors = load_file(file)
    name = sorted(n for n in tensors if "genft_shared" in n)[0]
    if damage == "missing":
        del tensors[name]
    else:
        tensors[name][0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(AdapterFileError, match=r"has no values for|holds NaN"):
        PeftModel.from_pretrained(BERT.build(), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_changed_bit_is_another_weight(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for columns in (64, 63):  # rows of whole words, and others
        w = (torch.randn(96, columns) * 0.05).to(dtype)
        changed = w.clone()
        bits = changed.view(torch.uint8)
        bits[-1, 0] ^= 1  # the last bit of one value: far below what a sketch sees
        one, other = fingerprint.take(w), fingerprint.take(changed)
        assert fingerprint.distance(one, other) < 1e-4
        assert fingerprint.differs(one, fingerprint.take(w.clone())) is None
        assert "is another" in str(fingerprint.differs(one, other))
        assert fingerprint.fits(one, w)
        assert not fingerprint.fits(one, changed)


def test_rows_that_change_places_are_another_weight() -> None:
    torch.manual_seed(0)
    w = torch.randn(96, 64) * 0.05
    one, other = fingerprint.take(w), fingerprint.take(w.flip(0))
    assert one["checksum"] == other["checksum"]
    assert "is another" in str(fingerprint.differs(one, other))


def test_the_hash_of_genft_0_1_is_still_compared() -> None:
    torch.manual_seed(0)
    w = torch.randn(96, 64) * 0.05
    old = fingerprint.take(w, hashed=True)
    del old["checksum"]
    changed = w.clone()
    changed.view(torch.uint8)[-1, 0] ^= 1
    assert fingerprint.differs(old, fingerprint.take(w, hashed=True)) is None
    assert "is another" in str(fingerprint.differs(old, fingerprint.take(changed, hashed=True)))
