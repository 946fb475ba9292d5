"""Layers that several families share."""

import torch.nn.functional as F
from torch import nn

from harness.api import UsageError


def convolution(before, after, stride):
    """3x3 convolution of the same size at stride 1, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class PaddedShortcut(nn.Module):
    """Channels of zeros, as many before as behind, around an image that is made smaller. No parameters."""

    def __init__(self, before, after, smaller):
        super().__init__()
        self.smaller = smaller
        self.channels = (after - before) // 2

    def forward(self, x):
        return F.pad(self.smaller(x), (0, 0, 0, 0, self.channels, self.channels))


class Subsampling(nn.Module):
    """Every `stride`-th pixel of every `stride`-th row."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride]


def at_least(pixels, shape, name):
    """Refuse images that a network would shrink to nothing."""
    _, height, width = shape
    if min(height, width) < pixels:
        raise UsageError(
            f"{name} needs images of at least {pixels} pixels, not {height}x{width}; choose another --arch"
        )
