"""SQuAD's scores of answers (arXiv 1606.05250, 1806.03822), after the official evaluation scripts, and v2's threshold.

A question without an answer has the right answer ``""``; with several right answers the best counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """A text in lower case, without punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(predicted: str, answers: Sequence[str]) -> float:
    """1 if the prediction equals one of the answers after normalisation, otherwise 0."""
    return float(normalised(predicted) in set(map(normalised, _right(answers))))


def f1(predicted: str, answers: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the prediction's words, for the answer where it is highest."""
    return max(_f1(normalised(predicted).split(), normalised(answer).split()) for answer in _right(answers))


def _right(answers: Sequence[str]) -> Sequence[str]:
    """As in v2's script, answers of articles and punctuation alone do not count; without any, ``""`` is right."""
    return [answer for answer in answers if normalised(answer)] or [""]


def _f1(predicted: Sequence[str], right: Sequence[str]) -> float:
    if not predicted or not right:
        return float(predicted == right)
    return 2 * sum((Counter(predicted) & Counter(right)).values()) / (len(predicted) + len(right))


SCORES = {"squad_f1": f1, "squad_exact_match": exact_match}


def best_threshold(margins: Sequence[float], answered: Sequence[float], withheld: Sequence[float]) -> float:
    """The threshold with the highest total score: a question with a larger margin gets no answer.

    Args:
        margins: by how much "no answer" is more likely than the best answer, in nats.
        answered, withheld: each question's score with and without its best answer.

    Returns:
        A value between two margins, or 1 beyond all of them; the highest if several are equally good.
    """
    finite = np.isfinite(margins)
    if not finite.any():
        return 0.0
    order = np.argsort(np.asarray(margins)[finite], kind="stable")
    margin = np.asarray(margins, dtype=float)[finite][order]
    gain = (np.asarray(answered, dtype=float) - np.asarray(withheld, dtype=float))[finite][order]
    totals = np.concatenate([[0.0], np.cumsum(gain)])  # if the first k questions are answered
    edges = np.concatenate([[margin[0] - 2], margin, [margin[-1] + 2]])
    middles = (edges[:-1] + edges[1:]) / 2
    possible = edges[:-1] < edges[1:]  # no threshold is between equal margins
    best = np.flatnonzero(possible & (totals >= totals[possible].max() - 1e-9))[-1]
    return float(middles[best])
