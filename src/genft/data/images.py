"""The single image decoder: every image file becomes 8-bit RGB, as a viewer would show it."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genft.errors import DataError
from genft.files import read_regular

#: Accepted image formats. Pillow has more, but some run other programs (EPS) or only identify a file (HDF5).
_FORMATS = frozenset((
    "AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "JXL", "MPO", "PCX", "PNG", "PPM", "PSD",
    "QOI", "SGI", "TGA", "TIFF", "WEBP",
))  # fmt: skip
#: Optional packages that let Pillow read further formats: (name on PyPI, file endings) by module.
_PLUGINS = {
    "pillow_heif": ("pillow-heif", (".heic", ".heif", ".hif")),
    "pillow_jxl": ("pillow-jxl-plugin", (".jxl",)),
}
#: Endings of pictures that may still be unreadable: camera raw files, drawings, medical images, videos.
PICTURES = frozenset((
    ".heic", ".heif", ".hif", ".jxl", ".avif", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".svg",
    ".eps", ".dcm", ".nii", ".npy", ".mp4", ".mov",
))  # fmt: skip
_ORIENTATION = 0x0112
_FRAMES = "with several frames, of which the first is used"
_SIXTEEN_BITS = 65535


class Decoded(NamedTuple):
    """An RGB image and a remark on how it was converted, phrased to follow a count: ``"with 16 bits per pixel …"``."""

    image: Any
    remark: str | None


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The file endings, in lower case, that are read as images."""
    from PIL import Image

    Image.init()
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    if find_spec("pillow_jxl"):
        import pillow_jxl  # noqa: F401  (registers itself)
    readable = _FORMATS & Image.OPEN.keys()
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in readable)


def plugin_for(ending: str) -> str | None:
    """The package to install to read files with this ending, or None."""
    return next((package for package, endings in _PLUGINS.values() if ending in endings), None)


def read_image(path: Path) -> Any:
    """The image as RGB: upright, scaled to 8 bits, first frame only, with transparency composited on white.

    Raises:
        DataError: the file is not an image, or it is damaged.
    """
    return decode(path, read_regular(path)).image


def decode(path: Path, content: bytes) -> Decoded:
    """The image in ``content``; ``path`` is for messages.

    Raises:
        DataError: it is not an image, it is damaged, or its values have no known range.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    image_suffixes()
    try:
        with Image.open(io.BytesIO(content), formats=sorted(_FORMATS & Image.OPEN.keys())) as image:
            remark = _remark(image)
            image.load()
            upright = ImageOps.exif_transpose(image)
        return Decoded(_to_rgb(upright), remark)
    except UnidentifiedImageError:
        raise DataError(f"{path}: cannot be read as an image (no known format)") from None
    except Exception as e:  # PIL raises many types for damaged files
        raise DataError(f"{path}: cannot be read as an image ({e})") from None


def _remark(image: Any) -> str | None:
    """How the image had to be converted, or None for an ordinary image."""
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a photograph with a preview
        return _FRAMES
    if image.mode.startswith("I") or image.mode == "F":
        return "with 16 bits per pixel, scaled to 8"
    if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
        return "rotated according to their EXIF orientation"
    if _is_transparent(image):
        return "with transparency, composited on white"
    return None


def _is_transparent(image: Any) -> bool:
    if image.mode == "P" and "transparency" in image.info:
        return True
    if "transparency" in image.info and image.mode in ("1", "L", "I", "RGB"):
        return True
    return image.mode in ("LA", "PA", "RGBA", "La", "RGBa") and image.getchannel(image.mode[-1]).getextrema()[0] < 255


def _to_rgb(image: Any) -> Any:
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return _from_16_bits(image)
    if _is_transparent(image):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Any) -> Any:
    """Converts a 16-bit grey image; white is 65,535, not its brightest pixel."""
    from PIL import Image

    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > _SIXTEEN_BITS:
        raise ValueError(f"its values, {low:g} to {high:g}, have no known range; save it with 8 or 16 bits per channel")
    grey = (values.astype(np.uint32) * 255 + _SIXTEEN_BITS // 2) // _SIXTEEN_BITS
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def decoded_as_before(paths: Sequence[str | Path]) -> bool:
    """Whether the first decoder of genft 0.1, which only converted to RGB, gave the same pixels for these images."""

    def unchanged(path: str | Path) -> bool:
        try:
            remark = decode(Path(path), read_regular(Path(path))).remark
        except DataError:
            return False
        return remark is None or remark == _FRAMES

    with ThreadPoolExecutor() as pool:
        return all(pool.map(unchanged, paths))


def digests(paths: Sequence[str | Path]) -> list[str]:
    """The hash of every file's content, in order; an unreadable file gets the hash of its name."""
    with ThreadPoolExecutor() as pool:  # hashing and reading release the interpreter's lock
        return list(pool.map(_digest, paths))


def _digest(path: str | Path) -> str:
    try:
        status = os.stat(path)
        return _digest_of(str(path), status.st_size, status.st_mtime_ns)
    except (OSError, ValueError, DataError):
        return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()


@functools.lru_cache(maxsize=1 << 18)
def _digest_of(path: str, size: int, changed: int) -> str:
    return hashlib.sha256(read_regular(Path(path))).hexdigest()
