"""Reads image files."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.api import DataError

if TYPE_CHECKING:
    from PIL import Image


def decoded(dataset: str, name: object, read: Callable[[], bytes]) -> Image.Image:
    """Decode a PIL image, grey (`L`) or coloured (`RGB`) as its file is.

    Raises:
        DataError: naming the file, where its bytes are no whole image.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read())) as image:
            if image.mode.startswith(("I", "F")):
                return Image.fromarray(_eight_bit(dataset, name, np.asarray(image)))
            return image.convert("L" if image.mode in ("1", "L") else "RGB")
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, Image.DecompressionBombError) as error:
        raise DataError(f"{dataset}: {name} cannot be decoded ({error}); remove or replace it") from error


def _eight_bit(dataset: str, name: object, pixels: np.ndarray) -> np.ndarray:
    """Turn grey values of 16 bits into 8 bits where that loses nothing: v = 257 u is u / 255 of white.

    Raises:
        DataError: where it would change a pixel.
    """
    if pixels.min() < 0 or pixels.max() > 65535 or (pixels % 257).any():
        raise DataError(
            f"{dataset}: {name} has more than 8 bits a pixel ({pixels.min():g} to {pixels.max():g}), and images are "
            "kept in 8 bits here: convert it first, so that you decide how it is rounded"
        )
    return (pixels // 257).astype(np.uint8)


def coloured(
    dataset: str, home: Path, files: Sequence[Path], height: int, width: int, *, resize: bool
) -> np.ndarray:  # fmt: skip
    """Read pixels uint8 (n, 3, height, width) of files under `home`; grey images become coloured.

    Args:
        resize: scale images of another size, bilinearly with antialiasing, instead of refusing them.

    Raises:
        DataError: naming a file that cannot be decoded, or has another size where that is refused.
    """
    from PIL import Image

    pixels = np.empty((len(files), 3, height, width), dtype=np.uint8)
    for row, path in zip(pixels, files, strict=True):
        name = path.relative_to(home)
        image = decoded(dataset, name, path.read_bytes).convert("RGB")
        if image.size != (width, height):
            if not resize:
                raise DataError(f"{dataset}: {name} is {image.width}x{image.height} pixels, not {width}x{height}")
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        row[:] = np.asarray(image).transpose(2, 0, 1)
    return pixels
