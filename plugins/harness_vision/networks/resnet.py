"""Residual networks of basic blocks: He et al., arXiv:1512.03385, as used on small images, and DAWNBench's ResNet-9."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

from harness.networks import Classifier
from harness_vision.networks.layers import PaddedShortcut, Subsampling, convolution
from harness_vision.networks.normalisation import ImageNetNormalisation

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from harness.api import Images


def resnet9(shape: tuple[int, int, int], classes: int) -> ResNet9:
    """Build DAWNBench's ResNet-9."""
    return ResNet9(shape, classes)


def resnet18(shape: tuple[int, int, int], classes: int) -> ResNet:
    """Build a ResNet-18 for small images."""
    return ResNet(shape, classes, blocks=(2, 2, 2, 2))


def resnet34(shape: tuple[int, int, int], classes: int) -> ResNet:
    """Build a ResNet-34 for small images."""
    return ResNet(shape, classes, blocks=(3, 4, 6, 3))


def resnet20(shape: tuple[int, int, int], classes: int, *, normalisation: str) -> ThinResNet:
    """Build the ResNet-20 of He et al. for CIFAR-10."""
    return ThinResNet(shape, classes, blocks=3, normalisation=normalisation)


def resnet32(shape: tuple[int, int, int], classes: int, *, normalisation: str) -> ThinResNet:
    """Build the ResNet-32 of He et al. for CIFAR-10."""
    return ThinResNet(shape, classes, blocks=5, normalisation=normalisation)


class BasicBlock(nn.Module):
    """A block of two 3x3 convolutions with batch norm, beside a shortcut that `changed` builds where shapes change."""

    def __init__(self, before: int, after: int, stride: int, changed: Callable[[int, int, int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = changed(before, after, stride)

    def forward(self, x: Images) -> torch.Tensor:
        """Compute the map (n, c, h, w) of the block."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


def projection(before: int, after: int, stride: int) -> nn.Module:
    """Build the shortcut of option B: a 1x1 convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


def padding(before: int, after: int, stride: int) -> nn.Module:
    """Build the shortcut of option A: every second pixel, and zeros for the new channels."""
    return PaddedShortcut(before, after, Subsampling(stride))


class ResNet(Classifier):
    """A 3x3 stem without pooling, and stages of basic blocks, each but the first at half the size; mean features."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, blocks: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 512), changed: Callable[[int, int, int], nn.Module] = projection,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem = convolution(shape[0], widths[0], stride=1)
        channels = widths[0]
        for number, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
            stage = []
            for block in range(count):
                stage.append(BasicBlock(channels, width, 2 if number > 1 and block == 0 else 1, changed))
                channels = width
            self.add_module(f"layer{number}", nn.Sequential(*stage))
        self.stage_names = ("stem", *(f"layer{number}" for number in range(1, len(blocks) + 1)))
        self.head = nn.Linear(channels, classes)

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, d)."""
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3))


class ThinResNet(ResNet):
    """The network of He et al. for CIFAR-10: 16, 32 and 64 channels, shortcuts without parameters."""

    def __init__(self, shape: tuple[int, int, int], classes: int, *, blocks: int, normalisation: str) -> None:
        super().__init__(shape, classes, blocks=(blocks,) * 3, widths=(16, 32, 64), changed=padding)
        self.normalise = ImageNetNormalisation(shape) if normalisation == "imagenet" else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, d) of images, normalised first where asked."""
        return super().features(self.normalise(x))


class ResNet9(Classifier):
    """The ResNet-9: convolutions of 64, 128, 256 and 512 channels, the last three max-pooled, two with a residual.

    Page, "How to train your ResNet" (DAWNBench CIFAR-10). Features are maxima over the map.
    """

    stage_names = ("stem", "layer1", "layer2", "layer3")

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.stem = convolution(shape[0], 64, stride=1)
        self.layer1 = nn.Sequential(convolution(64, 128, stride=1), nn.MaxPool2d(2), Residual(128))
        self.layer2 = nn.Sequential(convolution(128, 256, stride=1), nn.MaxPool2d(2))
        self.layer3 = nn.Sequential(convolution(256, 512, stride=1), nn.MaxPool2d(2), Residual(512))
        self.head = nn.Linear(512, classes)

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, d)."""
        features: torch.Tensor = self.layer3(self.layer2(self.layer1(self.stem(x)))).amax(dim=(2, 3))
        return features


class Residual(nn.Module):
    """Two convolutions with batch norm and ReLU, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(channels, channels, stride=1), convolution(channels, channels, stride=1))

    def forward(self, x: Images) -> torch.Tensor:
        """Compute the map (n, c, h, w)."""
        features: torch.Tensor = x + self.body(x)
        return features
