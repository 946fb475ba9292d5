"""Small networks for small grey images."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch.nn.functional as F
from torch import nn

from harness.networks import Classifier
from harness_vision.networks.layers import at_least, convolution

if TYPE_CHECKING:
    import torch

    from harness.api import Images


def digits_net(shape: tuple[int, int, int], classes: int, *, width: int) -> DigitsNet:
    """Build the network for 8x8 digits."""
    return DigitsNet(shape, classes, width)


def lenet5(shape: tuple[int, int, int], classes: int) -> LeNet5:
    """Build LeNet-5."""
    return LeNet5(shape, classes)


def lenet_advertorch(shape: tuple[int, int, int], classes: int) -> TwoConvolutions:
    """Build the LeNet of advertorch, with 3x3 convolutions and 200 features."""
    return TwoConvolutions(shape, classes, kernel=3, hidden=200)


def madry_mnist(shape: tuple[int, int, int], classes: int) -> TwoConvolutions:
    """Build the MNIST network of Madry et al., with 5x5 convolutions and 1,024 features."""
    return TwoConvolutions(shape, classes, kernel=5, hidden=1024)


def small_cnn(shape: tuple[int, int, int], classes: int, *, zero_head: bool) -> SmallCNN:
    """Build the SmallCNN of TRADES."""
    return SmallCNN(shape, classes, zero_head)


class DigitsNet(Classifier):
    """Three convolution stages of width, 2 width and 4 width channels at full, half and quarter size; averaged
    features.
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        self.layer1 = convolution(shape[0], width, stride=1)
        self.layer2 = convolution(width, 2 * width, stride=2)
        self.layer3 = convolution(2 * width, 4 * width, stride=2)
        self.head = nn.Linear(4 * width, classes)

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, d)."""
        features: torch.Tensor = self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))
        return features


class LeNet5(Classifier):
    """Two 5x5 convolutions, 6 (same size) and 16, each max-pooled, then 120 and 84 features; ReLU."""

    stage_names = ("layer1", "layer2")

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        at_least(12, shape, "lenet5")
        self.layer1 = nn.Sequential(nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))
        self.hidden1 = nn.Linear(16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2), 120)
        self.hidden2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, classes)

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, 84)."""
        flat = self.layer2(self.layer1(x)).flatten(1)
        return F.relu(self.hidden2(F.relu(self.hidden1(flat))))


class TwoConvolutions(Classifier):
    """Two same-size convolutions, 32 and 64, each max-pooled, then one hidden layer; ReLU."""

    stage_names = ("layer1", "layer2")

    def __init__(self, shape: tuple[int, int, int], classes: int, *, kernel: int, hidden: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.layer1 = nn.Sequential(nn.Conv2d(channels, 32, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(nn.Conv2d(32, 64, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2))
        self.hidden = nn.Linear(64 * (height // 4) * (width // 4), hidden)
        self.head = nn.Linear(hidden, classes)

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, hidden)."""
        return F.relu(self.hidden(self.layer2(self.layer1(x)).flatten(1)))


class SmallCNN(Classifier):
    """Two pairs of unpadded 3x3 convolutions, 32 and 64, each pair max-pooled, then 200 and 200 features; ReLU.

    The MNIST network of TRADES (Zhang et al., arXiv:1901.08573), which starts from a head of zeros (`zero_head`): its
    first gradients with respect to the image are then zero.
    """

    stage_names = ("layer1", "layer2")

    def __init__(self, shape: tuple[int, int, int], classes: int, zero_head: bool) -> None:
        super().__init__()
        at_least(16, shape, "small_cnn")
        channels, height, width = shape
        self.layer1 = _pair(channels, 32)
        self.layer2 = _pair(32, 64)
        self.hidden1 = nn.Linear(64 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2), 200)
        self.dropout = nn.Dropout(0.5)
        self.hidden2 = nn.Linear(200, 200)
        self.head = nn.Linear(200, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(cast("nn.Parameter", module.bias))
        if zero_head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, 200)."""
        flat = self.layer2(self.layer1(x)).flatten(1)
        return F.relu(self.hidden2(self.dropout(F.relu(self.hidden1(flat)))))


def _pair(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3), nn.ReLU(), nn.Conv2d(after, after, 3), nn.ReLU(), nn.MaxPool2d(2))
