"""Questions about a text whose answers are parts of it: extractive question answering, as in SQuAD.

The model gives every token of a window two scores, as the first and as the last token of the answer. The epoch is
selected by the reported metric, which costs no more than the loss. If some questions have no answer, the threshold
from which none is given is chosen on the selecting split, once the model is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from genft.data.encode import Encoded, longest_first
from genft.data.own_table import OwnTable
from genft.data.preprocessing import Preprocessing
from genft.data.questions import as_questions, find_question_columns
from genft.data.tables import Table
from genft.data.task import Split, Task
from genft.errors import ConfigError, GenFTError, not_one_of
from genft.families.family import Evaluate, Family, Judged, Options, Words, refuse_other_settings
from genft.families.metrics import METRICS, Array, Metric, metrics_of
from genft.families.predictor import refuse_options
from genft.families.spans.scores import SCORES, best_threshold, f1
from genft.families.spans.windows import Collator, Found, WindowDataset, Windower, best_spans, span_loss
from genft.families.summed import SummedFamily
from genft.models.load import Head, LoadedModel

_HEAD = Head("AutoModelForQuestionAnswering", "text", {"num_labels": 2}, "QUESTION_ANS", "find answers in texts")


class Spans(SummedFamily):
    """Answers that are parts of a context. An example's label holds the answers that are equally right."""

    name = "spans"
    splits_inputs = True

    @classmethod
    def of_file(cls, task: Task, file: OwnTable) -> Task | None:
        found = find_question_columns(file)
        if found is None:
            return None
        columns = {"text_columns": (found.question, found.context), "label_column": found.answers}
        return task.model_copy(update={"family": cls.name, "reader": "questions", **columns})

    @property
    def usual_values(self) -> dict[str, Any]:
        return {"metric": "squad_f1", "max_length": 384}

    def check(self, training: Options) -> None:
        _ = self.metric
        if len(self.task.text_columns) != 2:
            raise ConfigError(
                f"text columns: {', '.join(self.task.text_columns)}; a question and a context are needed, in this order"
            )
        refuse_other_settings(self.task, own="answering")
        if training.class_weights != "none":
            raise ConfigError("class_weights: applies to classes, and this task finds answers in texts")
        if training.augment != "none":
            raise ConfigError("augment: applies to images, and this task has texts")

    @property
    def metric(self) -> Metric:
        of_spans = metrics_of(self.name)
        if self.task.metric not in of_spans:
            raise ConfigError(not_one_of("metric", self.task.metric, of_spans, what="cannot score answers in texts"))
        return of_spans[self.task.metric]

    def on(self, task: Task) -> Family:
        return Spans(task.model_copy(update={"answering": self.task.answering}))

    @property
    def answers(self) -> str:
        return "answers in a text, or none" if self.task.answering.unanswerable else "answers in a text"

    @property
    def words(self) -> Words:
        return Words(
            meaning="a part of the context that answers the question",
            example='("a question", "its context")',
            returns="answers with their places and probabilities",
        )

    @property
    def head(self) -> Head:
        return _HEAD

    def loss(self, train: Split, training: Options) -> Callable[..., torch.Tensor] | None:
        smoothing = training.label_smoothing

        def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
            return span_loss(outputs, labels, num_items_in_batch, smoothing)

        return loss

    # ---------------------------------------------------------------- examples

    def _windower(self, tokenizer: Any, preprocessing: Preprocessing) -> Windower:
        return Windower(tokenizer, preprocessing.max_length or self.task.max_length, self.task.answering)

    def encode(
        self, split: Split, loaded: LoadedModel, *, augment: str = "none", several_passes: bool = False
    ) -> WindowDataset:
        return WindowDataset(split.inputs, split.labels, self._windower(loaded.tokenizer, loaded.preprocessing))

    def collator(self, loaded: LoadedModel) -> Any:
        return Collator(loaded.tokenizer)

    def run(self, model: Any, batch: Mapping[str, Any]) -> tuple[torch.Tensor, tuple[Any, ...]]:
        outputs = model(**{name: value for name, value in batch.items() if name != "labels"})
        return span_loss(outputs, batch["labels"], None, 0.0), (outputs["start_logits"], outputs["end_logits"])

    # ---------------------------------------------------------------- predictions

    def kept_outputs(self, outputs: Any, labels: Any) -> Any:
        """The best answer of every window, (windows, 5)."""
        return best_spans(outputs[0], outputs[1], labels, self.task.answering.max_answer_tokens)

    def selecting_score(self, outputs: Array, labels: Array, data: Encoded) -> float:
        decided = self._decided(outputs, data)
        statistics = decided._statistics(self.metric.name, outputs, data)
        return self.metric.score(statistics, self.targets(statistics))

    def decided(self, select: Split, loaded: LoadedModel, evaluate: Evaluate) -> Family:
        if not self.task.answering.unanswerable:
            return self
        data = self.encode(select, loaded)
        return self._decided(evaluate(data)[0], data)

    def _decided(self, outputs: Array, data: Any) -> Spans:
        """With the threshold that is best for these examples, if some questions have no answer."""
        if not self.task.answering.unanswerable:
            return self
        score = SCORES[self.metric.name]
        found, right = data.put_together(outputs), _texts(data.answers)
        answered = [score(of.text, answers) for of, answers in zip(found, right, strict=True)]
        withheld = [score("", answers) for answers in right]
        threshold = best_threshold([of.margin for of in found], answered, withheld)
        answering = self.task.answering.model_copy(update={"threshold": threshold})
        return Spans(self.task.model_copy(update={"answering": answering}))

    def _statistics(self, metric: str, outputs: Array, data: Any) -> Array:
        """(score, 1) of every question."""
        texts = [self._answer(of)["answer"] for of in data.put_together(outputs)]
        pairs = zip(texts, _texts(data.answers), strict=True)
        return np.array([[SCORES[metric](text, answers), 1.0] for text, answers in pairs])

    def judge(self, split: Split, loaded: LoadedModel, model: Any, training: Options, evaluate: Evaluate) -> Judged:
        data = self.encode(split, loaded)
        outputs, _ = evaluate(data)
        statistics = {name: self._statistics(name, outputs, data) for name in SCORES}
        target = self.targets(statistics[self.metric.name])
        scores = {name: METRICS[name].score(of, target) for name, of in statistics.items()}
        has_answer = np.array([bool(answers) for answers in split.labels])
        if 0 < has_answer.sum() < len(split):
            for name, of in statistics.items():
                scores[f"{name} (answerable)"] = float(of[has_answer, 0].mean())
            scores["squad_exact_match (unanswerable)"] = float(statistics["squad_exact_match"][~has_answer, 0].mean())
        return Judged(statistics[self.metric.name], target, scores)

    # ---------------------------------------------------------------- use

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("question", "context")

    def read(self, table: Table) -> Table:
        return as_questions(table)

    def predict(
        self,
        model: Any,
        tokenizer: Any,
        preprocessing: Preprocessing,
        inputs: Sequence[tuple[str, ...]],
        batch_size: int,
        options: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """The answer to each question: its text, ``start`` and ``end`` in the context in characters, and its
        probability; without an answer, an empty text and no place."""
        refuse_options(options, self.name)
        data = WindowDataset(inputs, None, self._windower(tokenizer, preprocessing))
        collate, device = Collator(tokenizer), next(model.parameters()).device
        order = longest_first(data.lengths)
        kept = np.zeros((len(data), 5), dtype=np.float32)
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            batch = {name: value.to(device) for name, value in collate([data[k] for k in rows]).items()}
            labels = batch.pop("labels")
            with torch.inference_mode():
                outputs = model(**batch)
                best = self.kept_outputs((outputs["start_logits"], outputs["end_logits"]), labels)
            kept[rows] = best.cpu().numpy()
        if bad := int(np.isnan(kept).any(axis=1).sum()):
            raise GenFTError(
                f"the model's outputs for {bad:,} of {len(data):,} windows are NaN, which is no answer; the adapter or "
                "its base holds values that are too large"
            )
        return [self._answer(found) for found in data.put_together(kept)]

    def _answer(self, found: Found) -> dict[str, Any]:
        answering = self.task.answering
        if found.margin == float("inf") or (answering.unanswerable and found.margin > answering.threshold):
            return {"answer": "", "start": None, "end": None, "probability": found.none_probability}
        end = found.start + len(found.text)
        return {"answer": found.text, "start": found.start, "end": end, "probability": found.probability}

    def answer(self, output: Any) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = output
        return answer

    def label_in_words(self, label: Any) -> Any:
        return " | ".join(dict.fromkeys(text for text, _ in label)) or "(no answer)"

    def badness(self, output: Any, label: Any) -> float:
        """What the answer's F1 lacks of 1."""
        return 1.0 - f1(output["answer"], [text for text, _ in label])


def _texts(answers: Sequence[Sequence[tuple[str, int]]]) -> list[list[str]]:
    return [[text for text, _ in of_question] for of_question in answers]
