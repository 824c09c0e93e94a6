"""What a half-precision base costs: the error of an adapter's outputs on a bf16 or fp16 base, relative to float32.

    python benchmarks/precision.py

On MiniLM-L6 (genft[demo]), it prints the relative error of the last hidden states for the base alone and with the
adapter, and the relative error of the adapter's effect on them.
"""

from __future__ import annotations

import torch
from peft import get_peft_model
from transformers import AutoModel, AutoTokenizer

from genft import GenFTConfig
from genft.models.source import find_model

FORMS = {
    "identity": {},
    "leaky_relu, tanh": {"act_row": "leaky_relu", "act_col": "tanh"},
}
TEXTS = ["Half precision keeps eight bits of a number.", "The market fell on Tuesday.", "A goal in the last minute!"]

#: An update that is not small compared with W0.
LARGE = {
    "form": "paper", "init_weights": False, "w0_ratio": 1.0, "scaling": 1.0, "init_gain": 1.0, "scope": "qv",
    "shared_dim": 32, "specific_dim": 2,
}  # fmt: skip


def main() -> None:
    folder = find_model("minilm-l6").folder
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    print(f"{'form':18} {'base':10} {'base alone':>10} {'with adapter':>12} {'its effect':>10}")
    for form, settings in FORMS.items():
        outputs = {}
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            base = AutoModel.from_pretrained(folder, dtype=dtype).eval()
            with torch.no_grad():
                alone = base(**batch).last_hidden_state.float()
                torch.manual_seed(0)
                config = GenFTConfig(task_type="FEATURE_EXTRACTION", **LARGE, **settings)
                model = get_peft_model(base, config).eval()
                outputs[dtype] = alone, model(**batch).last_hidden_state.float()
        alone, adapted = outputs.pop(torch.float32)
        for dtype, (a, b) in outputs.items():
            errors = (a - alone, alone), (b - adapted, adapted), ((b - a) - (adapted - alone), adapted - alone)
            print(f"{form:18} {str(dtype)[6:]:10} " + " ".join(
                f"{float(e.norm() / r.norm()):{w}.1e}" for (e, r), w in zip(errors, (10, 12, 10), strict=True)
            ))  # fmt: skip


if __name__ == "__main__":
    main()
