"""VGG with batch norm: Simonyan and Zisserman, arXiv:1409.1556, configuration D, as used on small images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from harness.networks import Classifier
from harness_vision.networks.layers import at_least

if TYPE_CHECKING:
    import torch

    from harness.api import Images


def vgg16(shape: tuple[int, int, int], classes: int) -> VGG16:
    """Build a VGG-16 with batch norm."""
    return VGG16(shape, classes)


class VGG16(Classifier):
    """Five max-pooled stages of 3x3 convolutions, a sixth pooling from 64 pixels on, and averaged features."""

    stage_names = ("layer1", "layer2", "layer3", "layer4", "layer5")

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        at_least(32, shape, "vgg16")
        channels = shape[0]
        for number, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
            layers = []
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            self.add_module(f"layer{number}", nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.pool = nn.MaxPool2d(2) if min(shape[1:]) >= 64 else nn.Identity()
        self.head = nn.Linear(512, classes)

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, 512)."""
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        features: torch.Tensor = self.pool(x).mean(dim=(2, 3))
        return features
