"""Prompts that get an answer in words, and texts that are learned as a whole: decoders and encoder-decoders.

Every epoch is selected by the loss of the answers, which costs no generation. Once trained, the model answers the
prompts of the reporting split, if the metric scores texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers

from genft.data.encode import Encoded, Item
from genft.data.own_table import OwnTable
from genft.data.preprocessing import Preprocessing
from genft.data.prompts import as_chat, find_prompt_columns, read_messages, read_prompts
from genft.data.tables import Table
from genft.data.task import Split, Task
from genft.errors import ConfigError, DataError, first_line, not_one_of
from genft.families.family import Family, Judged, Options, Words, refuse_other_settings
from genft.families.generation.decoding import Sampling, answer_losses, generate
from genft.families.generation.encoding import PromptDataset, Writer, collator
from genft.families.metrics import METRICS, Array, Metric, metrics_of
from genft.families.summed import SummedFamily
from genft.families.text_scores import TextScore
from genft.models.load import Head, LoadedModel
from genft.models.source import ModelSource
from genft.records import check

_LOSSES = ("answer_loss", "perplexity")
_DECODER = Head("AutoModelForCausalLM", "text", {}, "CAUSAL_LM", "generate text", new=False, padding_side="left")
_ENCODER_DECODER = Head("AutoModelForSeq2SeqLM", "text", {}, "SEQ_2_SEQ_LM", "generate text", new=False)


class Generation(SummedFamily):
    """Answers to prompts. An example's label holds its answers, the first of which is learned; none: a whole text.

    Attributes:
        encoder_decoder: what the model is, once it is known.
    """

    name = "generation"

    def __init__(self, task: Task, encoder_decoder: bool = False) -> None:
        super().__init__(task)
        self.encoder_decoder = encoder_decoder

    @classmethod
    def of_file(cls, task: Task, file: OwnTable) -> Task | None:
        found = find_prompt_columns(file)
        if found is None:
            return None
        columns = {"text_columns": found.prompt, "label_column": found.answer, "prompting": found.prompting}
        return task.model_copy(update={"family": cls.name, "reader": "prompts", **columns})

    @property
    def usual_values(self) -> dict[str, Any]:
        return {
            "metric": "answer_loss" if self.task.label_column else "perplexity",
            "max_length": 512,
            "training": {"epochs": 3, "batch_size": 8, "eval_batch_size": 8},
        }

    def for_training(self, train: Split, loaded: LoadedModel) -> Family:
        return Generation(self.task, _has_encoder(loaded.model))

    def check(self, training: Options) -> None:
        metric = self.metric
        if not self.task.label_column and metric.name not in _LOSSES:
            raise ConfigError(
                f"metric: {metric.name!r} compares answers, and the texts of {self.task.name} have none; "
                f"allowed: {', '.join(_LOSSES)}"
            )
        if metric.name not in _LOSSES:
            TextScore(metric.name).check_installed()
        refuse_other_settings(self.task, own="prompting")
        if training.class_weights != "none":
            raise ConfigError("class_weights: applies to classes, and this task generates text")
        if training.augment != "none":
            raise ConfigError("augment: applies to images, and this task has texts")

    @property
    def metric(self) -> Metric:
        of_texts = metrics_of(self.name)
        if self.task.metric not in of_texts:
            raise ConfigError(not_one_of("metric", self.task.metric, of_texts, what="cannot score generated texts"))
        return of_texts[self.task.metric]

    @property
    def selects(self) -> Metric:
        return self.metric if self.metric.name in _LOSSES else METRICS["answer_loss"]

    @property
    def for_selection(self) -> Family:
        return Generation(self.task.model_copy(update={"metric": self.selects.name}))

    @property
    def answers(self) -> str:
        if not self.task.label_column:
            return "the next token"
        return "replies in chats" if self.task.prompting.chat else "answers to prompts"

    @property
    def words(self) -> Words:
        return Words(meaning="a text", example='"a prompt"', returns="the generated texts", pipeline=None)

    # ---------------------------------------------------------------- the model

    @property
    def head(self) -> Head:
        return _DECODER

    def head_for(self, source: ModelSource) -> Head:
        try:
            config = transformers.AutoConfig.from_pretrained(source.folder, **source.arguments)
        except (ValueError, OSError, KeyError) as e:
            raise ConfigError(f"model: {source.name}: its config.json cannot be used: {first_line(e)}") from None
        return _ENCODER_DECODER if config.is_encoder_decoder else _DECODER

    def load(self, source: ModelSource, **how: Any) -> LoadedModel:
        loaded = super().load(source, **how)
        if loaded.tokenizer.pad_token is None:
            raise ConfigError(
                f"model: the tokenizer of {source.name} has neither a token for padding nor one that ends"
            )
        return loaded

    def _writer(self, tokenizer: Any, preprocessing: Preprocessing, model: Any) -> Writer:
        return Writer(
            tokenizer, self.task.prompting, preprocessing.max_length or self.task.max_length, _has_encoder(model)
        )

    # ---------------------------------------------------------------- examples

    def encode(
        self, split: Split, loaded: LoadedModel, *, augment: str = "none", several_passes: bool = False
    ) -> PromptDataset:
        writer = self._writer(loaded.tokenizer, loaded.preprocessing, loaded.model)
        return PromptDataset([text for (text,) in split.inputs], split.labels, writer, learned=several_passes)

    def collator(self, loaded: LoadedModel) -> Any:
        return collator(loaded.tokenizer, loaded.model)

    def model_input(self, item: Item) -> dict[str, Any]:
        return {key: torch.as_tensor(value)[None] for key, value in item.items()}  # an encoder-decoder needs the answer

    # ---------------------------------------------------------------- predictions

    def kept_outputs(self, outputs: Any, labels: Any) -> Any:
        """(the summed loss of an example's learned tokens, their number), (batch, 2)."""
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        return answer_losses(logits, labels, encoder_decoder=self.encoder_decoder)

    def scores(self, predicted: Array, target: Array) -> dict[str, float]:
        return {name: METRICS[name].score(predicted, target) for name in _LOSSES}

    def judge(
        self,
        split: Split,
        loaded: LoadedModel,
        model: Any,
        training: Options,
        evaluate: Callable[[Encoded], tuple[Array, Array]],
    ) -> Judged:
        losses, _ = evaluate(self.encode(split, loaded))
        scores = self.scores(losses, self.targets(losses))
        if self.metric.name in _LOSSES:
            return Judged(losses, self.targets(losses), scores)
        prompts, references = _grouped(split)
        writer = self._writer(loaded.tokenizer, loaded.preprocessing, loaded.model)
        texts = generate(model, writer, prompts, batch_size=training.eval_batch_size)
        statistics: dict[str, Array] = {}
        for name in self._reported:
            statistics[name] = TextScore(name, self.task.prompting.extract).statistics(texts, references)
            scores[name] = METRICS[name].score(statistics[name], self.targets(statistics[name]))
        predicted = statistics[self.metric.name]
        return Judged(predicted, self.targets(predicted), scores)

    @property
    def _reported(self) -> list[str]:
        """The scores of texts that are reported: next to exact_match, no similarity of texts says anything."""
        wanted = self.metric.name
        names = [name for name in metrics_of(self.name) if name not in (*_LOSSES, "exact_match")]
        others = [] if wanted == "exact_match" else [n for n in names if n == wanted or TextScore(n).is_installed]
        return list(dict.fromkeys((wanted, *others)))

    # ---------------------------------------------------------------- use

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("prompt",)

    def inputs(self, table: Table, columns: Sequence[str]) -> list[tuple[str, ...]]:
        task = self.task.model_copy(update={"text_columns": tuple(columns)})
        return list(read_prompts(table, task, answered=False).split.inputs)

    def predict(
        self,
        model: Any,
        tokenizer: Any,
        preprocessing: Preprocessing,
        inputs: Sequence[tuple[str, ...]],
        batch_size: int,
        options: Mapping[str, Any],
    ) -> list[str]:
        """The generated texts. A prompt of a chat task may be the message of a user, or messages as JSON."""
        prompting, given = self.task.prompting, dict(options)
        if (most := given.pop("max_new_tokens", None)) is not None:
            prompting = prompting.model_copy(update={"max_new_tokens": most})
        sampling = check(Sampling, given, "options")
        task = self.task.model_copy(update={"prompting": prompting})
        writer = Generation(task)._writer(tokenizer, preprocessing, model)
        prompts = [_as_messages(text, prompting.system) if prompting.chat else text for (text,) in inputs]
        return generate(model, writer, prompts, sampling, batch_size=min(batch_size, 16))

    def answer(self, output: Any) -> Mapping[str, Any]:
        return {"generated": output}

    def label_in_words(self, label: Any) -> Any:
        return " | ".join(label)

    def badness(self, output: Any, label: Any) -> float:
        """0 for one of the answers, 1 for any other text."""
        return float(output.strip() not in {answer.strip() for answer in label})

    def details(self, output: Any, inputs: tuple[str, ...]) -> Mapping[str, Any]:
        (text,) = inputs
        return {"asked": json.loads(text) if self.task.prompting.chat else text}

    def columns(self, output: Any, inputs: tuple[str, ...]) -> Mapping[str, Any]:
        return {"asked": inputs[0]}


def _has_encoder(model: Any) -> bool:
    return bool(model.config.is_encoder_decoder)


def _grouped(split: Split) -> tuple[list[str], list[tuple[str, ...]]]:
    """(the different prompts, all answers of each)."""
    answers: dict[str, list[str]] = {}
    for (text,), of_text in zip(split.inputs, split.labels, strict=True):
        answers.setdefault(text, []).extend(of_text)
    return list(answers), [tuple(of_text) for of_text in answers.values()]


def _as_messages(text: str, system: str) -> str:
    """A chat as JSON, whether given so or as the message of a user."""
    if text.lstrip().startswith("[{"):
        try:
            return json.dumps(read_messages(json.loads(text), "prompt"), ensure_ascii=False)
        except (ValueError, DataError):  # a message that looks like a list
            pass
    return as_chat(text, system)
