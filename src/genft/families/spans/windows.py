"""Questions and contexts as windows of tokens: a long context is split, and its windows are put together again.

A window is the question, then as much of the context as fits. A window without a whole answer has its label on the
token that stands for "no answer": the classification token, or the first one of a tokenizer that has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genft.data.answering import Answering
from genft.data.encode import PAD_TO, Encoded, Item
from genft.data.questions import Answer
from genft.errors import ConfigError

Ints = NDArray[np.int32]

#: The columns of a window's labels: the first token of the context and the one after its last, the token that stands
#: for no answer, the first and the last token of the answer, and the width of the padded batch.
FIRST, END, NONE, START, LAST, WIDTH = range(6)

#: The columns of what evaluation keeps of a window: the best answer's first and last token, its score, the score of no
#: answer, and the logarithm of the sum of both softmaxes' denominators.
BEST_START, BEST_LAST, SCORE, NO_SCORE, NORM = range(5)

_TOKENISED_AT_ONCE = 1000
_FEWEST_TOKENS = 16


class Found(NamedTuple):
    """The best answer to a question.

    Attributes:
        text, start: the part of the context, and where it begins there in characters.
        probability: of its first token times that of its last, in its window.
        margin: by how much "no answer" is more likely, in nats; infinite if no token of the context can be an answer.
        none_probability: the probability of no answer, in the window where that is least likely.
    """

    text: str
    start: int
    probability: float
    margin: float
    none_probability: float


@dataclass(frozen=True)
class Windower:
    """Splits questions and contexts into windows for one model.

    Attributes:
        tokenizer: the model's.
        max_length: the most tokens of a window.
        answering: the task's.
    """

    tokenizer: Any
    max_length: int
    answering: Answering

    def __post_init__(self) -> None:
        if not self.tokenizer.is_fast:
            raise ConfigError("model: its tokenizer does not tell where tokens are in the text; choose another model")
        if self.max_length < _FEWEST_TOKENS:
            raise ConfigError(
                f"max_length: {self.max_length} tokens do not hold a question with its context; at least "
                f"{_FEWEST_TOKENS} are needed"
            )

    @property
    def most_of_question(self) -> int:
        """The most tokens of a question; so that windows do not depend on each other, it follows from max_length."""
        return self.max_length // 3

    @property
    def stride(self) -> int:
        """The tokens that neighbouring windows share, which leaves every window some of its own."""
        return min(self.answering.stride, self.max_length // 3)

    def shortened(self, questions: Sequence[str]) -> tuple[list[str], int]:
        """(the questions without their end if they are too long, how many are)."""
        tokens = self.tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True)
        short, most = list(questions), self.most_of_question
        long = [k for k, ids in enumerate(tokens["input_ids"]) if len(ids) > most]
        for k in long:
            short[k] = questions[k][: tokens["offset_mapping"][k][most - 1][1]]
        return short, len(long)

    def windows(self, questions: Sequence[str], contexts: Sequence[str]) -> Any:
        """The windows of several questions, as the tokenizer returns them."""
        return self.tokenizer(
            list(questions),
            list(contexts),
            truncation="only_second",
            max_length=self.max_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def none_token(self, ids: Sequence[int]) -> int:
        """The token of a window that stands for no answer."""
        token = self.tokenizer.cls_token_id
        return list(ids).index(token) if token is not None and token in ids else 0


class WindowDataset(Encoded):
    """Windows of questions and contexts; padding happens per batch.

    Attributes:
        inputs: (question, context) of every question.
        answers: the right answers of every question; None if they are not known.
        question: the question of every window.
        offsets: where every window's tokens are in the context, (tokens, 2).
    """

    def __init__(
        self,
        inputs: Sequence[tuple[str, ...]],
        answers: Sequence[Sequence[Answer]] | None,
        windower: Windower,
    ) -> None:
        super().__init__(None, int)
        self.inputs, self.answers = inputs, answers
        self.question: list[int] = []
        self.offsets: list[Ints] = []
        self.tokens: list[dict[str, Ints]] = []
        self.targets: list[list[int]] = []
        long = 0
        for first in range(0, len(inputs), _TOKENISED_AT_ONCE):
            part = inputs[first : first + _TOKENISED_AT_ONCE]
            questions, shortened = windower.shortened([question for question, _ in part])
            long += shortened
            windows = windower.windows(questions, [context for _, context in part])
            for w, sample in enumerate(windows["overflow_to_sample_mapping"]):
                self._add(windows, w, first + sample, windower)
        self.lengths = [len(tokens["input_ids"]) for tokens in self.tokens]
        self.notes = self._notes(long, windower)

    def _add(self, windows: Any, w: int, question: int, windower: Windower) -> None:
        parts = windows.encodings[w].sequence_ids
        inside = [k for k, part in enumerate(parts) if part == 1]
        first, end = (inside[0], inside[-1] + 1) if inside else (0, 0)
        offsets = np.asarray(windows["offset_mapping"][w], dtype=np.int32)
        none = windower.none_token(windows["input_ids"][w])
        right = self.answers[question] if self.answers is not None else ()
        start, last = _answer_tokens(right[0], offsets, first, end) if right else (none, none)
        if start < 0:
            start = last = none
        names = windower.tokenizer.model_input_names
        self.tokens.append({k: np.asarray(windows[k][w], dtype=np.int32) for k in names if k in windows})
        self.question.append(question)
        self.offsets.append(offsets)
        self.targets.append([first, end, none, start, last, 0])

    def _notes(self, long: int, windower: Windower) -> tuple[str, ...]:
        count, limit = len(self.inputs), f"max_length {windower.max_length}"
        notes = []
        if len(self.question) > count:
            split = int((np.bincount(self.question, minlength=count) > 1).sum())
            contexts = "1 context is" if split == 1 else f"{split:,} contexts are"
            notes.append(
                f"{contexts} longer than {limit} allows: {count:,} questions become {len(self.question):,} windows, "
                f"which share {windower.stride} tokens and count as examples of a batch"
            )
        if long:
            questions = "1 question loses its" if long == 1 else f"{long:,} questions lose their"
            notes.append(f"{questions} end ({limit} leaves room for {windower.most_of_question} tokens)")
        whole = {q for q, target in zip(self.question, self.targets, strict=True) if target[START] != target[NONE]}
        missed = sum(bool(right) for right in self.answers or ()) - len(whole)
        if missed:
            answers = "1 answer is" if missed == 1 else f"{missed:,} answers are"
            notes.append(f"{answers} in no window as a whole, and learned as no answer")
        return tuple(notes)

    def __getitem__(self, index: int) -> Item:
        item: Item = {name: values.tolist() for name, values in self.tokens[index].items()}
        return {**item, "labels": self.targets[index]}

    def put_together(self, outputs: NDArray[Any]) -> list[Found]:
        """The best answer to every question.

        Args:
            outputs: what is kept of every window, (windows, 5), in order.
        """
        best = np.full(len(self.inputs), -1)
        least = np.full(len(self.inputs), -1)
        for w, question in enumerate(self.question):
            if best[question] < 0 or outputs[w, SCORE] > outputs[best[question], SCORE]:
                best[question] = w
            if least[question] < 0 or outputs[w, NO_SCORE] < outputs[least[question], NO_SCORE]:
                least[question] = w
        return [self._found(q, outputs, *windows) for q, windows in enumerate(zip(best, least, strict=True))]

    def _found(self, question: int, outputs: NDArray[Any], window: int, least: int) -> Found:
        score, none = float(outputs[window, SCORE]), float(outputs[least, NO_SCORE])
        none_probability = float(np.exp(none - outputs[least, NORM]))
        if not np.isfinite(score):
            return Found("", 0, 0.0, float("inf"), none_probability)
        offsets, context = self.offsets[window], self.inputs[question][1]
        start, end = (int(offsets[int(outputs[window, k]), side]) for k, side in ((BEST_START, 0), (BEST_LAST, 1)))
        text = context[start:end]
        start += len(text) - len(text.lstrip())  # in some tokenizers, the space before a word belongs to it
        return Found(text.strip(), start, float(np.exp(score - outputs[window, NORM])), none - score, none_probability)


def _answer_tokens(answer: Answer, offsets: Ints, first: int, end: int) -> tuple[int, int]:
    """(the first, the last token of an answer) among the tokens ``first`` to ``end`` of a window; -1 if it is not all
    there."""
    inside = offsets[first:end]
    start, stop = answer.start, answer.start + len(answer.text)
    if not len(inside) or inside[0, 0] > start or inside[-1, 1] < stop:
        return -1, -1
    covers = np.flatnonzero((inside[:, 1] > start) & (inside[:, 0] < stop))
    return (first + int(covers[0]), first + int(covers[-1])) if len(covers) else (-1, -1)


@dataclass(frozen=True)
class Collator:
    """Pads windows on the right, whatever side the tokenizer pads on, and notes the width of the batch."""

    tokenizer: Any

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        texts = [{name: value for name, value in item.items() if name != "labels"} for item in items]
        batch = dict(self.tokenizer.pad(texts, padding_side="right", pad_to_multiple_of=PAD_TO, return_tensors="pt"))
        batch["labels"] = torch.tensor([item["labels"] for item in items])
        batch["labels"][:, WIDTH] = batch["input_ids"].shape[1]
        return batch


def aligned(logits: Tensor, width: int) -> Tensor:
    """Logits (windows, width) without the positions of soft prompts, which stand in front of the texts.

    In several processes, ``Trainer`` has made the batches equally wide with columns of -100.
    """
    while logits.shape[1] > width and bool((logits[:, -1] == -100).all()):
        logits = logits[:, :-1]
    return logits[:, logits.shape[1] - width :].float()


def best_spans(start_logits: Tensor, end_logits: Tensor, labels: Tensor, most: int) -> Tensor:
    """The best answer of every window, (windows, 5), float32: see :data:`BEST_START`.

    Args:
        start_logits, end_logits: (windows, tokens).
        labels: (windows, 6).
        most: the most tokens of an answer.
    """
    width = int(labels[0, WIDTH])
    starts, ends = aligned(start_logits, width), aligned(end_logits, width)
    place = torch.arange(width, device=starts.device)
    inside = (place >= labels[:, FIRST, None]) & (place < labels[:, END, None])
    allowed = inside | (place == labels[:, NONE, None])
    norm = sum(x.masked_fill(~allowed, -torch.inf).logsumexp(dim=1) for x in (starts, ends))
    rows = torch.arange(len(labels), device=starts.device)
    none = starts[rows, labels[:, NONE]] + ends[rows, labels[:, NONE]]
    starts, ends = (x.masked_fill(~inside, -torch.inf) for x in (starts, ends))
    most = min(most, width)
    following = torch.nn.functional.pad(ends, (0, most - 1), value=-torch.inf).unfold(1, most, 1)
    score, best = (starts[:, :, None] + following).flatten(1).max(dim=1)
    start = best // most
    return torch.stack([start.float(), (start + best % most).float(), score, none, torch.as_tensor(norm)], dim=1)


def span_loss(outputs: Any, labels: Tensor, items: Tensor | int | None, label_smoothing: float) -> Tensor:
    """The mean cross-entropy of the answers' first and last tokens, over the windows of the whole batch.

    Args:
        outputs: the model's, with ``start_logits`` and ``end_logits``.
        labels: (windows, 6).
        items: the numbers in all labels of the batch, if it is processed in parts.
        label_smoothing: see :class:`genft.runs.settings.Training`.
    """
    width = int(labels[0, WIDTH])
    losses = [
        torch.nn.functional.cross_entropy(
            aligned(outputs[name], width), labels[:, column], reduction="sum", label_smoothing=label_smoothing
        )
        for name, column in (("start_logits", START), ("end_logits", LAST))
    ]
    windows = len(labels) if items is None else items / labels.shape[1]
    return (losses[0] + losses[1]) / 2 / windows
