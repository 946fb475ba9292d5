"""Residual networks whose blocks start with batch norm and activation: He et al., arXiv:1603.05027."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

from harness.networks import Classifier
from harness_vision.networks.layers import at_least

if TYPE_CHECKING:
    import torch

    from harness.api import Images


def preact_resnet18(shape: tuple[int, int, int], classes: int) -> PreActResNet18:
    """Build a pre-activation ResNet-18."""
    return PreActResNet18(shape, classes)


class PreActBlock(nn.Module):
    """A block of batch norm, activation and 3x3 convolution, twice, beside a shortcut.

    Where shapes change, the shortcut is a 1x1 convolution of the first activation.
    """

    eps = 1e-5

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before, eps=self.eps)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after, eps=self.eps)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.shortcut = self.changed(before, after, stride) if stride != 1 or before != after else None

    def forward(self, x: Images) -> torch.Tensor:
        """Compute the map (n, c, h, w) of the block."""
        active = self.activation(self.bn1(x))
        out: torch.Tensor = self.conv2(self.activation(self.bn2(self.conv1(active)))) + self.around(x, active)
        return out

    def around(self, x: Images, active: Images) -> torch.Tensor:
        """Compute the shortcut of x, or of its activation where shapes change."""
        return x if self.shortcut is None else self.shortcut(active)

    @staticmethod
    def activation(x: Images) -> torch.Tensor:
        """Apply the activation, ReLU."""
        return F.relu(x)

    @staticmethod
    def changed(before: int, after: int, stride: int) -> nn.Module:
        """Build the shortcut between maps of different shapes."""
        return nn.Conv2d(before, after, 1, stride, bias=False)


class PreActResNet(Classifier):
    """A 3x3 stem, stages of blocks, each but the first at half the size, and a last batch norm.

    Features are averaged over the map unless a subclass pools otherwise.
    """

    block = PreActBlock

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, stem: int, widths: tuple[int, ...], blocks: int
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], stem, 3, 1, 1, bias=False)
        before = stem
        for number, width in enumerate(widths, 1):
            first = self.block(before, width, 1 if number == 1 else 2)
            rest = [self.block(width, width, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            before = width
        self.stage_names = ("stem", *(f"layer{number}" for number in range(1, len(widths) + 1)))
        self.bn = nn.BatchNorm2d(before, eps=self.block.eps)
        self.head = nn.Linear(self.pooled(before, shape), classes)

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, d)."""
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return self.pool(self.block.activation(self.bn(x)))

    def pooled(self, channels: int, shape: tuple[int, int, int]) -> int:
        """Return the number of features that `pool` gives."""
        return channels

    def pool(self, x: Images) -> torch.Tensor:
        """Average the map (n, c, h, w) to features (n, d)."""
        return x.mean(dim=(2, 3))


class PreActResNet18(PreActResNet):
    """The network with stages of two blocks; features are means over squares of 4x4.

    The stages have 64, 128, 256 and 512 channels.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        at_least(25, shape, "preact_resnet18")
        super().__init__(shape, classes, stem=64, widths=(64, 128, 256, 512), blocks=2)

    def pooled(self, channels: int, shape: tuple[int, int, int]) -> int:
        """Return the number of 4x4 squares times channels."""
        height, width = (-(-side // 8) // 4 for side in shape[1:])
        return channels * height * width

    def pool(self, x: Images) -> torch.Tensor:
        """Average squares of 4x4 of the map to features (n, d)."""
        return F.avg_pool2d(x, 4).flatten(1)
