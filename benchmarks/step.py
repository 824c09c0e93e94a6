"""A whole training step of a transformer with each method, compared with LoRA and the frozen base.

    python benchmarks/step.py --threads 1 --clock cpu
    python benchmarks/step.py --workloads text-2048 --layers 4
    python benchmarks/step.py --workloads text-512 text-2048 --layers 2 --compile
    python benchmarks/step.py --device cuda --dtype bf16 --cases "LoRA r=8" "LoRA r=1, same weights" "GenFT default"

Models have random weights and the shapes of RoBERTa-base (16 texts of 32 tokens, 32 of 64), ViT-B/16 (8 images of
197 tokens) and a 12-layer decoder with 12 heads, 4 of them for keys and values (4 texts of 256 tokens); a step is
forward pass, backward pass and AdamW. "MB" is the peak memory of a step beyond the frozen weights, optimizer state
included. The head is frozen, so "trained" counts only the method's own parameters. "Same weights" are those that
GenFT's default adapts, all linear ones, with the rank at which LoRA comes nearest to as many parameters. With --dtype
bf16 the base is stored in it and the adapter in float32, under autocast. "Operations" counts those that compute
something (kernels on a GPU; on a CPU operators of torch that call no other and are not views); they decide the time of
small models on a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

import common
import vectorfit
from generator import algorithm_1
from genft import BitFitConfig, GenFTConfig, VectorFitConfig

WORKLOADS = {
    "text-512": ("roberta", 16, 32),
    "text-2048": ("roberta", 32, 64),
    "images-8": ("vit", 8, 0),
    "decoder-1024": ("llama", 4, 256),
}
#: Names of query and value, and of the other linear weights of a block; the first two of these belong to attention.
TARGETS = {
    "roberta": (["query", "value"], ["key", "attention.output.dense", "intermediate.dense", "output.dense"]),
    "vit": (["q_proj", "v_proj"], ["k_proj", "o_proj", "fc1", "fc2"]),
    "llama": (["q_proj", "v_proj"], ["k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
}
EQUATIONS = {"form": "paper", "specific_dim": 2}
NONLINEAR = {**EQUATIONS, "act_row": "leaky_relu", "act_col": "leaky_relu"}
PAPER = {**EQUATIONS, "init_weights": "paper", "init_b": "kaiming_uniform", "factors": "tied"}
CIFAR100 = {**PAPER, "act_row": "leaky_relu", "shared_dim": 82, "specific_dim": 2, "dropout": 0.1}
COLA = {**PAPER, "w0_ratio": 0.05, "shared_dim": 72, "specific_dim": 2, "dropout": 0.05, "scaling": 0.05}

ADAPTERS: dict[str, Callable[[list[str], list[str]], Any]] = {
    "LoRA r=8": lambda qv, block: LoraConfig(r=8, target_modules=qv),
    "LoRA r=1, same weights": lambda qv, block: LoraConfig(r=1, target_modules=block),
    "LoRA r=5": lambda qv, block: LoraConfig(r=5, target_modules=qv),
    "DoRA r=8": lambda qv, block: LoraConfig(r=8, use_dora=True, target_modules=qv),
    "GenFT default": lambda qv, block: GenFTConfig(),
    "GenFT equations, attention": lambda qv, block: GenFTConfig(**EQUATIONS, scope="attention", shared_dim=24),
    "GenFT official, gelu inside": lambda qv, block: GenFTConfig(
        form="official", act_inner="gelu", scope="attention", shared_dim=24, specific_dim=2
    ),
    "GenFT q, v": lambda qv, block: GenFTConfig(**EQUATIONS, target_modules=qv, shared_dim=32),
    "GenFT a=36 b=5": lambda qv, block: GenFTConfig(form="paper", target_modules=qv, shared_dim=36, specific_dim=5),
    "GenFT nonlinear": lambda qv, block: GenFTConfig(target_modules=qv, shared_dim=32, **NONLINEAR),
    "GenFT nonlinear, dropout": lambda qv, block: GenFTConfig(
        target_modules=qv, shared_dim=32, dropout=0.1, **NONLINEAR
    ),
    "GenFT CoLA preset": lambda qv, block: GenFTConfig(target_modules=qv, **COLA),
    "GenFT CIFAR-100 preset": lambda qv, block: GenFTConfig(target_modules=qv, **CIFAR100),
    "VectorFit": lambda qv, block: VectorFitConfig(target_modules=block, avf=False),
    "BitFit": lambda qv, block: BitFitConfig(),
}
CASES = ["frozen base", "LoRA r=8", "LoRA r=1, same weights", "LoRA r=5", "DoRA r=8", "GenFT default",
         "GenFT equations, attention", "GenFT official, gelu inside", "GenFT q, v", "GenFT a=36 b=5",
         "GenFT nonlinear", "GenFT nonlinear, dropout", "GenFT CoLA preset", "GenFT CIFAR-100 preset", "Algorithm 1",
         "VectorFit", "VectorFit as published", "BitFit", "full"]  # fmt: skip
#: Operators of torch that make views and empty tensors only.
NOTHING_COMPUTED = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "detach_", "empty", "empty_like",
    "empty_strided", "expand", "is_same_size", "item", "lift_fresh", "narrow", "new_empty", "permute",
    "resolve_conj", "resolve_neg", "result_type", "select", "slice", "split", "squeeze", "t", "transpose", "unbind",
    "unsqueeze", "view",
}  # fmt: skip
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class AsPublished(nn.Module):
    """A linear layer with Algorithm 1 in its forward pass, with leaky_relu, dropout and r = 34."""

    def __init__(self, linear: nn.Linear, shared: nn.ParameterList) -> None:
        super().__init__()
        self.linear, self.shared = linear, (shared,)
        self.a, self.b = (nn.Parameter(0.01 * torch.randn(linear.in_features, 2)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        w0, (u, v) = self.linear.weight, self.shared[0]
        delta = algorithm_1(w0, u, v, self.a, self.b, act="leaky_relu", dropout=0.1, ratio=1.0, scaling=0.1)
        return F.linear(x, w0 + delta, self.linear.bias)


def base_model(family: str, layers: int) -> nn.Module:
    torch.manual_seed(0)
    if family == "roberta":
        return RobertaForSequenceClassification(RobertaConfig(num_hidden_layers=layers, vocab_size=5000))
    if family == "llama":
        sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12, "num_key_value_heads": 4}
        return LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, vocab_size=5000, **sizes))
    return ViTForImageClassification(ViTConfig(num_hidden_layers=layers))


def batch(family: str, examples: int, length: int) -> dict[str, Tensor]:
    labels = torch.randint(2, (examples,))
    if family == "vit":
        return {"pixel_values": torch.randn(examples, 3, 224, 224), "labels": labels}
    ids = torch.randint(5, 5000, (examples, length))
    return {"input_ids": ids, "labels": ids if family == "llama" else labels}


def adapt(base: nn.Module, family: str, case: str) -> nn.Module:
    """A model for this case; all cases share the frozen weights."""
    if case == "full":
        return copy.deepcopy(base).requires_grad_(True)
    model = copy.deepcopy(base, {id(p): p for p in base.parameters()})
    query_value, others = TARGETS[family]
    block = query_value + others
    if case in ADAPTERS:
        adapted = get_peft_model(model, ADAPTERS[case](query_value, block))
        for p in adapted.parameters():
            if p.requires_grad:
                p.data = p.data.float()
        return adapted
    names = block if case == "VectorFit as published" else query_value
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith(tuple(names))]
    targets = [n for n in linear if "layer" in n]
    if case == "frozen base":  # gradients reach as far down as adapters need them
        for name in targets[:2]:
            model.get_submodule(name).register_forward_hook(lambda m, args, y: y.requires_grad_())
        return model
    shared = nn.ParameterList(0.01 * torch.randn(768, 32) for _ in range(2))
    model.shared = shared if case == "Algorithm 1" else None
    for name in targets:
        layer = model.get_submodule(name)
        new = AsPublished(layer, shared) if case == "Algorithm 1" else vectorfit.Published(layer)
        model.set_submodule(name, new)
    return model


def training_step(model: nn.Module, inputs: dict[str, Tensor], *, compiled: bool = False) -> Callable[[], None]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True) if trained else None
    device = next(model.parameters()).device.type
    mixed = next(model.parameters()).dtype == torch.bfloat16
    forward = torch.compile(model.train()) if compiled else model.train()

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            loss = forward(**inputs).loss
        loss.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def operations(step: Callable[[], None], device: str) -> int:
    """The number of operations in a step that compute something."""
    with torch.profiler.profile() as p:
        step()
    if device == "cuda":
        return sum(e.device_type == torch.autograd.DeviceType.CUDA for e in p.events())
    leaves = (e.name.removeprefix("aten::") for e in p.events() if e.name.startswith("aten::") and not e.cpu_children)
    return sum(name not in NOTHING_COMPUTED for name in leaves)


def peak_bytes(step: Callable[[], None], device: str) -> int:
    """The peak of what ``step`` allocates."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as p:
        step()
    events = sorted((e.start_ns(), e.nbytes()) for e in p.profiler.kineto_results.events() if e.name() == "[memory]")
    held = most = 0
    for _, nbytes in events:
        held += nbytes
        most = max(most, held)
    return most


def breaks_after(step: Callable[[], None]) -> int:
    """Graph breaks of the first step of a compiled model, which is also its warm-up."""
    counters.clear()
    step()
    return sum(counters["graph_break"].values())


def measure(
    workload: str, layers: int, cases: list[str], dtype: str, device: str, *, compiled: bool = False, **timing: Any
) -> list[dict[str, Any]]:
    family, examples, length = WORKLOADS[workload]
    base = base_model(family, layers).requires_grad_(False).to(device, DTYPES[dtype])
    inputs = {name: value.to(device) for name, value in batch(family, examples, length).items()}
    models = {case: adapt(base, family, case) for case in cases}
    steps = {case: training_step(model, inputs, compiled=compiled) for case, model in models.items()}
    breaks = {case: breaks_after(step) for case, step in steps.items()}
    trained = {case: sum(p.numel() for p in m.parameters() if p.requires_grad) for case, m in models.items()}
    memory = {case: peak_bytes(steps[case], device) + 8 * trained[case] for case in cases}
    counted = {case: operations(steps[case], device) for case in cases}
    seconds = common.seconds(steps, **timing)
    return [
        {
            "workload": workload,
            "layers": layers,
            "dtype": dtype,
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "method": case,
            "trained": trained[case],
            "ms": 1e3 * seconds[case],
            "of LoRA": seconds[case] / seconds["LoRA r=8"],
            "operations": counted[case],
            **({"graph breaks": breaks[case]} if compiled else {}),
            "MB": memory[case] / 1e6,
            "MB of LoRA": memory[case] / memory["LoRA r=8"],
        }
        for case in cases
    ]


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    p.add_argument("--layers", type=int, default=12)
    p.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    p.add_argument("--dtype", default="float32", choices=DTYPES)
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.add_argument("--compile", action="store_true", help="compile the forward and backward pass with torch.compile")
    args = p.parse_args()
    timing = common.timing(args)
    rows = [
        row
        for workload in args.workloads
        for row in measure(workload, args.layers, args.cases, args.dtype, args.device, compiled=args.compile, **timing)
    ]
    common.report("step", rows, args)


if __name__ == "__main__":
    main()
