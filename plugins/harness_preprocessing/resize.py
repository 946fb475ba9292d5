"""Random resizing and padding (Xie et al. 2018), to sizes below the image's own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.api import UsageError
from harness_preprocessing.preprocessed import Preprocessed

if TYPE_CHECKING:
    from harness.api import Images


def wrap(network: nn.Module, *, smallest: float, **training: Any) -> Preprocessed:
    """Wrap the trained network into the one that sees images of a random size at a random place.

    Raises:
        UsageError: for a smallest size outside (0, 1].
    """
    return Preprocessed(network, ResizePad(smallest))


class ResizePad(nn.Module):
    """Shrinks every image by a draw of its own and pads it with black; differentiable.

    Draws come from torch's global generator, on the CPU, so that they are the same on every device.
    """

    def __init__(self, smallest: float) -> None:
        super().__init__()
        if not 0 < smallest <= 1:
            raise UsageError(f"smallest={smallest}: give a share of the image's sides above 0 and up to 1")
        self.smallest = float(smallest)

    def forward(self, x: Images) -> Images:
        """Compute images (n, c, h, w), each shrunk and placed at random."""
        height, width = x.shape[2:]
        share = self.smallest + (1 - self.smallest) * torch.rand(len(x))
        rows, columns = (sizes(share, self.smallest, side) for side in (height, width))
        top, left = (
            (torch.rand(len(x)) * (side - size + 1)).floor().long() for side, size in ((height, rows), (width, columns))
        )
        return placed(x, rows, columns, top, left)


def sizes(share: torch.Tensor, smallest: float, side: int) -> torch.Tensor:
    """Turn shares (n,), uniform from `smallest` to 1, into whole numbers of pixels (n,), each as likely."""
    least = max(1, math.ceil(smallest * side))
    drawn = (share - smallest) / (1 - smallest) if smallest < 1 else torch.zeros_like(share)
    return (least + (drawn * (side - least + 1)).floor().long()).clamp(max=side)


def placed(x: Images, rows: torch.Tensor, columns: torch.Tensor, top: torch.Tensor, left: torch.Tensor) -> Images:
    """Shrink images (n, c, h, w) to `rows` x `columns` (n,) pixels, bilinearly, with the corner at `top`, `left` (n,).

    All images at once: each pixel of the result is sampled where it comes from.
    """
    height, width = x.shape[2:]
    down, inside_rows = sources(height, rows, top)
    across, inside_columns = sources(width, columns, left)
    grid = torch.stack([
        across[:, None, :].expand(-1, height, -1), down[:, :, None].expand(-1, -1, width)
    ], dim=3).to(x)  # fmt: skip
    sampled = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    return sampled * inside[:, None].to(x)


def sources(side: int, size: torch.Tensor, offset: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tell where each pixel of a side comes from, (n, side) on the scale of -1 to 1, and whether it is inside."""
    place = torch.arange(side)[None] - offset[:, None]
    inside = (place >= 0) & (place < size[:, None])
    return (2 * place + 1) / size[:, None] - 1, inside
