"""One decoder: whatever an image is stored as, the model sees what a person sees."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genft import DataError
from genft.data.images import decode, decoded_as_before, digests, image_suffixes, read_image


def saved(path: Path, image: Any, **options: Any) -> Path:
    image.save(path, **options)
    return path


def pixel(path: Path) -> tuple[int, ...]:
    return read_image(path).getpixel((0, 0))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_are_scaled_to_8(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    image = read_image(saved(tmp_path / name, Image.fromarray(values)))
    assert image.mode == "RGB"
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_and_8_bits_of_one_picture_are_equal(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    deep = saved(tmp_path / "16.png", Image.fromarray(grey.astype(np.uint16) * 257))
    assert np.array_equal(read_image(deep), read_image(saved(tmp_path / "8.png", Image.fromarray(grey))))


def test_values_without_a_range_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array([[0.5, 2.0]], np.float32)))
    with pytest.raises(DataError, match=r"a\.tif: .*its values, 0\.5 to 2, have no known range"):
        read_image(path)


def test_the_orientation_of_a_photograph_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read_image(saved(tmp_path / "turned.jpg", Image.new("RGB", (40, 20)), exif=exif))
    assert image.size == (20, 40)


def test_transparency_is_white(tmp_path: Path) -> None:
    assert pixel(saved(tmp_path / "a.png", Image.new("RGBA", (4, 4), (0, 0, 0, 0)))) == (255, 255, 255)
    assert pixel(saved(tmp_path / "b.png", Image.new("LA", (4, 4), (0, 255)))) == (0, 0, 0)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    assert pixel(saved(tmp_path / "c.png", palette)) == (10, 20, 30)
    assert pixel(saved(tmp_path / "d.png", palette, transparency=0)) == (255, 255, 255)


def test_cmyk_and_the_first_of_several_frames(tmp_path: Path) -> None:
    red, _, _ = pixel(saved(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0))))
    assert red > 240
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    path = saved(tmp_path / "b.gif", frames[0], save_all=True, append_images=frames[1:])
    assert pixel(path) == (10, 10, 10)
    assert decode(path, path.read_bytes()).remark == "with several frames, of which the first is used"


@pytest.mark.timeout(20)
def test_what_is_no_image_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name, message in [
        ("pipe.png", "is a pipe or a device"),
        ("link.png", "is a link to a file that does not exist"),
        ("text.png", r"cannot be read as an image \(no known format\)"),
        ("a\0.png", "cannot be read"),
    ]:
        with pytest.raises(DataError, match=message):
            read_image(tmp_path / name)


def test_digests_follow_the_pixels_and_not_the_name(tmp_path: Path) -> None:
    a, b = (saved(tmp_path / f"{n}.bmp", Image.new("L", (4, 4), 7)) for n in "ab")
    assert len(set(digests([a, b]))) == 1
    before = a.stat()
    saved(a, Image.new("L", (4, 4), 8))
    os.utime(a, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert a.stat().st_size == before.st_size
    assert len(set(digests([a, b]))) == 2


def test_which_images_the_first_decoder_read_alike(tmp_path: Path) -> None:
    plain = saved(tmp_path / "a.png", Image.new("RGB", (4, 4)))
    deep = saved(tmp_path / "b.png", Image.fromarray(np.zeros((4, 4), np.uint16)))
    assert decoded_as_before([plain])
    assert not decoded_as_before([plain, deep])


def test_endings_are_those_that_pillow_reads_as_pictures() -> None:
    assert {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".tif", ".bmp", ".jp2"} <= image_suffixes()
    assert not {".eps", ".pdf", ".h5", ".mpg"} & image_suffixes()
