"""SQuAD's scores against values computed by hand and against the official script's definition, and the threshold."""

from __future__ import annotations

import math
import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genft.families.spans.scores import best_threshold, exact_match, f1, normalised


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Normans,", "normans"),
        ("an apple a day", "apple day"),
        ("Theatre", "theatre"),  # an article is a whole word
        ("U.S.A.", "usa"),
        ("the", ""),
        ("«Ogród Saski»", "«ogród saski»"),  # only ASCII punctuation, as in the official script
    ],
)
def test_texts_are_normalised_as_in_the_official_script(text: str, expected: str) -> None:
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("predicted", "answers", "exact", "overlap"),
    [
        ("the Saxon Garden", ["Saxon Garden"], 1.0, 1.0),
        ("Saxon Garden in Warsaw", ["the Saxon Garden"], 0.0, 2 * 2 / (4 + 2)),
        ("in 1939", ["1870 to 1939", "1939."], 0.0, 2 * 1 / (2 + 1)),  # the best of both
        ("new new york", ["new york city"], 0.0, 2 * 2 / (3 + 3)),  # a word counts as often as it occurs in both
        ("Warsaw", ["Paris"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("Warsaw", [], 0.0, 0.0),
        ("", ["Warsaw"], 0.0, 0.0),
        ("a", ["The"], 1.0, 1.0),  # without any other word, as if the question had no answer
    ],
)
def test_scores_by_hand(predicted: str, answers: list[str], exact: float, overlap: float) -> None:
    assert (exact_match(predicted, answers), f1(predicted, answers)) == (exact, pytest.approx(overlap))


def official(predicted: str, gold: str) -> float:
    """compute_f1 of SQuAD v2's evaluation script, from precision and recall."""

    def tokens(text: str) -> list[str]:
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split()).split()

    gold_tokens, tokens_of = tokens(gold), tokens(predicted)
    same = sum((Counter(gold_tokens) & Counter(tokens_of)).values())
    if not gold_tokens or not tokens_of:
        return float(gold_tokens == tokens_of)
    if same == 0:
        return 0.0
    precision, recall = same / len(tokens_of), same / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


texts = st.lists(st.sampled_from(["the", "a", "x", "y!", "Z", "an-x", ","]), max_size=5).map(" ".join)


@given(texts, texts)
def test_f1_is_the_official_one(predicted: str, gold: str) -> None:
    assert f1(predicted, [gold]) == pytest.approx(official(predicted, gold))


def test_the_threshold_gives_the_highest_total_score() -> None:
    margins, answered, withheld = [-2.0, -1.0, 0.5, 3.0], [1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]
    assert best_threshold(margins, answered, withheld) == pytest.approx((-1.0 + 0.5) / 2)
    assert best_threshold(margins, [1] * 4, [0] * 4) == 4.0  # all are answered
    assert best_threshold(margins, [0] * 4, [1] * 4) == -3.0  # none is
    assert best_threshold([math.inf], [0.0], [1.0]) == 0.0


@given(
    st.lists(
        st.tuples(
            st.integers(-3, 3).map(float) | st.just(math.inf),
            st.sampled_from([0.0, 0.5, 1.0]),
            st.booleans().map(float),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_no_other_threshold_is_better(rows: list[tuple[float, float, float]]) -> None:
    margins, answered, withheld = (list(column) for column in zip(*rows, strict=True))

    def total(threshold: float) -> float:
        return sum(none if margin > threshold else score for margin, score, none in rows)

    chosen = total(best_threshold(margins, answered, withheld))
    assert chosen == max(total(t / 2) for t in range(-8, 9))
