"""Small models of every family that adapters are tested on: real classes, random weights, built in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

WIDTH = 32


@dataclass(frozen=True)
class Family:
    """A model and a batch for it.

    Attributes:
        build: makes the model; the same weights every time.
        batch: inputs with labels.
        task_type: peft's task type, None where peft has none (images).
        queries_values: the weights that hold query and value, and the slices where they are fused.
        mlp: names of the MLP's weights.
        head: modules that are trained whole.
    """

    build: Callable[[], nn.Module]
    batch: Callable[[], dict[str, Tensor]]
    queries_values: dict[str, Any]
    mlp: tuple[str, ...]
    task_type: str | None = None
    head: tuple[str, ...] = ()


def seeded(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(0)
        model = build()
        for parameter in model.parameters():
            if parameter.dim() == 2:  # the usual 0.02 makes an untrained attention layer nearly a constant
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            elif parameter.dim() == 1:  # initialised to 0 and 1, which would hide mistakes
                nn.init.normal_(parameter, mean=float(parameter.mean()), std=0.05)
        return model.eval()

    return make


def tokens(labels: str) -> Callable[[], dict[str, Tensor]]:
    def make() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, 64, (4, 9), generator=generator)
        target = ids if labels == "next token" else torch.tensor([0, 1, 1, 0])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": target}

    return make


def images() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(4, 3, 32, 32, generator=generator), "labels": torch.tensor([0, 1, 1, 0])}


SMALL: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT: dict[str, Any] = {**SMALL, "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 32}
IMAGE: dict[str, Any] = {**SMALL, "image_size": 32, "patch_size": 16, "num_labels": 2}


def bert() -> nn.Module:
    return hf.BertForSequenceClassification(hf.BertConfig(**TEXT, attention_probs_dropout_prob=0.0))


def deberta() -> nn.Module:
    config = hf.DebertaV2Config(
        **TEXT,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        position_buckets=8,
        pad_token_id=0,
    )
    return hf.DebertaV2ForSequenceClassification(config)


def llama() -> nn.Module:
    config = hf.LlamaConfig(**TEXT, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    return hf.LlamaForCausalLM(config)


def phi3() -> nn.Module:
    config = hf.Phi3Config(**TEXT, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    return hf.Phi3ForCausalLM(config)


def gpt2() -> nn.Module:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(n_embd=WIDTH, n_layer=2, n_head=4, vocab_size=64, n_positions=32, bos_token_id=1, eos_token_id=2)
    )


def t5() -> nn.Module:
    config = hf.T5Config(
        vocab_size=64,
        d_model=WIDTH,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        dropout_rate=0,
    )
    return hf.T5ForConditionalGeneration(config)


def vit() -> nn.Module:
    return hf.ViTForImageClassification(hf.ViTConfig(**IMAGE, intermediate_size=48))


def dinov2() -> nn.Module:
    return hf.Dinov2ForImageClassification(hf.Dinov2Config(**IMAGE, mlp_ratio=2))


def timm_vit() -> nn.Module:
    config = hf.TimmWrapperConfig(
        architecture="vit_tiny_patch16_224",
        model_args={"img_size": 32, "embed_dim": WIDTH, "depth": 2, "num_heads": 4, "patch_size": 16},
        num_labels=2,
    )
    return hf.TimmWrapperForImageClassification(config)


QUERY_VALUE = {"target_modules": ["query", "value"]}
Q_V_PROJ = {"target_modules": ["q_proj", "v_proj"]}
OLD_OR_NEW = {"target_modules": ["query", "value", "q_proj", "v_proj"]}  # transformers renames them, model by model

FAMILIES = {
    "bert": Family(seeded(bert), tokens("class"), QUERY_VALUE, ("intermediate.dense",), "SEQ_CLS", ("classifier",)),
    "deberta": Family(
        seeded(deberta),
        tokens("class"),
        {"target_modules": ["query_proj", "value_proj"]},
        ("intermediate.dense",),
        "SEQ_CLS",
        ("classifier",),
    ),
    "llama": Family(seeded(llama), tokens("next token"), Q_V_PROJ, ("up_proj", "down_proj"), "CAUSAL_LM"),
    "phi3": Family(
        seeded(phi3), tokens("next token"), {"target_slices": {"qkv_proj": ["q", "v"]}}, ("down_proj",), "CAUSAL_LM"
    ),
    "gpt2": Family(
        seeded(gpt2), tokens("next token"), {"target_slices": {"c_attn": ["q", "v"]}}, ("c_fc",), "CAUSAL_LM"
    ),
    "t5": Family(seeded(t5), tokens("next token"), {"target_modules": ["q", "v"]}, ("wi", "wo"), "SEQ_2_SEQ_LM"),
    "vit": Family(seeded(vit), images, Q_V_PROJ, ("fc1", "fc2"), head=("classifier",)),
    "dinov2": Family(seeded(dinov2), images, OLD_OR_NEW, ("fc1", "fc2"), head=("classifier",)),
    "timm": Family(seeded(timm_vit), images, {"target_slices": {"qkv": ["q", "v"]}}, ("fc1", "fc2"), head=("head",)),
}


def tiny_unet() -> Any:
    """A denoiser of diffusers, the same in every call; skips the test if diffusers is not installed."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    ).eval()
