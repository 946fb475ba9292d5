"""JPEG compression as tensor arithmetic: a whole batch at once, on any device, without files.

ITU-T T.81 with the example tables of its annex K, scaled by quality as libjpeg does; colours halved in both directions
(4:2:0), as PIL writes by default. Lossless coding changes nothing and is left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.api import UsageError
from harness_preprocessing.preprocessed import Preprocessed, Rounding, clamped, straight
from harness_preprocessing.preprocessed import cubic as cubic_rounding

if TYPE_CHECKING:
    from harness.api import Images

BLOCK = 8
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


def wrap(network: nn.Module, *, quality: int, **training: Any) -> Preprocessed:
    """Wrap the trained network into the one that sees compressed images.

    Raises:
        UsageError: for a quality outside 1 to 100.
    """
    return Preprocessed(network, Jpeg(quality, straight))


def cubic(network: nn.Module, *, quality: int, **training: Any) -> Preprocessed:
    """Build the deployed network with cubic gradients for its roundings."""
    return Preprocessed(network, Jpeg(quality, cubic_rounding))


class Jpeg(nn.Module):
    """Images as they come back from a JPEG file; `rounding` decides what a rounding's gradient is.

    Of the roundings to whole levels only that of the coefficients is handed to `rounding`: the others move values by
    half a level at most, and are differentiated as the identity, as are all clamps.
    """

    transform: torch.Tensor
    luminance: torch.Tensor
    chrominance: torch.Tensor

    def __init__(self, quality: int, rounding: Rounding) -> None:
        super().__init__()
        if quality != int(quality) or not 1 <= quality <= 100:
            raise UsageError(f"quality={quality}: give a whole number from 1 to 100")
        self.rounding = rounding
        self.register_buffer("transform", cosines(), persistent=False)
        self.register_buffer("luminance", scaled(LUMINANCE, int(quality)), persistent=False)
        self.register_buffer("chrominance", scaled(CHROMINANCE, int(quality)), persistent=False)

    def forward(self, x: Images) -> Images:
        """Compute the decoded images (n, c, h, w).

        Raises:
            UsageError: for images of other than 1 or 3 channels.
        """
        if x.shape[1] not in (1, 3):
            raise UsageError(f"jpeg takes grey or colour images, not {x.shape[1]} channels")
        levels = clamped(straight(x * 255), 0, 255)
        if x.shape[1] == 1:
            return self.coded(levels, self.luminance) / 255
        height, width = x.shape[2:]
        planes = straight(mixed(levels, TO_YCBCR) + levels.new_tensor([0.0, 128.0, 128.0]).view(1, 3, 1, 1))
        brightness = self.coded(planes[:, :1], self.luminance)
        means = F.avg_pool2d(padded(planes[:, 1:], 2), 2)
        halved = straight(means - alternating(1 / 4, 0, means))
        colours = F.interpolate(self.coded(halved, self.chrominance), scale_factor=2.0, mode="bilinear")
        colours = straight(colours - alternating(0, 1 / 16, colours))[:, :, :height, :width]
        whole = torch.cat([brightness, colours - 128], dim=1)
        return clamped(straight(mixed(whole, TO_RGB)), 0, 255) / 255

    def coded(self, planes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Transform, quantise and restore planes (n, c, h, w) of levels; each 8x8 block on its own."""
        n, c, height, width = planes.shape
        whole = padded(planes - 128, BLOCK)
        rows, columns = whole.shape[2] // BLOCK, whole.shape[3] // BLOCK
        blocks = whole.reshape(n, c, rows, BLOCK, columns, BLOCK).transpose(3, 4)
        coefficients = self.rounding(self.transform @ blocks @ self.transform.T / table) * table
        restored = (self.transform.T @ coefficients @ self.transform).transpose(3, 4).reshape(whole.shape)
        return clamped(straight(restored[:, :, :height, :width] + 128), 0, 255)


def padded(planes: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last row and column until both sides are multiples."""
    height, width = planes.shape[2:]
    return F.pad(planes, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def alternating(even: float, odd: float, like: torch.Tensor) -> torch.Tensor:
    """Make a row (w,) of what is taken off before a rounding in even and in odd columns, as in libjpeg."""
    return torch.where(torch.arange(like.shape[-1], device=like.device) % 2 == 0, even, odd).to(like)


def mixed(planes: torch.Tensor, matrix: tuple[tuple[float, ...], ...]) -> torch.Tensor:
    """Multiply the channels (n, 3, h, w) by a 3x3 matrix."""
    first, second, third = planes.unbind(dim=1)
    return torch.stack([a * first + b * second + c * third for a, b, c in matrix], dim=1)


def cosines() -> torch.Tensor:
    """Build the orthonormal 8x8 matrix of the discrete cosine transform."""
    k, i = torch.arange(BLOCK)[:, None], torch.arange(BLOCK)[None]
    matrix = torch.cos(math.pi * (2 * i + 1) * k / (2 * BLOCK)) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


def scaled(table: tuple[tuple[int, ...], ...], quality: int) -> torch.Tensor:
    """Scale a table of quantisation steps (8, 8) by quality."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    whole = torch.div(torch.tensor(table) * percent + 50, 100, rounding_mode="floor").clamp(1, 255)
    return whole.float()
