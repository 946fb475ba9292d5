"""H, the transformer that detects adversarial images by a network's feature maps."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from harness_simple_structure.encoder import DROPOUT, Encoder

Shape = tuple[int, int, int]
Maps = Mapping[str, torch.Tensor]


class Detector(nn.Module):
    """A transformer from feature maps (n, c, h, w) of named stages to a feature (n, d) and logits (n, 2).

    Class 0 is clean, 1 adversarial.

    Where stages are called layer1, layer2 and so on, a stem is none of them. `input="full"`: all stages, brought to the
    channels and the size of the second one; each channel is a token, and its pixels are the numbers in it.
    `input="low"`: the first stage, at half the size with twice the channels; each pixel is a token, and its channels
    are the numbers in it.
    """

    def __init__(self, shapes: Mapping[str, Shape], *, input: str, layers: int) -> None:
        super().__init__()
        stages = [name for name in shapes if name.startswith("layer")] or list(shapes)
        self.full = input == "full"
        if self.full:
            self.stages = stages
            channels, height, width = meeting = shapes[stages[:2][-1]]
            tokens, dimension = len(stages) * channels, height * width
            self.paths = nn.ModuleList(_path(shapes[name], meeting) for name in stages)
        else:
            self.stages = stages[:1]
            before, *sides = shapes[stages[0]]
            tokens, dimension = math.prod(-(-side // 2) for side in sides), 2 * before
            self.paths = nn.ModuleList([nn.Conv2d(before, dimension, 3, 2, 1)])
        self.summary = nn.Parameter(torch.zeros(1, 1, dimension))
        self.positions = nn.Parameter(torch.zeros(1, tokens + 1, dimension))
        self.dropout = nn.Dropout(DROPOUT)
        self.encoder = Encoder(dimension, layers)
        self.head = nn.Linear(dimension, 2)

    def forward(self, maps: Maps) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the feature (n, d) and the logits (n, 2) for clean and adversarial."""
        found = torch.cat([path(maps[name]) for name, path in zip(self.stages, self.paths, strict=True)], dim=1)
        tokens = found.flatten(2) if self.full else found.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.summary.expand(len(tokens), -1, -1), tokens], dim=1)
        feature = self.encoder(self.dropout(tokens + self.positions))
        return feature, self.head(feature)


def _path(shape: Shape, meeting: Shape) -> nn.Module:
    """From a map's shape to the one where all meet.

    A larger map takes one 3x3 convolution of the stride that gets there, one of the same size a 1x1 convolution, a
    smaller one 2x2 transposed convolutions that double its size and halve its channels. Where no such stride gets there
    exactly, cells are averaged or repeated.
    """
    before, after = shape[0], meeting[0]
    ratio = shape[1] / meeting[1]
    if ratio == 1:
        steps: list[nn.Module] = [nn.Conv2d(before, after, 1)]
    elif ratio > 1:
        steps = [nn.Conv2d(before, after, 3, round(ratio), 1)]
    else:
        doublings = max(1, round(-math.log2(ratio)))
        between = [max(1, before >> done) for done in range(doublings)]
        steps = [nn.ConvTranspose2d(*pair, 2, 2) for pair in zip(between, [*between[1:], after], strict=True)]
    return nn.Sequential(*steps, nn.AdaptiveAvgPool2d(meeting[1:]))
