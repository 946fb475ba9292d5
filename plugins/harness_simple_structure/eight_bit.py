"""Images as they are stored: 8 bits for each pixel, as they are or once more through JPEG.

Arrays are uint8 (n, c, h, w), images float32 in [0, 1].
"""

import io

import numpy as np
import torch
from PIL import Image

from harness.api import UsageError

QUALITY, SUBSAMPLING = 75, "4:2:0"


def pixels_of(split, examples) -> np.ndarray:
    """Some images of a split with 255 levels, whatever it has itself."""
    found = split.pixels[examples]
    return found if split.levels == 255 else np.rint(found * (255 / split.levels)).astype(np.uint8)


def images_of(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels, order="C")).to(device).float() / 255


def stored(x: torch.Tensor, storage: str) -> np.ndarray:
    """Attacked images, rounded to the nearest level; as published (`jpeg75`), cut and compressed."""
    scaled = x.detach().cpu() * 255
    if storage == "lossless":
        return scaled.round().to(torch.uint8).numpy()
    return jpeg(scaled.to(torch.uint8).numpy())


def jpeg(pixels: np.ndarray) -> np.ndarray:
    """Through JPEG and back, one file for each image, at the quality that PIL has when nothing is said."""
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
