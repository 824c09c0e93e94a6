"""Scores of generated texts, from statistics per example whose sums determine the score.

ROUGE is rouge-score's (Google's, with stemming), BLEU and chrF are sacrebleu's. With several references the best counts
for exact match and ROUGE; BLEU and chrF use all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genft.errors import ConfigError

Floats = NDArray[np.float64]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_ROUGE = ("rouge1", "rouge2", "rougeL")
_PACKAGES = {**dict.fromkeys(_ROUGE, "rouge-score"), **dict.fromkeys(("bleu", "chrf"), "sacrebleu")}


def last_number(text: str) -> str:
    """The last number of a text without commas and trailing zeros, as GSM8K is scored; empty if it has none."""
    numbers = _NUMBER.findall(text)
    return f"{float(numbers[-1].replace(',', '')):.10g}" if numbers else ""


def plain(text: str) -> str:
    """A text without its outer spaces."""
    return text.strip()


EXTRACTORS: dict[str, Callable[[str], str]] = {"": plain, "last-number": last_number}


@dataclass(frozen=True)
class TextScore:
    """A score of generated texts.

    Attributes:
        extract: what of a text :attr:`name` ``exact_match`` compares: a name of :data:`EXTRACTORS`.
    """

    name: str
    extract: str = ""

    @property
    def width(self) -> int:
        """The number of statistics."""
        return {"bleu": 10, "chrf": 18}.get(self.name, 2)

    def statistics(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
        """Statistics of every example, (examples, statistics).

        Args:
            texts: the generated texts.
            references: the right answers of each, at least one.
        """
        if self.name == "exact_match":
            take = EXTRACTORS[self.extract]
            hits = [
                take(text) in {take(r) for r in of_text} - {""} for text, of_text in zip(texts, references, strict=True)
            ]
            return np.column_stack([np.asarray(hits, dtype=float), np.ones(len(hits))])
        if self.name in _ROUGE:
            scorer = self._library
            values = [
                scorer.score_multi(list(of_text), text)[self.name].fmeasure
                for text, of_text in zip(texts, references, strict=True)
            ]
            return np.column_stack([np.asarray(values, dtype=float), np.ones(len(values))])
        most = max(map(len, references), default=1)
        streams = [[of_text[k] if k < len(of_text) else None for of_text in references] for k in range(most)]
        return np.asarray(self._library._extract_corpus_statistics(list(texts), streams), dtype=float)

    def score(self, sums: Floats) -> Floats:
        """The score between 0 and 1 of each row of summed statistics, (rows, statistics) → (rows,)."""
        if self.name in ("bleu", "chrf"):
            library = self._library
            return np.asarray([library._compute_score_from_stats(list(row)).score / 100 for row in sums])
        return sums[:, 0] / sums[:, 1]

    @property
    def is_installed(self) -> bool:
        """Whether the library that computes it is there."""
        package = _PACKAGES.get(self.name)
        return package is None or find_spec(package.replace("-", "_")) is not None

    def check_installed(self) -> None:
        """Refuse to score without the library.

        Raises:
            ConfigError: it is not installed.
        """
        if not self.is_installed:
            package = _PACKAGES[self.name]
            raise ConfigError(f"metric: {self.name!r} needs the package {package}: pip install 'genft[generation]'")

    @cached_property
    def _library(self) -> Any:
        self.check_installed()
        if self.name in _ROUGE:
            from rouge_score.rouge_scorer import RougeScorer

            return RougeScorer([self.name], use_stemmer=True)
        from sacrebleu.metrics import BLEU, CHRF

        return BLEU() if self.name == "bleu" else CHRF()
