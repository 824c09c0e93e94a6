"""The options that several commands share, in groups. Each is declared here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from genft.cli.declare import Options, argument, option
from genft.errors import ConfigError
from genft.runs.protocols import PROTOCOLS


class JsonOptions(Options):
    panel = "Output"
    as_json: bool = option(
        "Print JSON on stdout, for scripts; everything else goes to stderr.", False, names=("--json",)
    )


class OutputOptions(JsonOptions):
    out: Path = option("The folder for results and adapters.", Path("runs"))


class AgainOptions(Options):
    panel = "Output"
    again: bool = option("Run even if the result exists.", False)


class ConfigOptions(Options):
    panel = "Output"
    config: Path | None = option(
        "A .toml file with options of this command (learning_rate = 0.01) and a table [settings] for --set; options on "
        "the command line win over it. Every finished run leaves such a file, genft_run.toml, beside its adapter.",
        None,
        metavar="FILE.toml",
    )


class TrackerOptions(Options):
    """Trackers are not part of a run's key."""

    panel = "Output"
    report_to: tuple[str, ...] = option(
        "tensorboard, mlflow, wandb or trackio; may be repeated. TensorBoard's files go to OUT/logs.", ()
    )


class FigureOptions(Options):
    panel = "Figures"
    format: str = option("Format of the figures: png, svg or pdf.", "png")


class DataRootOptions(Options):
    panel = "Data"
    data: Path | None = option(
        "The folder with a benchmark's data: GLUE, VTAB-1k, FGVC sets, or the folder above them.",
        None,
        metavar="ROOT",
        shown_default="the Hub",
    )


class ReadingOptions(Options):
    """How the user's own file is read."""

    panel = "Data"
    text_column: tuple[str, ...] = option(
        "The column with the text; give it twice for pairs of texts, or for questions and contexts.",
        (),
        shown_default="text, or as in training",
    )
    encoding: str = option("The encoding of text files.", "utf-8")


class NewTokensOptions(Options):
    panel = "Generated text"
    max_new_tokens: int | None = option(
        "The most tokens of a generated answer.", None, shown_default="128, or as in training", ge=1
    )


class PromptOptions(NewTokensOptions):
    """How prompts are written and answered, in tasks that generate text."""

    template: str | None = option(
        "The prompt, with columns in braces: 'Question: {question}\\nAnswer:'; or alpaca.",
        None,
        shown_default="follows from the columns",
    )
    chat: bool = option("Write prompts with the tokenizer's chat template.", False)
    system: str | None = option("The system message of chats that have none.", None)
    extract: str | None = option("What exact_match compares: last-number, or the whole text.", None)
    learn_prompts: bool = option("Prompts count in the loss too.", False)

    @property
    def prompting(self) -> dict[str, Any]:
        """The options that the user gave, as fields of :class:`~genft.data.prompting.Prompting`."""
        names = PromptOptions.model_fields
        given = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, False)}
        if "template" in given:  # a shell passes \n as two characters
            given["template"] = given["template"].replace("\\n", "\n")
        return given


class AnsweringOptions(Options):
    """How answers are found, in tasks whose answers are parts of a text."""

    panel = "Answers in texts"
    stride: int | None = option(
        "Tokens that neighbouring windows of a long context share.", None, shown_default="128", ge=0
    )
    max_answer_tokens: int | None = option("The most tokens of an answer.", None, shown_default="30", ge=1)

    @property
    def answering(self) -> dict[str, Any]:
        """The options that the user gave, as fields of :class:`~genft.data.answering.Answering`."""
        given = {name: getattr(self, name) for name in AnsweringOptions.model_fields}
        return {name: value for name, value in given.items() if value is not None}


class OwnDataOptions(ReadingOptions, PromptOptions, AnsweringOptions):
    """The content of the user's own file or folder."""

    panel = "Data"
    family: str | None = option(
        "The kind of task: classification, generation, spans (answers in texts), tokens (tags of words) or "
        "multilabel (any number of labels).",
        None,
        shown_default="follows from the columns",
    )

    label_column: str | None = option(
        "The column with the label.", None, shown_default="label, or the only column with a usual name"
    )
    columns: str | None = option(
        "The columns in one word: text=review,label=stars; text may be given twice for pairs of texts.", None
    )
    validation: Path | None = option(
        "The file with the rows that select the epoch.", None, shown_default="a tenth of the training rows"
    )
    test: Path | None = option(
        "The file with the rows to report on.", None, shown_default="a fifth of the training rows"
    )
    regression: bool = option("The label is a number, not a class.", False)

    @property
    def named_columns(self) -> tuple[tuple[str, ...], str | None]:
        """(the text columns, the label column) that the user named, by either kind of option."""
        if self.columns is None:
            return self.text_column, self.label_column
        if self.text_column or self.label_column:
            raise ConfigError("--columns: says the same as --text-column and --label-column; give one or the other")
        pairs = [part.partition("=") for part in self.columns.split(",")]
        for role, _, name in pairs:
            if role.strip() not in ("text", "label") or not name.strip():
                raise ConfigError(
                    f"--columns: received {self.columns!r}; allowed: text=COLUMN,label=COLUMN, with text once or twice"
                )
        texts, labels = ([n.strip() for role, _, n in pairs if role.strip() == wanted] for wanted in ("text", "label"))
        if len(labels) > 1:
            raise ConfigError(f"--columns: received {len(labels)} columns for the label; allowed: one")
        return tuple(texts), labels[0] if labels else None


class TaskOptions(OwnDataOptions, DataRootOptions):
    """One task, by name or as the user's own file."""

    task: str = argument(
        "A task of `genft list tasks`; a .csv, .tsv, .jsonl, .json or .parquet file with one row per example; a .conll "
        "file; a folder "
        "of images (class folders, or train, val and test with class folders in them); or a data set of the Hugging "
        "Face Hub, OWNER/NAME or OWNER/NAME:CONFIG.",
        metavar="TASK|FILE",
    )
    metric: str | None = option(
        "What selects the epoch and is reported: accuracy, macro_f1, f1 (two classes) or matthews; for numbers "
        "pearson or spearman; for generated text answer_loss, perplexity, exact_match, rouge1, rouge2, rougeL, bleu or "
        "chrf, where answer_loss selects; for answers in texts squad_f1 or squad_exact_match; for tags of words "
        "entity_f1, entity_precision, entity_recall or tag_accuracy; for several labels micro_f1 or subset_accuracy.",
        None,
        shown_default="the task's; accuracy, pearson, answer_loss, squad_f1 or entity_f1 for a file",
    )
    max_length: int | None = option(
        "Tokens per text, per prompt with its answer, or per question with its context; longer texts are truncated, "
        "longer contexts split.",
        None,
        shown_default="the task's; 128 for a file, 512 with prompts, 384 with contexts",
        ge=2,
    )

    #: Options that describe a file; a listed task defines these itself.
    OF_A_FILE: ClassVar = ("family", "text_column", "label_column", "columns", "validation", "test")


class TasksOptions(DataRootOptions):
    """Many tasks."""

    tasks: tuple[str, ...] = argument(
        "glue, vtab1k, fgvc, tasks of `genft list tasks`, or a .toml file of your own.", metavar="SUITE|TASK..."
    )


class RoleOptions(Options):
    """Which examples train, select and report. A limited run is marked wherever its score appears."""

    panel = "Data"
    protocol: str | None = option(
        f"Which split selects and which one reports: {', '.join(PROTOCOLS)}.", None, shown_default="the task's"
    )
    limit_train: int | None = option("Use only this many training examples.", None, ge=2)
    limit_eval: int | None = option("Evaluate on only this many examples.", None, ge=2)
    limit_select: int | None = option(
        "Select on only this many examples.", None, shown_default="same as --limit-eval", ge=2
    )

    @property
    def given(self) -> dict[str, Any]:
        """The options that the user gave, as fields of a :class:`~genft.runs.spec.RunSpec`."""
        return self.model_dump(exclude_none=True)


class ModelOptions(Options):
    panel = "Model and method"
    model: str = option(
        "A packaged model (`genft list models`), a folder, a model of the Hugging Face Hub, or a timm name.",
        names=("--model", "-m"),
    )
    preset: str | None = option(
        "A named set of hyper-parameters, or your own .toml file.", None, shown_default="default; for `study`: study"
    )


class SettingOptions(Options):
    panel = "Model and method"
    settings: tuple[str, ...] = option(
        "A setting of the method (`genft list methods NAME`); may be repeated.",
        (),
        names=("--set",),
        metavar="KEY=VALUE",
    )


class MethodOptions(SettingOptions):
    method: str | None = option("A method of `genft list methods`.", None, shown_default="genft")
    seed: int | None = option(
        "Seed for the head, the adapter and the order of the examples.", None, shown_default="0", ge=0
    )


class SeedsOptions(Options):
    panel = "Runs"
    seeds: str = option("Seeds, separated by commas.", "0,1,2")


class SweepOptions(SeedsOptions):
    """Options of the commands that execute many runs."""

    jobs: int = option("Number of runs to execute at the same time.", 1, ge=1)
    dry_run: bool = option("Only show what would run.", False)


class SavedOptions(Options):
    """A saved adapter."""

    adapter: Path = argument("A folder saved by `genft train` or peft.", metavar="ADAPTER")
    base: str | None = option("The base model, if it is not the one that the adapter names.", None)


class OpenOptions(SavedOptions):
    """A saved adapter, which may have been saved by peft alone."""

    num_labels: int | None = option("Number of outputs of the head; only for a folder saved by peft alone.", None, ge=1)


class InputOptions(Options):
    input: Path | None = option(
        "Rows as in training (.csv, .tsv, .jsonl, .json), an image, or a folder of images.",
        None,
        names=("--input", "-i"),
    )
