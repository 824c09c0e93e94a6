"""The model cards that know the task: for an adapter saved by ``genft train``, its merged model, and its LoRA form."""

from __future__ import annotations

from collections.abc import Sequence

from genft.adapters.task_file import SavedTask
from genft.api.card import AUTO_CLASSES, Card, code, markdown, with_peft
from genft.families.family import Words


def subject(saved: SavedTask | None) -> str:
    """A title for the saved model: its method, base and task."""
    if saved is None:
        return "An adapter"
    return f"{markdown(saved.method)} on {markdown(saved.base)}, for {markdown(saved.task)}"


def measured(saved: SavedTask) -> str:
    """What was measured, by which protocol, and the licence of the data as far as the task states it."""
    text = (
        f"{markdown(saved.metric)} {saved.score:.4f} (protocol {markdown(saved.protocol)}), "
        f"trained with genft {markdown(saved.genft_version)}."
    )
    for name, value in (("Licence of the data", saved.licence), ("Source of the data", saved.source)):
        if value:
            text += f"\n{name}: {markdown(value)}."
    return text


def adapter_card(saved: SavedTask, words: Words, *, is_peft: bool) -> Card:
    """The card of a saved adapter or baseline: what it predicts, and the code that loads it."""
    paragraphs = [
        f"{measured(saved)}\n\nPredicts{', in this order' if words.labels else ''}: {markdown(words.meaning)}.",
        "Install genft with `pip install genft`, then:",
        code(
            "from genft import load_adapter",
            "",
            'trained = load_adapter("THIS FOLDER")',
            f"trained.predict([{words.example}])  # {words.returns}",
        ),
    ]
    if saved.base_is_local:
        paragraphs.append("The base was a local folder on the training machine: pass its location as `base=`.")
    if is_peft:
        task_type = saved.task_type or ("SEQ_CLS" if saved.kind == "text" else "")  # genft 0.1 recorded none
        auto = AUTO_CLASSES.get(task_type, "AutoModelForImageClassification")
        paragraphs += [
            "Even without genft's loader, `import genft` first: it registers the method with peft.",
            with_peft(auto, saved.base, words.labels, "import genft"),
        ]
        if words.pipeline:
            paragraphs.append(
                f'`pipeline({words.pipeline!r}, model=model, tokenizer="THIS FOLDER")` then answers with these names.'
            )
        if task_type:
            outputs = f", num_labels={len(words.labels)}" if words.labels else ""
            auto_peft = auto.replace("Auto", "AutoPeft", 1)
            paragraphs.append(f'With peft in one line: `{auto_peft}.from_pretrained("THIS FOLDER"{outputs})`.')
    return Card(subject(saved), saved.base, "peft" if is_peft else "transformers", paragraphs, ("genft",))


def merged_card(saved: SavedTask | None, base: str | None, class_name: str) -> Card:
    """The card of a plain model with the adapter folded in."""
    paragraphs = [
        f"The adapter is folded into the weights: a plain {class_name}.",
        code(f"from transformers import {class_name}", "", f'model = {class_name}.from_pretrained("THIS FOLDER")'),
    ]
    if saved is not None:
        paragraphs.append(f"The adapter, before it was merged: {measured(saved)}")
    return Card(f"{subject(saved)}, merged", base, "transformers", paragraphs)


def lora_card(
    saved: SavedTask | None, base: str | None, class_name: str, labels: Sequence[str], worst_error: float | None
) -> Card:
    """The card of an adapter's LoRA form.

    Args:
        labels: names of the head's outputs; none for a model without such a head.
        worst_error: the largest relative error of one weight's update, or None if the conversion is exact.
    """
    how = "exactly" if worst_error is None else f"with relative errors of up to {worst_error:.1e} per weight"
    paragraphs = [f"Converted {how}.", with_peft(class_name, base or "", labels)]
    if saved is not None:
        paragraphs.append(f"The adapter, before it was converted: {measured(saved)}")
    return Card(f"{subject(saved)}, as LoRA", base, "peft", paragraphs)
