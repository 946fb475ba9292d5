"""Small networks and data whose robustness is known exactly."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from harness.data.dataset import LoadedPart, split_sha256
from harness.data.shard import Shard
from harness.networks import Classifier
from harness.types import Split

if TYPE_CHECKING:
    from harness.types import Images, Labels, Logits

SHAPE = (1, 8, 8)
TOY_SHA256 = "0" * 64
DUALS = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}


class TinyNet(Classifier):
    """Two convolution stages with batch norm, for toy training."""

    stage_names = ("layer1", "layer2")

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8 * 4 * 4, classes)

    def features(self, x: Images) -> torch.Tensor:
        """Compute the features (n, 128)."""
        return self.layer2(self.layer1(x)).flatten(1)  # type: ignore[no-any-return]


class Shifted(nn.Module):
    """A model with a constant added to all logits: the same predictions and margins."""

    def __init__(self, model: nn.Module, shift: float) -> None:
        super().__init__()
        self.model, self.shift = model, shift

    def forward(self, x: Images) -> Logits:
        """Compute the logits (n, k) of the model and add the constant."""
        return self.model(x) + self.shift  # type: ignore[no-any-return]


def tiny_net(classes: int = 4, seed: int = 0) -> TinyNet:
    """Make a `TinyNet` in eval mode, with random weights that `seed` fixes; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyNet(classes).eval()


def images(n: int = 16, classes: int = 4, seed: int = 1) -> tuple[Images, Labels]:
    """Draw random images (n, 1, 8, 8) in [0.05, 0.95) and labels (n,).

    The labels are what `tiny_net` with seed 0 predicts, except that every fourth is wrong.
    """
    stream = torch.Generator().manual_seed(seed)
    x = 0.05 + 0.9 * torch.rand(n, *SHAPE, generator=stream)
    with torch.no_grad():
        y = tiny_net(classes)(x).argmax(dim=1)
    y[::4] = (y[::4] + 1) % classes
    return x, y


def shard(x: Images, y: Labels) -> Shard:
    """Put toy images (n, c, h, w) and labels (n,) into a shard, as the harness attacks them."""
    return Shard(start=0, stop=len(x), examples=tuple(range(len(x))), x=x, y=y, data_sha256=TOY_SHA256)


def linear_problem(kind: str, n: int = 16, seed: int = 2) -> tuple[nn.Module, Images, Labels, Fraction]:
    """Make a two-class linear model, and images that all have one exact radius, margin / dual norm.

    Returns model, images (n, 1, 8, 8), labels (n,) and the radius in the norm `kind`. With the default seed pixels lie
    in [0.3, 0.7] and the radius is at most 0.25, so that no pixel can leave [0, 1] within it.
    """
    stream = torch.Generator().manual_seed(seed)
    pixels = SHAPE[0] * SHAPE[1] * SHAPE[2]
    weight = torch.randn(pixels, generator=stream, dtype=torch.float64)
    weight = torch.where(weight.abs() < 0.1, 0.1, weight)
    radius = Fraction(1, 20) if kind == "linf" else Fraction(1, 4)
    size = float(radius) * float(torch.linalg.vector_norm(weight, DUALS[kind]))
    x = 0.4 + 0.2 * torch.rand(n, pixels, generator=stream, dtype=torch.float64)
    y = torch.arange(n) % 2
    wanted = torch.where(y == 1, size, -size)
    score = (x - 0.5) @ weight
    x += ((wanted - score) / weight.square().sum())[:, None] * weight
    linear = nn.Linear(pixels, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([-weight / 2, weight / 2]).float())
        linear.bias.copy_(torch.tensor([0.25, -0.25]) * weight.sum().float())
    return nn.Sequential(nn.Flatten(), linear).eval(), x.float().view(n, *SHAPE), y, radius


def toy_part(n: int = 96, classes: int = 4, seed: int = 3) -> LoadedPart:
    """Make a learnable toy split of n images (n, 1, 8, 8), uint8: each class brightens its own quarter of the image."""
    stream = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % classes
    pixels = stream.integers(0, 120, (n, *SHAPE), dtype=np.uint8)
    for row, label in enumerate(labels):
        top, left = 4 * (label // 2 % 2), 4 * (label % 2)
        pixels[row, :, top : top + 4, left : left + 4] += 120
    split = Split(pixels=pixels, labels=labels)
    return LoadedPart(split, split_sha256(split))
