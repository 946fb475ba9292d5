"""The roughness of a flow: how far neighbouring pixels move apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import torch

KINK = 1e-4
"""Below this difference, in pixels, the distance is rounded off, so that a constant flow has a gradient."""


def smoothness(flow: torch.Tensor, neighbours: str) -> torch.Tensor:
    """Sum sqrt(|difference|^2 + KINK^2) - KINK over each pixel and each of its four neighbours: (n,).

    Each pair counts twice, once from either end. `neighbours`: `axis` or `diagonal`; the paper's words allow both.
    """
    if neighbours == "axis":
        differences = flow[:, :, 1:] - flow[:, :, :-1], flow[:, :, :, 1:] - flow[:, :, :, :-1]
    else:
        differences = (
            flow[:, :, 1:, 1:] - flow[:, :, :-1, :-1],
            flow[:, :, 1:, :-1] - flow[:, :, :-1, 1:],
        )
    return 2 * cast("torch.Tensor", sum(_lengths(difference).flatten(1).sum(dim=1) for difference in differences))


def _lengths(difference: torch.Tensor) -> torch.Tensor:
    square = difference.square().sum(dim=1)
    # The same as the root minus KINK, without subtracting nearly equal numbers.
    return square / ((square + KINK**2).sqrt() + KINK)
