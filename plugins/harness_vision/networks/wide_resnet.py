"""Wide residual networks, Zagoruyko and Komodakis, arXiv:1605.07146, and Madry's variant of them for CIFAR-10."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

from harness_vision.networks.layers import PaddedShortcut
from harness_vision.networks.normalisation import ImageStandardisation
from harness_vision.networks.preactivation import PreActBlock, PreActResNet

if TYPE_CHECKING:
    import torch

    from harness.api import Images

WIDTHS = (160, 320, 640)


def wrn28_10(shape: tuple[int, int, int], classes: int) -> WideResNet:
    """Build a wide ResNet 28-10."""
    return WideResNet(shape, classes, widths=WIDTHS, blocks=4)


def wrn34_10(shape: tuple[int, int, int], classes: int) -> WideResNet:
    """Build a wide ResNet 34-10."""
    return WideResNet(shape, classes, widths=WIDTHS, blocks=5)


def resnet32_wide(shape: tuple[int, int, int], classes: int) -> MadryResNet:
    """Build Madry's CIFAR-10 network, w32-10."""
    return MadryResNet(shape, classes, widths=WIDTHS, blocks=5)


class WideResNet(PreActResNet):
    """A pre-activation network with a stem of 16 channels; no dropout."""

    def __init__(self, shape: tuple[int, int, int], classes: int, *, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__(shape, classes, stem=16, widths=widths, blocks=blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.zeros_(self.head.bias)


class MadryBlock(PreActBlock):
    """A block with leaky ReLU and shortcuts without parameters: averaged pixels, zeros for the new channels.

    Only the very first block, which keeps the size, takes its shortcut from the first activation.
    """

    eps = 1e-3

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__(before, after, stride)
        self.shared = before != after and stride == 1

    def around(self, x: Images, active: Images) -> torch.Tensor:
        """Compute the shortcut of x, or of its activation in the very first block."""
        return x if self.shortcut is None else self.shortcut(active if self.shared else x)

    @staticmethod
    def activation(x: Images) -> torch.Tensor:
        """Apply the activation, leaky ReLU of slope 0.1."""
        return F.leaky_relu(x, 0.1)

    @staticmethod
    def changed(before: int, after: int, stride: int) -> nn.Module:
        """Build the shortcut between maps of different shapes."""
        return PaddedShortcut(before, after, nn.AvgPool2d(stride, ceil_mode=True))


class MadryResNet(WideResNet):
    """The network of the Madry CIFAR-10 challenge ("w32-10 wide"); every image is standardised first."""

    block = MadryBlock

    def __init__(self, shape: tuple[int, int, int], classes: int, *, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__(shape, classes, widths=widths, blocks=blocks)
        self.standardise = ImageStandardisation()
        bound = math.sqrt(3 / self.head.in_features)
        nn.init.uniform_(self.head.weight, -bound, bound)

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, d) of images, each standardised first."""
        return super().features(self.standardise(x))
