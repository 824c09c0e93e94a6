"""Scores of generated texts against their libraries, and the numbers that GSM8K's answers end with."""

from __future__ import annotations

import numpy as np
import pytest

from genft import ConfigError
from genft.families import text_scores
from genft.families.text_scores import TextScore, last_number

TEXTS = ["the cat sat on the mat", "a dog barks", "hello"]
REFERENCES = [("the cat sat on a mat", "a cat sat on the mat"), ("the dog barks loudly",), ("hello there", "hi", "hey")]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 5 + 3 = 8.\n#### 1,200", "1200"),
        ("it is $3.50.", "3.5"),
        ("-2.0 degrees", "-2"),
        ("none", ""),
        ("x7y", "7"),
    ],
)
def test_the_last_number(text: str, number: str) -> None:
    assert last_number(text) == number


def test_exact_match_compares_what_is_extracted() -> None:
    texts, references = [" yes ", "it is 12", "no number"], [("no", "yes"), ("so 12.0",), ("none either",)]
    assert TextScore("exact_match").statistics(texts, references)[:, 0].tolist() == [1, 0, 0]
    assert TextScore("exact_match", "last-number").statistics(texts, references)[:, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_sums_of_statistics_give_sacrebleus_corpus_score(name: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    score = TextScore(name)
    statistics = score.statistics(TEXTS, REFERENCES)
    streams = [[of_text[k] if k < len(of_text) else None for of_text in REFERENCES] for k in range(3)]
    expected = getattr(sacrebleu, f"corpus_{name}")(TEXTS, streams).score / 100
    doubled = getattr(sacrebleu, f"corpus_{name}")(TEXTS[:1] * 2, [s[:1] * 2 for s in streams[:2]]).score / 100
    assert statistics.shape == (3, score.width)
    sums = np.array([[1, 1, 1], [2, 0, 0]]) @ statistics
    np.testing.assert_allclose(score.score(sums), [expected, doubled])


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_the_best_reference_counts_for_rouge(name: str) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer([name], use_stemmer=True)
    expected = [
        max(scorer.score(reference, text)[name].fmeasure for reference in of_text)
        for text, of_text in zip(TEXTS, REFERENCES, strict=True)
    ]
    score = TextScore(name)
    statistics = score.statistics(TEXTS, REFERENCES)
    np.testing.assert_allclose(statistics[:, 0], expected)
    np.testing.assert_allclose(score.score(statistics.sum(axis=0, keepdims=True)), np.mean(expected))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_scores, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"metric: 'rougeL' needs the package rouge-score: pip install 'genft\[gener"):
        TextScore("rougeL").statistics(TEXTS, REFERENCES)
