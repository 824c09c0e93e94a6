"""peft's own methods, and the two baselines that need no adapter: only registered here, not re-implemented."""

from __future__ import annotations

import peft

from genft.api.registry import MethodInfo, add
from genft.methods.peft_recipes import IA3, AdaLora, Corda, CordaLoraConfig, LoraPlus, LoraPlusConfig, VBLora

TEXT = ("text",)

for _info in (
    MethodInfo(
        name="full", family="baseline", group="paper", paper="-", trains="every parameter of the model", mergeable=False
    ),
    MethodInfo(
        name="linear",
        family="baseline",
        group="paper",
        paper="-",
        trains="the head alone, on frozen features",
        mergeable=False,
    ),
    MethodInfo(
        name="lora",
        family="peft",
        group="paper",
        paper="LoRA, arXiv 2106.09685",
        trains="low-rank factors A, B of ΔW",
        config=peft.LoraConfig,
    ),
    MethodInfo(
        name="dora",
        family="peft",
        paper="DoRA, arXiv 2402.09353",
        trains="low-rank factors of the direction of W, and its column norms",
        config=peft.LoraConfig,
        defaults={"use_dora": True},
    ),
    MethodInfo(
        name="pissa",
        family="peft",
        paper="PiSSA, arXiv 2404.02948",
        trains="the largest singular directions of W0, as LoRA factors",
        config=peft.LoraConfig,
        defaults={"init_lora_weights": "pissa"},
    ),
    MethodInfo(
        name="corda",
        family="peft",
        group="paper",
        paper="CorDA, arXiv 2406.05223",
        trains="singular directions of W0 weighted by training data, as LoRA factors",
        config=CordaLoraConfig,
        recipe=Corda(),
    ),
    MethodInfo(
        name="loraplus",
        family="peft",
        paper="LoRA+, arXiv 2402.12354",
        trains="LoRA's factors, with a larger learning rate for B",
        config=LoraPlusConfig,
        recipe=LoraPlus(),
    ),
    MethodInfo(
        name="adalora",
        family="peft",
        group="paper",
        paper="AdaLoRA, arXiv 2303.10512",
        trains="P, Λ, Q of ΔW = PΛQ, with ranks shared out while training",
        config=peft.AdaLoraConfig,
        recipe=AdaLora(),
    ),
    MethodInfo(
        name="vera",
        family="peft",
        paper="VeRA, arXiv 2310.11454",
        trains="two scaling vectors of shared random factors",
        config=peft.VeraConfig,
    ),
    MethodInfo(
        name="vblora",
        family="peft",
        paper="VB-LoRA, arXiv 2405.15179",
        trains="a bank of vectors, and the mixtures that make LoRA's factors",
        config=peft.VBLoRAConfig,
        defaults={"num_vectors": 90},
        recipe=VBLora(),
    ),
    MethodInfo(
        name="fourierft",
        family="peft",
        paper="FourierFT, arXiv 2405.03003",
        trains="some Fourier coefficients of ΔW",
        config=peft.FourierFTConfig,
    ),
    MethodInfo(
        name="hira",
        family="peft",
        paper="HiRA, OpenReview TwJrTz9cRS",
        trains="low-rank factors A, B of ΔW = W0 ⊙ BA",
        config=peft.HiraConfig,
    ),
    MethodInfo(
        name="peanut",
        family="peft",
        group="relative",
        paper="PEANuT, arXiv 2410.01870",
        trains="a small network that makes ΔW from W0: ΔW = B f(A W0)",
        config=peft.PeanutConfig,
    ),
    MethodInfo(
        name="ia3",
        family="peft",
        group="paper",
        paper="(IA)³, arXiv 2205.05638",
        trains="vectors that scale keys, values and MLP activations",
        config=peft.IA3Config,
        recipe=IA3(),
    ),
    MethodInfo(
        name="prompt_tuning",
        family="peft",
        group="paper",
        paper="Prompt tuning, arXiv 2104.08691",
        trains="embeddings of tokens before the text",
        config=peft.PromptTuningConfig,
        defaults={"num_virtual_tokens": 20},
        mergeable=False,
        kinds=TEXT,
    ),
    MethodInfo(
        name="prefix_tuning",
        family="peft",
        group="paper",
        paper="Prefix-tuning, arXiv 2101.00190",
        trains="keys and values before the text, in every layer",
        config=peft.PrefixTuningConfig,
        defaults={"num_virtual_tokens": 20},
        mergeable=False,
        kinds=TEXT,
    ),
    MethodInfo(
        name="p_tuning",
        family="peft",
        paper="P-tuning, arXiv 2103.10385",
        trains="embeddings of tokens before the text, through an MLP",
        config=peft.PromptEncoderConfig,
        defaults={"num_virtual_tokens": 20, "encoder_hidden_size": 128},
        mergeable=False,
        kinds=TEXT,
    ),
):
    add(_info)
