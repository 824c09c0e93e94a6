"""Examples as model input."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from genft import ConfigError, DataError
from genft.data import Task
from genft.data.encode import encode
from genft.data.preprocessing import Preprocessing
from genft.families.registry import get_family
from genft.models.source import find_model


def tokenizer(folder: Path) -> object:
    return (
        get_family(Task(name="t", kind="text", reader="", classes=("a", "b"))).load(find_model(str(folder))).tokenizer
    )


def test_texts_and_pairs_are_cut(bert: Path) -> None:
    preprocessing = Preprocessing(kind="text", max_length=6)
    data = encode([("w1 w2", "good"), ("w1 " * 9, "bad")], [0, 1], preprocessing, tokenizer(bert))
    assert data[0] == {"input_ids": [2, 5, 6, 3, 24, 3], "attention_mask": [1] * 6, "labels": 0}
    assert data.lengths == [6, 6]
    with pytest.raises(ConfigError, match="received 3; a model reads one text or two"):
        encode([("a", "b", "c")], None, preprocessing, tokenizer(bert))


def test_images_are_resized_and_normalised(tmp_path: Path) -> None:
    Image.new("L", (31, 7), 255).save(tmp_path / "a.png")
    preprocessing = Preprocessing(kind="image", image_size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    data = encode([(str(tmp_path / "a.png"),)], [1], preprocessing, None, several_passes=True)
    item = data[0]
    assert item["labels"] == 1
    torch.testing.assert_close(item["pixel_values"], torch.full((3, 16, 16), 2.0))
    (tmp_path / "a.png").unlink()
    assert torch.equal(data[0]["pixel_values"], item["pixel_values"])  # from the cache


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff but no picture")
    data = encode([(str(tmp_path / "b.jpg"),)], None, Preprocessing(kind="image", image_size=16), None)
    with pytest.raises(DataError, match=r"b\.jpg: cannot be read as an image"):
        data[0]
