"""Images as they are stored: 8 bits for each value, with or without JPEG compression.

Arrays are uint8 (n, c, h, w), images float32 in [0, 1].
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from harness.api import UsageError

if TYPE_CHECKING:
    from harness.api import Split

QUALITY, SUBSAMPLING = 75, "4:2:0"


def pixels_of(split: Split, examples: np.ndarray | slice) -> np.ndarray:
    """Return some images of a split, uint8 with 255 levels, whatever levels it has itself."""
    found = split.pixels[examples]
    return found if split.levels == 255 else np.rint(found * (255 / split.levels)).astype(np.uint8)


def images_of(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """Convert stored pixels to images, float32 in [0, 1]."""
    return torch.from_numpy(np.array(pixels, order="C")).to(device).float() / 255


def stored(x: torch.Tensor, storage: str) -> np.ndarray:
    """Convert attacked images to pixels: rounded to the nearest level, or (`jpeg75`) truncated and compressed."""
    scaled = x.detach().cpu() * 255
    if storage == "lossless":
        return scaled.round().to(torch.uint8).numpy()
    return jpeg(scaled.to(torch.uint8).numpy())


def jpeg(pixels: np.ndarray) -> np.ndarray:
    """Compress each image as a JPEG file of PIL's default quality, 75, and decode it again.

    Raises:
        UsageError: for images of other than 1 or 3 channels.
    """
    if pixels.shape[1] not in (1, 3):
        raise UsageError(f"storage=jpeg75 takes grey or colour images, not {pixels.shape[1]} channels; use lossless")
    return np.stack([_once(image) for image in pixels])


def _once(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    grey = len(image) == 1
    layout = image[0] if grey else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(layout)).save(file, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    decoded = np.asarray(Image.open(file))
    return decoded[None] if grey else decoded.transpose(2, 0, 1)
