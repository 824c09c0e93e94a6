"""lm-evaluation-harness takes an adapter of genft by ``peft=``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers

from families import FAMILIES
from genft import GenFTConfig

harness = pytest.importorskip("lm_eval.models.huggingface", exc_type=ImportError)
LLAMA = FAMILIES["llama"]


def test_the_harness_scores_the_adapted_model(tmp_path: Path) -> None:
    model: Any = LLAMA.build()
    words = {f"w{n}": n for n in range(model.config.vocab_size - 1)} | {"[UNK]": model.config.vocab_size - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="w0").save_pretrained(
        tmp_path / "base"
    )
    model.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(model, GenFTConfig(init_weights=False, task_type="CAUSAL_LM", shared_dim=4)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        logits = adapted(torch.tensor([[2, 3]])).logits[0, -1]
    wanted = float(logits.log_softmax(-1)[4])
    with adapted.disable_adapter(), torch.no_grad():
        base = float(adapted(torch.tensor([[2, 3]])).logits[0, -1].log_softmax(-1)[4])
    assert abs(wanted - base) > 1e-3
    lm = harness.HFLM(str(tmp_path / "base"), peft=str(tmp_path / "adapter"), device="cpu", dtype="float32")
    ((score, _),) = lm._loglikelihood_tokens([(("w2 w3", "w4"), [2, 3], [4])], disable_tqdm=True)
    assert score == pytest.approx(wanted, abs=1e-5)


def test_the_command_is_the_harness_s_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "genft.integrations.lm_eval", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--model_args" in done.stdout or "run" in done.stdout
