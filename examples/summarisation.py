"""Summaries with an encoder-decoder: `genft train` in a few lines of Python, on a file with documents and summaries.

    python examples/summarisation.py FILE MODEL

FILE has the columns document and summary (.jsonl, .csv); MODEL is a T5 or BART: a folder or a name on the Hub.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import genft
from genft.families.own_data import own_task
from genft.presets import load_preset
from genft.runs.request import build_spec
from genft.runs.store import Store
from genft.training.prepared import prepare
from genft.training.run import run_once


def main(
    file: str, model: str, out: str = "runs", method: str = "genft", **training: Any
) -> tuple[dict[str, float], str]:
    """Train, report ROUGE on the held-out documents, and summarise the first of them with the saved adapter."""
    task = own_task(
        Path(file), family="generation", prompting={"max_new_tokens": 48, "template": "summarize: {document}"}
    )
    spec = build_spec(
        task.model_copy(update={"metric": "rougeL"}), model, load_preset("default"), method=method, training=training
    )
    prepared = prepare(spec.spec)
    result = run_once(prepared, Store(Path(out)).open())
    adapter = genft.load_adapter(Path(out) / result.adapter)
    (first, *_) = prepared.data.splits["test"].inputs
    (summary,) = adapter.predict([first])
    print({name: round(value, 4) for name, value in result.scores.metrics.items()})
    print(summary)
    return result.scores.metrics, summary


if __name__ == "__main__":
    main(*sys.argv[1:3])
