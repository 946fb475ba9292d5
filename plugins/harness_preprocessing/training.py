"""Trains the network that images are preprocessed for: with the loss of another defense, on images as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.api import Images, Labels, TrainContext


def step(model: nn.Module, x: Images, y: Labels, ctx: TrainContext, *, base: str) -> torch.Tensor:
    """Compute the loss of one batch by the defense that `base` names."""
    return ctx.loss_of(base)(model, x, y, ctx)
