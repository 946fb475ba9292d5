"""Trains the network that is purified: on FGSM examples, with the loss of another defense."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.api import Images, Labels, TrainContext

LOSSES = {
    "fgsm_at": "fgsm_at[statistics=both]",
    "trades": "trades[beta=6,inner=fgsm]",
    "trades_published": "trades[beta=6,clean_passes=1,inner=fgsm]",
    "mart": "mart[beta=6,inner=fgsm]",
    "mart_published": "mart[beta=6,inner=fgsm,variant=tpap]",
}
"""`fgsm_at`: batch norm also sees the clean images, which TPAP's code passes for its log. `trades_published`: the clean
images pass once, as in that code, and not twice, as in that of TRADES. `mart_published`: with the mask of that code,
which drops the divergence of most rows by accident (tly18/TPAP, train_fgsm_at_cifar10_TPAP.py, lines 97 to 117 and 218
to 227)."""


PURIFIED = {"fgsm_at": LOSSES["fgsm_at"], "pgd_at": "pgd_at", "fast_at": "fast_at", "raw": "raw"}
"""Losses of networks that other attacks purify: TPAP's own base, and those that do not overfit to one step."""


def step(model: nn.Module, x: Images, y: Labels, ctx: TrainContext, *, base: str) -> torch.Tensor:
    """Compute the loss of one batch by the defense that `base` names."""
    return ctx.loss_of(LOSSES[base])(model, x, y, ctx)


def step_of_base(model: nn.Module, x: Images, y: Labels, ctx: TrainContext, *, base: str) -> torch.Tensor:
    """Compute the loss of one batch of a network that another attack purifies."""
    return ctx.loss_of(PURIFIED[base])(model, x, y, ctx)
