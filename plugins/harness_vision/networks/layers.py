"""Layers that several families share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

from harness.api import UsageError

if TYPE_CHECKING:
    import torch

    from harness.api import Images


def convolution(before: int, after: int, stride: int) -> nn.Sequential:
    """Build a 3x3 convolution, of the same size at stride 1, with batch norm and ReLU."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class PaddedShortcut(nn.Module):
    """A shortcut without parameters: a smaller image between channels of zeros, as many before as behind."""

    def __init__(self, before: int, after: int, smaller: nn.Module) -> None:
        super().__init__()
        self.smaller = smaller
        self.channels = (after - before) // 2

    def forward(self, x: Images) -> torch.Tensor:
        """Compute the smaller, padded image (n, c, h, w)."""
        return F.pad(self.smaller(x), (0, 0, 0, 0, self.channels, self.channels))


class Subsampling(nn.Module):
    """A layer that keeps every `stride`-th pixel of every `stride`-th row."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Images) -> torch.Tensor:
        """Return the pixels that are kept."""
        return x[:, :, :: self.stride, :: self.stride]


def at_least(pixels: int, shape: tuple[int, int, int], name: str) -> None:
    """Raise UsageError for images with a side below `pixels`, which a network would shrink to nothing."""
    _, height, width = shape
    if min(height, width) < pixels:
        raise UsageError(
            f"{name} needs images of at least {pixels} pixels, not {height}x{width}; choose another --arch"
        )
