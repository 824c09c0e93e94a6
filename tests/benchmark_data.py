"""Benchmarks of a few examples in their usual layouts on disk, for tests."""

from __future__ import annotations

import json
import random
from pathlib import Path

from PIL import Image


def save_glue(root: Path, rows: int = 40) -> Path:
    """CoLA (no header), MRPC (byte-order mark, quotes), STS-B and MNLI (two validation sets) as the official files."""
    draw = random.Random(0)

    def text() -> str:
        return " ".join(f"w{draw.randrange(20)}" for _ in range(5))

    def write(path: str, header: list[str], make: list[list[str]], mark: str = "") -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        lines = ["\t".join(row) for row in ([header] if header else []) + make]
        (root / path).write_text(mark + "\n".join(lines) + "\n", encoding="utf-8")

    for name, n in (("train", rows), ("dev", rows // 2)):
        word = ("bad", "good")
        write(f"CoLA/{name}.tsv", [], [["gj04", str(i % 2), "", f"{text()} {word[i % 2]}"] for i in range(n)])
        write(
            f"MRPC/{name}.tsv",
            ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
            [[str(i % 2), "1", "2", f'" {text()}', text()] for i in range(n)],
            mark="\ufeff",
        )
        write(
            f"STS-B/{name}.tsv",
            ["index", "sentence1", "sentence2", "score"],
            [[str(i), text(), text(), f"{i % 6:.3f}"] for i in range(n)],
        )
    labels = ("entailment", "neutral", "contradiction")
    for name in ("train", "dev_matched", "dev_mismatched"):
        write(
            f"MNLI/{name}.tsv",
            ["index", "sentence1", "sentence2", "label1", "gold_label"],
            [[str(i), text(), text(), "neutral", labels[i % 3]] for i in range(30)],
        )
    return root


def save_vtab(folder: Path, sizes: tuple[int, int, int] = (20, 10, 10), classes: int = 2) -> Path:
    """Images of one brightness per class, in the lists of VTAB-1k."""
    for split, n in zip(("train800", "val200", "test"), sizes, strict=True):
        (folder / "images" / split).mkdir(parents=True)
        lines = []
        for i in range(n):
            path = f"images/{split}/{i:06d}.png"
            shade = 40 + 160 * (i % classes) // max(1, classes - 1)
            Image.new("RGB", (12 + i, 30), (shade, len(split), i)).save(folder / path)
            lines.append(f"{path} {i % classes}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    both = [(folder / f"{name}.txt").read_text() for name in ("train800", "val200")]
    (folder / "train800val200.txt").write_text("".join(both))
    return folder


def save_fgvc(folder: Path, images: str = "images") -> Path:
    """Two kinds, numbered 3 and 7, in the lists of VPT."""
    for split, n in (("train", 8), ("val", 4), ("test", 4)):
        listed = {}
        for i in range(n):
            path = f"kind.{i % 2}/{split}_{i}.jpg"
            (folder / images / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 20 + i), (60 + 120 * (i % 2), len(split), 10 * i)).save(folder / images / path)
            listed[path] = (3, 7)[i % 2]
        (folder / f"{split}.json").write_text(json.dumps(listed))
    return folder
