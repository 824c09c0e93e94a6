"""What a user of peft does, unchanged: Trainer, AutoPeftModel, generate, default targets, and the errors they meet."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel, PeftType, get_peft_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from families import FAMILIES
from genft import ConfigError, GenFTConfig, GenFTError, TargetError
from genft.models.architectures import DEFAULT_TARGETS


def arguments(folder: Path, **kwargs: Any) -> TrainingArguments:
    return TrainingArguments(
        str(folder), per_device_train_batch_size=2, learning_rate=1e-2, report_to="none", use_cpu=True,
        disable_tqdm=True, logging_steps=1, save_strategy="steps", **{"save_steps": 2, "max_steps": 4, **kwargs},
    )  # fmt: skip


def rows() -> list[dict[str, Any]]:
    batch = FAMILIES["bert"].batch()
    return [{k: v[n] for k, v in batch.items()} for n in range(4)]


def genft_bert(**settings: Any) -> PeftModel:
    torch.manual_seed(1)
    config = GenFTConfig(task_type="SEQ_CLS", **{"target_modules": ["query", "value"], "shared_dim": 4, **settings})
    return get_peft_model(FAMILIES["bert"].build(), config)


class StopAfterTwoSteps(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 2


def test_trainer_trains_saves_and_resumes(tmp_path: Path) -> None:
    nonlinear = {"act_row": "leaky_relu", "act_col": "tanh", "dropout": 0.2}
    whole = genft_bert(**nonlinear)
    Trainer(whole, arguments(tmp_path / "a"), train_dataset=rows()).train()
    interrupted = genft_bert(**nonlinear)
    Trainer(interrupted, arguments(tmp_path / "b"), train_dataset=rows(), callbacks=[StopAfterTwoSteps()]).train()
    resumed = genft_bert(**nonlinear)
    trainer = Trainer(resumed, arguments(tmp_path / "b"), train_dataset=rows())
    trainer.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    for (name, p), (_, q) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(p, q), name
    loaded = PeftModel.from_pretrained(FAMILIES["bert"].build(), tmp_path / "a" / "checkpoint-4")
    batch = FAMILIES["bert"].batch()
    assert torch.equal(loaded.eval()(**batch).logits, whole.eval()(**batch).logits)


def test_auto_classes_load_an_adapter_folder(tmp_path: Path) -> None:
    base = tmp_path / "base"
    FAMILIES["bert"].build().save_pretrained(base)
    model = hf.AutoModelForSequenceClassification.from_pretrained(base)
    model = get_peft_model(model, GenFTConfig(task_type="SEQ_CLS", shared_dim=4, init_weights=False)).eval()
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter")
    batch = FAMILIES["bert"].batch()
    assert torch.equal(loaded.eval()(**batch).logits, model(**batch).logits)


def test_generation_with_a_cache_is_generation_without(tmp_path: Path) -> None:
    base = tmp_path / "base"
    FAMILIES["llama"].build().save_pretrained(base)
    model = get_peft_model(
        hf.AutoModelForCausalLM.from_pretrained(base),
        GenFTConfig(task_type="CAUSAL_LM", shared_dim=4, init_weights=False),
    ).eval()
    ids = torch.randint(3, 64, (2, 5))
    cached = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, use_cache=True)
    assert torch.equal(cached, model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, use_cache=False))
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(loaded.generate(input_ids=ids, max_new_tokens=8, do_sample=False), cached)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_of_every_scope(family: str) -> None:
    """T5 has cross-attention too, and Llama a third weight in its MLP."""
    f = FAMILIES[family]
    layers = 6 if family == "t5" else 2
    every = {"t5": 6 * 4 + 4 * 2, "llama": 2 * 7}.get(family, 2 * 6)
    for scope, weights in ({"scope": "attention"}, 4 * layers), ({"scope": "qv"}, 2 * layers), ({}, every):
        config = GenFTConfig(task_type=f.task_type, shared_dim=4, **scope)
        sites = get_peft_model(f.build(), config).base_model.adapters["default"].sites
        assert sum(len(group) for group in sites.values()) == weights


def test_every_family_that_peft_knows_has_a_default() -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    assert TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.keys() <= DEFAULT_TARGETS.keys()


SMALL_DECODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "vocab_size": 64,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    "name", ["Llama", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3Text", "Mistral", "Phi", "SmolLM3"]
)
def test_query_and_value_of_current_decoders(name: str) -> None:
    build = hf.AutoModelForCausalLM.from_config
    model = get_peft_model(build(getattr(hf, f"{name}Config")(**SMALL_DECODER)), GenFTConfig(scope="qv", shared_dim=4))
    adapted = {site.module.rpartition(".")[2] for site in model.base_model.adapters["default"].every_site}
    assert adapted == {"q_proj", "v_proj"}


@pytest.mark.parametrize("name", ["Bart", "MBart", "Pegasus", "T5", "UMT5"])
def test_query_and_value_of_encoder_decoders(name: str) -> None:
    size = {"d_model": 32, "vocab_size": 64, "pad_token_id": 0, "num_heads": 4, "num_layers": 2, "d_kv": 8}
    if "T5" not in name:
        size |= dict.fromkeys(("encoder_layers", "decoder_layers"), 2)
        size |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    build = hf.AutoModelForSeq2SeqLM.from_config
    model = get_peft_model(build(getattr(hf, f"{name}Config")(**size)), GenFTConfig(scope="qv", shared_dim=4))
    assert len(model.base_model.adapters["default"].every_site) == 12  # encoder, decoder and cross-attention


@pytest.mark.parametrize(
    "settings", [{"scope": "block"}, {"target_modules": ["experts"]}, {"target_modules": ["gate_up_proj"]}]
)
def test_experts_in_one_parameter_are_refused(settings: dict[str, Any]) -> None:
    def build() -> nn.Module:
        return hf.AutoModelForCausalLM.from_config(hf.MixtralConfig(**SMALL_DECODER, num_local_experts=2))

    with pytest.raises(TargetError, match=r"gate_up_proj of MixtralForCausalLM hold the .*; adapt attention"):
        get_peft_model(build(), GenFTConfig(**settings))
    attention = get_peft_model(build(), GenFTConfig(scope="attention", shared_dim=4)).base_model.adapters["default"]
    assert len(attention.every_site) == 8


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (
            ["qurey"],
            r"target_modules: no linear weight matches 'qurey' in BertForSequenceClassification; nearest: 'query'",
        ),
        (["LayerNorm"], r"is a LayerNorm, not a linear weight"),
        (["attention.output"], r"is a BertSelfOutput, not a linear weight; nearest: 'output.dense'"),
        (["word_embeddings"], r"is a Embedding, not a linear weight"),
    ],
)
def test_targets_are_refused_in_a_sentence_and_nothing_is_changed(targets: list[str], sentence: str) -> None:
    base = FAMILIES["bert"].build()
    names = [n for n, _ in base.named_modules()]
    with pytest.raises(TargetError, match=sentence):
        get_peft_model(base, GenFTConfig(task_type="SEQ_CLS", target_modules=targets))
    assert names == [n for n, _ in base.named_modules()]


def test_a_target_that_matches_nothing_beside_one_that_does_is_said() -> None:
    with pytest.warns(UserWarning, match=r"no linear weight matches 'qurey' .* nearest: 'query' \(the other targets"):
        genft_bert(target_modules=["qurey", "value"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        get_peft_model(FAMILIES["vit"].build(), GenFTConfig(shared_dim=4))  # defaults with names of several versions


def test_mixed_batches_of_adapters_are_refused_in_a_sentence() -> None:
    with pytest.raises(GenFTError, match="adapter_names: genft cannot mix adapters within one batch"):
        genft_bert().eval()(**FAMILIES["bert"].batch(), adapter_names=["default", "__base__"] * 2)


def test_settings_of_the_wrong_type_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        GenFTConfig(init_weights=1, row_stage="false")
    assert len(caught.value.problems) == 2


def test_unknown_family_without_targets_is_refused() -> None:
    for scope, sentence in (
        ("attention", "no weight of attention is inside a list of layers of Sequential"),
        ("qv", "no default is known for model family"),
    ):
        with pytest.raises(TargetError, match=sentence):
            get_peft_model(nn.Sequential(nn.Linear(3, 3)), GenFTConfig(scope=scope))


def test_mixed_models_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"(?i)mixed"):
        get_peft_model(FAMILIES["bert"].build(), GenFTConfig(task_type="SEQ_CLS"), mixed=True)


def test_the_type_is_a_member_of_peft_s_enumeration() -> None:
    assert PeftType("GENFT").value == "GENFT"
    assert PeftType.GENFT in list(PeftType)
    assert GenFTConfig().peft_type is PeftType.GENFT


def test_layers_to_transform() -> None:
    model = genft_bert(layers_to_transform=[1])
    assert all(".1." in name for name in model.targeted_module_names)
    with pytest.raises(ConfigError, match="layers_to_transform: cannot be used with a regular expression"):
        GenFTConfig(target_modules=r".*query", layers_to_transform=[0])


def test_import_registers_and_a_folder_needs_it(tmp_path: Path) -> None:
    """Without `import genft` peft does not know the method; with it, peft's own functions load the folder."""
    base = tmp_path / "base"
    FAMILIES["bert"].build().save_pretrained(base)
    model = hf.AutoModelForSequenceClassification.from_pretrained(base)
    get_peft_model(model, GenFTConfig(task_type="SEQ_CLS", shared_dim=4)).save_pretrained(tmp_path / "adapter")
    code = f"""
from peft import PeftConfig
folder = {str(tmp_path / "adapter")!r}
try:
    print("without:", type(PeftConfig.from_pretrained(folder)))
except Exception:
    print("without: refused")
import genft
print("with:", type(PeftConfig.from_pretrained(folder)))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    without, with_genft = done.stdout.splitlines()[-2:]
    assert without.startswith("without:")
    assert with_genft.startswith("with:")
    assert "GenFTConfig" not in without
    assert "GenFTConfig" in with_genft
