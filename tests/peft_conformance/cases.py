"""The case lists that take the place of peft's own in its ``tests/test_custom_models.py``.

A row of TEST_CASES: name, peft's test model, configuration class, its arguments. A row of
MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES: name, tuner name, configuration class, arguments of the first and the second
adapter. peft's tests expect ``init_weights=False`` to mean "not the identity".
"""

import torch

from genft import BitFitConfig, GenFTConfig, VectorFitConfig
from genft.methods.spt_lora import SPTLoraConfig, pack

FORMS = {
    "identity": {},
    "nonlinear": {"act_row": "leaky_relu", "act_col": "leaky_relu"},
    "dropout": {"act_row": "gelu", "act_col": "leaky_relu", "dropout": 0.1},
    # peft moves tensors from init_weights=False to this start, which has no gain
    "paper, tied": {"factors": "tied", "init_weights": "paper", "init_b": "normal", "init_gain": 1.0},
    "layer scope": {"specific_scope": "layer"},
    "no shared": {"shared_dim": 0, "specific_dim": 4},
    "no specific": {"specific_dim": 0},
    "no row stage": {"row_stage": False},
    "no column stage": {"col_stage": False},
}

TARGETS = [
    ("MLP", {"target_modules": "lin0"}),
    ("MLP", {"target_modules": ["lin0"]}),
    ("MLP", {"target_modules": ["lin1"]}),
    ("MLP", {"target_modules": ["lin0", "lin1"]}),
    ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    ("EmbConv1D", {"target_modules": ["lin0"]}),
    ("MLP_LayerNorm", {"target_modules": ["lin0", "lin1"]}),
    ("MLP2", {"target_modules": ["lin0", "lin1"]}),
]

# peft's test models are 10 to 2,000 wide
SIZE = {"form": "paper", "shared_dim": 4, "specific_dim": 2}
BOUNDED = {"shared_dim": 4, "specific_dim": 2}
# peft trains for three steps of SGD and wants every tensor to move by more than 1e-4; where the gradients of its model
# are tiny (it raises the learning rate to 100 for several of its own methods), the update is scaled up instead; where
# its learning rate of 0.5 diverges (it lowers the rate for several of its own methods), it is scaled down
SCALING = {"MLP": 0.1, "MLP2": 0.03, "EmbConv1D": 300.0, "MLP_LayerNorm": 30.0, "MHA": 30.0}

TEST_CASES = (
    [
        (
            f"GenFT {form} {model} {number}",
            model,
            GenFTConfig,
            {**SIZE, "scaling": SCALING.get(model, 1.0), **target, **settings},
        )
        for form, settings in FORMS.items()
        for number, (model, target) in enumerate(TARGETS)
        if form == "identity" or number in (0, 3, 4, 5)
    ]
    + [
        (f"GenFT bounded {model} {number}", model, GenFTConfig, {**BOUNDED, **target})
        for number, (model, target) in enumerate(TARGETS)
    ]
    + [
        (name, "MHA", GenFTConfig, {**SIZE, "scaling": SCALING["MHA"], **target})
        for name, target in (
            ("GenFT MHA 1", {"target_modules": ["mha"]}),
            ("GenFT MHA 2", {"target_modules": ["mha", "lin0"], "scaling": 3.0}),
            ("GenFT MHA 3", {"target_modules": ["mha"], "target_slices": {"mha": ["v"]}}),
        )
    ]
    + [
        ("BitFit MLP", "MLP", BitFitConfig, {"target_modules": ["lin0", "lin1"]}),
        ("BitFit MLP_LayerNorm", "MLP_LayerNorm", BitFitConfig, {"target_modules": ["lin0", "layernorm0"]}),
        ("BitFit EmbConv1D", "EmbConv1D", BitFitConfig, {"target_modules": ["conv1d"]}),
        ("BitFit Conv2d", "Conv2d", BitFitConfig, {"target_modules": ["conv2d", "lin0"]}),
    ]
)

VECTORFIT_FORMS = {
    "default": {},
    "factored": {"plan": "factored"},
    "materialised": {"plan": "materialised"},
    "inexact": {"plan": "factored", "exact": False},
    "lean": {"lean": True},
    "sigma": {"train_bias": False},
    "bias": {"train_sigma": False},
    "saved bases": {"save_bases": True},
}

TEST_CASES += [
    (f"VectorFit {form} {model} {number}", model, VectorFitConfig, {**target, **settings})
    for form, settings in VECTORFIT_FORMS.items()
    for number, (model, target) in enumerate(TARGETS)
    if form == "default" or number in (3, 4, 5)
] + [
    ("VectorFit MHA 1", "MHA", VectorFitConfig, {"target_modules": ["mha"]}),
    ("VectorFit MHA 2", "MHA", VectorFitConfig, {"target_modules": ["mha", "lin0"]}),
    (
        "VectorFit MHA 3",
        "MHA",
        VectorFitConfig,
        # q and k hardly get a gradient in peft's model of one random layer
        {"target_modules": ["mha"], "target_slices": {"mha": ["v"]}},
    ),
]

#: Without training data everything is sensitive; a run decides otherwise, and saves which entries are.
ENTRIES = {"lin0": pack(torch.arange(0, 200, 3)), "lin0.bias": pack(torch.arange(0, 20, 2)), "lin1": "whole"}

TEST_CASES += [
    (f"SPT-LoRA {model} {number}", model, SPTLoraConfig, {"r": 4, **target})
    for number, (model, target) in enumerate(TARGETS)
] + [
    ("SPT-LoRA entries", "MLP", SPTLoraConfig, {"r": 4, "target_modules": ["lin0", "lin1"], "sensitive": ENTRIES}),
    ("SPT-LoRA MHA", "MHA", SPTLoraConfig, {"r": 4, "target_modules": ["mha"], "target_slices": {"mha": ["v"]}}),
]

MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES = [
    (f"GenFT {form} {kind}", "genft", GenFTConfig, {**first, **settings}, {**second, **settings})
    for form, settings in FORMS.items()
    for kind, first, second in (
        ("same", {"target_modules": ["lin0"]}, {"target_modules": ["lin0"]}),
        ("different", {"target_modules": ["lin0"]}, {"target_modules": ["lin1"]}),
    )
]
for row in MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES:
    for kwargs in row[3:]:
        kwargs.update(SIZE, init_weights=False)

MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES += [
    (
        f"VectorFit {form} {kind}",
        "vectorfit",
        VectorFitConfig,
        {"target_modules": ["lin0"], **settings, "init_weights": False},
        {"target_modules": [second], **settings, "init_weights": False},
    )
    for form, settings in VECTORFIT_FORMS.items()
    for kind, second in (("same", "lin0"), ("different", "lin1"))
]

MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES += [
    (
        f"SPT-LoRA {kind}",
        "spt_lora",
        SPTLoraConfig,
        {"r": 4, "target_modules": ["lin0"], "init_weights": False},
        {"r": 4, "target_modules": [second], "init_weights": False},
    )
    for kind, second in (("same", "lin0"), ("different", "lin1"))
]

#: peft's own list stays: mixed batches of adapters are a feature of a few of its tuners.
