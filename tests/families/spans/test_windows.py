"""Windows of long contexts: what they hold, where their answers are, and how they are put together again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genft import ConfigError
from genft.data.answering import Answering
from genft.data.questions import Answer
from genft.families.spans.windows import (
    BEST_LAST,
    BEST_START,
    END,
    FIRST,
    LAST,
    NO_SCORE,
    NONE,
    SCORE,
    START,
    WIDTH,
    Collator,
    WindowDataset,
    Windower,
    aligned,
    best_spans,
    span_loss,
)


@pytest.fixture(scope="module")
def tokenizer(bert: Path) -> Any:
    return hf.AutoTokenizer.from_pretrained(bert)


def windower(tokenizer: Any, **answering: Any) -> Windower:
    return Windower(tokenizer, 32, Answering(**answering))


def words(n: int) -> tuple[str, list[int]]:
    """(a context of n words, where each begins)."""
    names = [f"w{i % 20}" for i in range(n)]
    starts = [sum(len(name) + 1 for name in names[:i]) for i in range(n)]
    return " ".join(names), starts


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(1, 90), asked=st.integers(1, 20), first=st.integers(0, 89), size=st.integers(1, 8))
def test_an_answer_is_found_wherever_it_is(tokenizer: Any, length: int, asked: int, first: int, size: int) -> None:
    """Windows cover the context, and the answer's tokens lead back to its text and its place."""
    context, starts = words(length)
    first = first % length
    last = min(first + size, length) - 1
    text = context[starts[first] : starts[last] + len(context[starts[last] :].split()[0])]
    answer = Answer(text, starts[first])
    data = WindowDataset([("good " * asked, context)], [[answer]], windower(tokenizer))
    assert set(data.lengths) <= set(range(1, 33))
    covered: set[int] = set()
    outputs = np.zeros((len(data), 5))
    hits = 0
    for w, target in enumerate(data.targets):
        inside = data.offsets[w][target[FIRST] : target[END]]
        covered |= {int(start) for start, _ in inside}
        has = target[START] != target[NONE]
        hits += has
        outputs[w] = [target[START], target[LAST], 5.0 if has else 1.0, 0.0, 5.0]
        assert has == (starts[first] in inside[:, 0] and starts[first] + len(text) in inside[:, 1])
    assert covered == set(starts)
    assert hits >= 1
    (found,) = data.put_together(outputs)
    assert (found.text, found.start) == (text, starts[first])
    assert found.probability == 1.0
    assert found.margin == -5.0


def test_a_long_question_loses_its_end_and_is_counted(tokenizer: Any) -> None:
    context, _ = words(60)
    data = WindowDataset([("bad " * 30, context), ("bad", "w1")], [[Answer("w0", 0)], []], windower(tokenizer))
    assert data.targets[0][FIRST] == 1 + 32 // 3 + 1  # [CLS], a third of the window, [SEP]
    assert data.notes == (
        f"1 context is longer than max_length 32 allows: 2 questions become {len(data)} windows, which share 10 tokens "
        "and count as examples of a batch",
        "1 question loses its end (max_length 32 leaves room for 10 tokens)",
    )


def test_an_answer_that_no_window_holds_is_counted(tokenizer: Any) -> None:
    context, _ = words(60)
    data = WindowDataset([("bad", context)], [[Answer(context, 0)]], windower(tokenizer))
    assert data.notes[-1] == "1 answer is in no window as a whole, and learned as no answer"
    assert all(target[START] == target[LAST] == target[NONE] == 0 for target in data.targets)


def test_windows_too_small_for_a_question_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="max_length: 8 tokens do not hold a question with its context; at least 16"):
        Windower(tokenizer, 8, Answering())


def test_batches_are_padded_on_the_right_and_know_their_width(tokenizer: Any) -> None:
    data = WindowDataset([("good", "w1"), ("good", "w1 w2 w3 w4 w5 w6 w7")], None, windower(tokenizer))
    batch = Collator(tokenizer)([data[0], data[1]])
    assert batch["input_ids"].shape == (2, 16)
    assert batch["attention_mask"].sum(dim=1).tolist() == data.lengths
    assert batch["labels"][:, WIDTH].tolist() == [16, 16]
    assert batch["labels"][:, FIRST].tolist() == [3, 3]


@pytest.mark.parametrize("most", [1, 3, 30])
def test_the_best_answer_is_the_best_of_all_pairs(most: int) -> None:
    torch.manual_seed(1)
    width, rows = 12, 20
    starts, ends = torch.randn(2, rows, width, dtype=torch.float64).unbind()
    labels = torch.tensor([[3 + k % 3, 7 + k % 5, k % 2, 0, 0, width] for k in range(rows)])
    kept = best_spans(starts, ends, labels, most)
    for k in range(rows):
        first, end, none = (int(labels[k, c]) for c in (FIRST, END, NONE))
        pairs = {
            (i, j): float(starts[k, i] + ends[k, j]) for i in range(first, end) for j in range(i, min(i + most, end))
        }
        best = max(pairs, key=lambda pair: pairs[pair])
        assert (int(kept[k, BEST_START]), int(kept[k, BEST_LAST])) == best
        assert float(kept[k, SCORE]) == pytest.approx(pairs[best], abs=1e-5)
        assert float(kept[k, NO_SCORE]) == pytest.approx(float(starts[k, none] + ends[k, none]), abs=1e-5)
        allowed = [none, *range(first, end)]
        norm = starts[k, allowed].logsumexp(0) + ends[k, allowed].logsumexp(0)
        assert float(kept[k, 4]) == pytest.approx(float(norm), abs=1e-5)


def test_a_context_without_tokens_has_no_answer(tokenizer: Any) -> None:
    data = WindowDataset([("good", " ")], None, windower(tokenizer))
    (target,) = data.targets
    assert target[FIRST] == target[END]
    kept = best_spans(torch.zeros(1, 8), torch.zeros(1, 8), torch.tensor([[*target[:WIDTH], 8]]), 30)
    (found,) = data.put_together(kept.numpy())
    assert (found.text, found.margin, found.none_probability) == ("", float("inf"), 1.0)


def test_the_loss_is_the_mean_cross_entropy_of_first_and_last_tokens() -> None:
    torch.manual_seed(2)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1, 5, 0, 2, 3, 5], [1, 5, 0, 0, 0, 5], [1, 5, 0, 4, 4, 5]])
    outputs = {"start_logits": logits[0], "end_logits": logits[1]}
    loss = span_loss(outputs, labels, None, 0.0)
    plain = sum(
        -logits[side, k].log_softmax(0)[int(labels[k, column])] for k in range(3) for side, column in ((0, 3), (1, 4))
    )
    torch.testing.assert_close(loss.double(), plain / 6, rtol=1e-5, atol=1e-6)
    # a batch in two parts: the sum of their losses is the loss of the whole
    parts = [
        span_loss({name: of[rows] for name, of in outputs.items()}, labels[rows], labels.numel(), 0.0)
        for rows in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(parts[0] + parts[1], loss)


def test_positions_of_soft_prompts_and_of_other_processes_are_left_out() -> None:
    logits = torch.arange(8.0).reshape(1, 8)
    assert aligned(logits, 5).tolist() == [[3, 4, 5, 6, 7]]
    wider = torch.nn.functional.pad(logits, (0, 2), value=-100.0)
    assert aligned(wider, 8).tolist() == logits.tolist()
    assert aligned(wider, 5).tolist() == [[3, 4, 5, 6, 7]]
