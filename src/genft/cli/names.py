"""Option names of other tools, answered with the option that genft has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import zip_longest

from genft.errors import ConfigError

#: Option names of transformers' scripts, LLaMA-Factory, AutoTrain and lm-eval, and the genft option to use.
ELSEWHERE = {
    "--lr": "--learning-rate",
    "--num-epochs": "--epochs",
    "--num-train-epochs": "--epochs",
    "--bs": "--batch-size",
    "--train-batch-size": "--batch-size",
    "--per-device-train-batch-size": "--batch-size",
    "--per-device-eval-batch-size": "--eval-batch-size",
    "--wd": "--weight-decay",
    "--lr-scheduler": "--schedule",
    "--lr-scheduler-type": "--schedule",
    "--scheduler": "--schedule",
    "--warmup-ratio": "--warmup",
    "--max-seq-length": "--max-length",
    "--cutoff-len": "--max-length",
    "--max-train-samples": "--limit-train",
    "--max-eval-samples": "--limit-eval",
    "--max-samples": "--limit-train",
    "--limit": "--limit-eval",
    "--output-dir": "--out",
    "--output": "--out",
    "--project-name": "--out",
    "--overwrite-output-dir": "--again",
    "--model-name-or-path": "--model",
    "--pretrained-model": "--model",
    "--peft-method": "--method",
    "--finetuning-type": "--method",
    "--validation-file": "--validation",
    "--valid-split": "--validation",
    "--test-file": "--test",
    "--data-path": "--data",
    "--dataset-dir": "--data",
    "--target-column": "--label-column",
    "--label-column-name": "--label-column",
    "--text-column-name": "--text-column",
    "--label-smoothing-factor": "--label-smoothing",
    "--metric-for-best-model": "--metric",
    "--num-workers": "--jobs",
    "--folder": "--out",
    "--gradient-accumulation-steps": "--grad-accumulation",
    "--gradient-accumulation": "--grad-accumulation",
    "--accumulate-grad-batches": "--grad-accumulation",
    "--early-stopping-patience": "--early-stopping",
    "--patience": "--early-stopping",
    "--class-weight": "--class-weights",
    "--quantization": "--quantise",
    "--quantize": "--quantise",
    "--quantization-bit": "--quantise",
}
_FIRST_ARGUMENT = "name the task or the file as the first argument, without an option"
_DEVICE = "genft uses the GPU if there is one; choose with --device cpu or cuda:N; several GPUs: torchrun"
_SETTING = "is a setting of the method: use --set {}=VALUE (`genft list methods NAME` lists them)"
#: Option names that genft has no option for, and what to do instead.
INSTEAD = {
    **dict.fromkeys(
        ("--dataset", "--dataset-name", "--train-file", "--task", "--task-name", "--tasks"), _FIRST_ARGUMENT
    ),
    **dict.fromkeys(("--gpu", "--gpus", "--cuda", "--device-map"), _DEVICE),
    **dict.fromkeys(
        ("--bf16", "--fp16", "--mixed-precision", "--torch-dtype", "--dtype"),
        "use --precision bf16 (or fp16, on a GPU without bf16)",
    ),
    **dict.fromkeys(("--load-in-4bit", "--use-4bit"), "use --quantise 4bit"),
    **dict.fromkeys(("--load-in-8bit", "--int8"), "use --quantise 8bit"),
    **dict.fromkeys(("--rank", "--lora-r", "--lora-rank", "--r"), _SETTING.format("r")),
    "--lora-alpha": _SETTING.format("lora_alpha"),
    "--lora-dropout": _SETTING.format("lora_dropout"),
    "--target-modules": _SETTING.format("target_modules"),
    "--lora-target": _SETTING.format("target_modules"),
    "--resume": "run the same command again; an interrupted run resumes where it stopped",
    "--resume-from-checkpoint": "run the same command again; an interrupted run resumes where it stopped",
}


def translate(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the words of a command line, with the values of :data:`OPTIONAL_VALUES` filled in.

    Raises:
        ConfigError: an option that has another name in genft, or no equivalent.
    """
    problems = []
    for word in words:
        if word == "--":
            break
        name = word.partition("=")[0]
        if not name.startswith("--") or name in known:
            continue
        dashed = name.replace("_", "-").lower()
        here = dashed if dashed in known else ELSEWHERE.get(dashed)
        if here in known:
            problems.append(f"{name}: is called {here} in genft")
        elif dashed in INSTEAD:
            problems.append(f"{name}: {INSTEAD[dashed]}")
    if problems:
        raise ConfigError(problems)
    return _with_values(words, known)


def _is_address(word: str) -> bool:
    return word in ("local", "auto") or ":" in word


#: Options whose value may be omitted, which typer does not support: the value to use, and a test for a given value.
OPTIONAL_VALUES: dict[str, tuple[str, Callable[[str], bool]]] = {"--ray": ("local", _is_address)}


def _with_values(words: Sequence[str], known: Collection[str]) -> list[str]:
    complete: list[str] = []
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        complete.append(word)
        if word in known and word in OPTIONAL_VALUES:
            value, is_value = OPTIONAL_VALUES[word]
            complete += [] if is_value(following) else [value]
    return complete
