"""Texts whose words get one tag each: named entities, or one class per word, such as its part of speech.

Entities are scored as a whole: the right words with the right type. The epoch is selected by the reported metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForTokenClassification

from genft.data.encode import PAD_TO, Encoded
from genft.data.own_table import OwnTable
from genft.data.preprocessing import Preprocessing
from genft.data.tables import Table
from genft.data.tagged import OUTSIDE, find_tagged_columns, is_entity
from genft.data.task import Split, Task
from genft.errors import ConfigError, DataError, not_one_of
from genft.families.family import Evaluate, Judged, Options, Words, refuse_other_settings
from genft.families.metrics import METRICS, Array, Metric, metrics_of
from genft.families.predictor import logits_of, names_of_outputs, refuse_options
from genft.families.summed import SummedFamily
from genft.families.tokens.encoding import NOT_COUNTED, TaggedDataset
from genft.families.tokens.entities import entities, entity_counts, tag_counts
from genft.models.load import Head, LoadedModel

#: Punctuation that a text has around an entity's words, and that does not belong to the entity.
_AROUND = ",;:!?\"'()[]{}…“”‘’«»"


class Tokens(SummedFamily):
    """One tag per word. An example's input is a sentence, its label the tags of its words."""

    name = "tokens"

    @classmethod
    def of_file(cls, task: Task, file: OwnTable) -> Task | None:
        found = find_tagged_columns(file)
        if found is None:
            return None
        columns = {"text_columns": (found.words,), "label_column": found.tags}
        return task.model_copy(update={"family": cls.name, "reader": "tagged", **columns})

    @property
    def usual_values(self) -> dict[str, Any]:
        return {"metric": "entity_f1"}

    def check(self, training: Options) -> None:
        _ = self.metric
        if len(self.task.text_columns) != 1:
            raise ConfigError(f"text columns: {', '.join(self.task.text_columns)}; one column of words is needed")
        refuse_other_settings(self.task)
        if training.class_weights != "none":
            raise ConfigError("class_weights: applies to classes of whole texts, and this task has tags of words")
        if training.augment != "none":
            raise ConfigError("augment: applies to images, and this task has texts")

    @property
    def types(self) -> tuple[str, ...]:
        """The types of entities; empty if tags mark none."""
        return tuple(dict.fromkeys(tag[2:] for tag in self.task.classes if is_entity(tag)))

    @property
    def metric(self) -> Metric:
        known = metrics_of(self.name)
        allowed = known if self.types or not self.task.classes else {"tag_accuracy": known["tag_accuracy"]}
        if self.task.metric not in allowed:
            what = (
                "cannot score tags of words" if self.task.metric not in known else "needs entities, and there are none"
            )
            raise ConfigError(not_one_of("metric", self.task.metric, allowed, what=what))
        return allowed[self.task.metric]

    @property
    def answers(self) -> str:
        types = self.types
        if types:
            return "entities of 1 type" if len(types) == 1 else f"entities of {len(types)} types"
        return f"one of {len(self.task.classes)} tags per word"

    @property
    def words(self) -> Words:
        of_entities = bool(self.types)
        return Words(
            meaning=", ".join(self.types or self.task.classes),
            example='("Barack Obama was born in Honolulu .",)',
            returns="entities with their places and probabilities" if of_entities else "words with their tags",
            labels=self.task.classes,
            pipeline="token-classification",
        )

    @property
    def head(self) -> Head:
        config = names_of_outputs(self.task.classes)
        return Head("AutoModelForTokenClassification", "text", config, "TOKEN_CLS", "tag words")

    # ---------------------------------------------------------------- examples

    def encode(
        self, split: Split, loaded: LoadedModel, *, augment: str = "none", several_passes: bool = False
    ) -> TaggedDataset:
        texts = [text for (text,) in split.inputs]
        return TaggedDataset(
            texts, split.labels, self.task.classes, loaded.tokenizer, self._longest(loaded.preprocessing)
        )

    def _longest(self, preprocessing: Preprocessing) -> int:
        return preprocessing.max_length or self.task.max_length

    def collator(self, loaded: LoadedModel) -> Any:
        return DataCollatorForTokenClassification(loaded.tokenizer, pad_to_multiple_of=PAD_TO)

    # ---------------------------------------------------------------- predictions

    def kept_outputs(self, outputs: Any, labels: Any) -> Any:
        """The most likely tag of every token, (n, max_length); −100 behind the end of the batch."""
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        best = logits.argmax(dim=-1)
        room = max(0, self.task.max_length + PAD_TO - best.shape[1])
        return torch.nn.functional.pad(best, (0, room), value=NOT_COUNTED)

    def selecting_score(self, outputs: Array, labels: Array, data: Encoded) -> float:
        counted = self._counts(self.metric.name, outputs, data)
        return self.metric.score(counted, self.targets(counted))

    @property
    def _missing(self) -> int:
        """The number of the tag of words that were cut off: outside of any entity, if there are entities."""
        return self.task.classes.index(OUTSIDE) if OUTSIDE in self.task.classes else 0

    def _tags(self, outputs: Array, data: Any) -> list[list[str]]:
        """The predicted tags of every sentence's words; those that were cut off are outside of any entity."""
        numbers = (data.of_words(k, of_sentence, self._missing) for k, of_sentence in enumerate(outputs.astype(int)))
        return [[self.task.classes[k] for k in of_sentence] for of_sentence in numbers]

    def _counts(self, metric: str, outputs: Array, data: Any) -> Array:
        """(right, found, true) of every sentence."""
        count = tag_counts if metric == "tag_accuracy" else entity_counts
        pairs = zip(self._tags(outputs, data), data.tags, strict=True)
        return np.array([count(predicted, true) for predicted, true in pairs], dtype=float)

    def judge(self, split: Split, loaded: LoadedModel, model: Any, training: Options, evaluate: Evaluate) -> Judged:
        data = self.encode(split, loaded)
        outputs, _ = evaluate(data)
        names = list(metrics_of(self.name)) if self.types else ["tag_accuracy"]
        counted = {name: self._counts(name, outputs, data) for name in names}
        target = self.targets(counted[self.metric.name])
        scores = {name: METRICS[name].score(of, target) for name, of in counted.items()}
        return Judged(counted[self.metric.name], target, scores)

    # ---------------------------------------------------------------- use

    def inputs(self, table: Table, columns: Sequence[str]) -> list[tuple[str, ...]]:
        """Sentences: lists of words, or texts, in the column of words or, if the file has none, in ``text``."""
        (name,) = columns
        name = name if name in table.columns or "text" not in table.columns else "text"
        if name not in table.columns:
            raise DataError(not_one_of(f"{table.path}: column", name, table.columns, what="is missing"))
        values = [row.get(name) for row in table.rows]
        return [(" ".join(map(str, value)) if isinstance(value, list) else str(value or ""),) for value in values]

    def predict(
        self,
        model: Any,
        tokenizer: Any,
        preprocessing: Preprocessing,
        inputs: Sequence[tuple[str, ...]],
        batch_size: int,
        options: Mapping[str, Any],
    ) -> list[list[dict[str, Any]]]:
        """The entities of each text: ``text``, ``type``, ``start`` and ``end`` in characters, ``probability``. Without
        entities among the tags, every word with its ``tag``.

        An entity's probability is the mean of its words' probabilities.
        """
        refuse_options(options, self.name)
        texts = [text for (text,) in inputs]
        data = TaggedDataset(texts, None, self.task.classes, tokenizer, self._longest(preprocessing))
        found: list[list[dict[str, Any]]] = [[] for _ in texts]
        for rows, logits in logits_of(model, tokenizer, data, batch_size):
            best = logits.softmax(dim=-1).max(dim=-1)
            for k, tags, likely in zip(rows, best.indices.numpy(), best.values.numpy(), strict=True):
                found[k] = self._found(texts[k], data, k, tags, likely)
        return found

    def _found(self, text: str, data: TaggedDataset, k: int, tags: Array, likely: Array) -> list[dict[str, Any]]:
        named = [self.task.classes[int(tag)] for tag in data.of_words(k, tags, self._missing)]
        probability = data.of_words(k, likely, 0.0)
        places = data.words[k]
        if not self.types:
            return [
                {"word": text[start:end], "tag": tag, "start": start, "end": end, "probability": float(p)}
                for (start, end), tag, p in zip(places, named, probability, strict=True)
            ]
        return [
            {
                **_without_punctuation(text, places[of.first][0], places[of.last][1]),
                "type": of.kind,
                "words": (of.first, of.last),
                "probability": float(np.mean(probability[of.first : of.last + 1])),
            }
            for of in entities(named)
        ]

    def answer(self, output: Any) -> Mapping[str, Any]:
        if not self.types:
            return {"tags": " ".join(f"{of['word']}/{of['tag']}" for of in output)}
        return {"found": "; ".join(f"{of['text']} ({of['type']}, {of['start']}–{of['end']})" for of in output)}

    def label_in_words(self, label: Any) -> Any:
        return " ".join(label)

    def badness(self, output: Any, label: Any) -> float:
        """What the F1 of the sentence's entities lacks of 1, or the share of wrong tags."""
        if not self.types:
            return float(np.mean([of["tag"] != tag for of, tag in zip(output, label, strict=True)]))
        found, true = {(of["type"], *of["words"]) for of in output}, set(map(tuple, entities(label)))
        return 1 - 2 * len(found & true) / (len(found) + len(true)) if found or true else 0.0

    def details(self, output: Any, inputs: tuple[str, ...]) -> Mapping[str, Any]:
        return {"entities" if self.types else "words": output}

    def columns(self, output: Any, inputs: tuple[str, ...]) -> Mapping[str, Any]:
        return {}


def _without_punctuation(text: str, start: int, end: int) -> dict[str, Any]:
    """An entity and its place, without the punctuation that a text has around it; a final stop stays in "U.S."."""
    while start < end - 1 and text[start] in _AROUND:
        start += 1
    while end > start + 1 and (text[end - 1] in _AROUND or (text[end - 1] == "." and "." not in text[start : end - 1])):
        end -= 1
    return {"text": text[start:end], "start": start, "end": end}
