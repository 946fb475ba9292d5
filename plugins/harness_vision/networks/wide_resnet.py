"""Wide residual networks, Zagoruyko and Komodakis, arXiv:1605.07146, and Madry's variant of them for CIFAR-10."""

import math

import torch.nn.functional as F
from torch import nn

from harness_vision.networks.layers import PaddedShortcut
from harness_vision.networks.normalisation import ImageStandardisation
from harness_vision.networks.preactivation import PreActBlock, PreActResNet

WIDTHS = (160, 320, 640)


def wrn34_10(shape, classes):
    return WideResNet(shape, classes, widths=WIDTHS, blocks=5)


def resnet32_wide(shape, classes):
    return MadryResNet(shape, classes, widths=WIDTHS, blocks=5)


class WideResNet(PreActResNet):
    """Pre-activation blocks after a stem of 16 channels; no dropout."""

    def __init__(self, shape, classes, *, widths, blocks):
        super().__init__(shape, classes, stem=16, widths=widths, blocks=blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.zeros_(self.head.bias)


class MadryBlock(PreActBlock):
    """Leaky ReLU, and shortcuts without parameters: averaged pixels, with zeros for the channels that are new.

    Only the very first block, which keeps the size, takes its shortcut from the first activation.
    """

    eps = 1e-3

    def __init__(self, before, after, stride):
        super().__init__(before, after, stride)
        self.shared = before != after and stride == 1

    def around(self, x, active):
        return x if self.shortcut is None else self.shortcut(active if self.shared else x)

    @staticmethod
    def activation(x):
        return F.leaky_relu(x, 0.1)

    @staticmethod
    def changed(before, after, stride):
        return PaddedShortcut(before, after, nn.AvgPool2d(stride, ceil_mode=True))


class MadryResNet(WideResNet):
    """The network of the Madry CIFAR-10 challenge ("w32-10 wide"); every image is standardised first."""

    block = MadryBlock

    def __init__(self, shape, classes, *, widths, blocks):
        super().__init__(shape, classes, widths=widths, blocks=blocks)
        self.standardise = ImageStandardisation()
        bound = math.sqrt(3 / self.head.in_features)
        nn.init.uniform_(self.head.weight, -bound, bound)

    def features(self, x):
        return super().features(self.standardise(x))
