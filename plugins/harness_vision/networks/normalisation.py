"""Normalisation inside a network, so that images and budgets stay on the [0, 1] scale. No parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from harness.api import UsageError

if TYPE_CHECKING:
    from harness.api import Images

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class ImageNetNormalisation(nn.Module):
    """Normalisation by the mean and deviation of ImageNet's colours: constants, kept out of the state dict."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        if shape[0] != 3:
            raise UsageError(
                f"normalisation=imagenet needs images of 3 channels, not {shape[0]}; use normalisation=none"
            )
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).view(3, 1, 1), persistent=False)

    def forward(self, x: Images) -> torch.Tensor:
        """Return the normalised images."""
        return (x - self.mean) / self.deviation


class ImageStandardisation(nn.Module):
    """Standardisation of each image to mean 0 and deviation 1 over all its values.

    The deviation is not taken below 1 / sqrt(their count) on the scale of 255 levels, as in the Madry CIFAR network.
    """

    def forward(self, x: Images) -> torch.Tensor:
        """Return the standardised images."""
        numbers = x[0].numel()
        centred = x - x.mean(dim=(1, 2, 3), keepdim=True)
        variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
        # The bound under the root, so that the gradient of a constant image is finite.
        return centred / variance.clamp_min(1 / (numbers * 255**2)).sqrt()
