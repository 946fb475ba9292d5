"""Attacks as papers' scripts run them, defects included.

The final iterate counts, as in the scripts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.ops import ascend, cross_entropy, margin, project_linf
from harness_gradient.momentum import momentum

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel
    from harness_gradient.first_adversarial import Function

CIFAR_DEVIATIONS = (0.2023, 0.1994, 0.2010)
"""Standard deviations of CIFAR-10's channels, as the Simple Structure script has them."""


def fgsm_ss(model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, size: float) -> Images:
    """Take one step of size / deviation of the channel, a zero gradient counting as positive (Simple Structure)."""
    return _stepped(model, x, y, size / _deviations(x), lambda gradient: torch.where(gradient >= 0, 1.0, -1.0))


def bim_ss(model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, size: float, steps: int) -> Images:
    """Take one step of `size`, then `steps` of size / deviation of the channel, in no ball (Simple Structure).

    A zero gradient moves nothing, other than in the script's FGSM.
    """
    point = _stepped(model, x, y, torch.full_like(_deviations(x), size), torch.sign)
    for _ in range(steps):
        point = _stepped(model, point, y, size / _deviations(x), torch.sign)
    return point


def fgsm_rs(model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, step: float) -> Images:
    """Take one step of PGD from a random start that may leave [0, 1] (ANCRA)."""
    return ascend(lambda point: cross_entropy(model(point), y), _unclamped(x, threat, ctx), step, _ball(x, threat), 1)


def cw_inf_batchsum(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, step: float
) -> Images:
    """Run PGD on the hinge of the batch's summed margins (ANCRA); below 0, no example has a gradient."""

    def loss(point: torch.Tensor) -> torch.Tensor:
        return -torch.relu(margin(model(point), y).sum())

    return ascend(loss, _unclamped(x, threat, ctx), step, _ball(x, threat), steps)


def mi_fgsm_tpap(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, steps: int, step: float, decay: float
) -> Images:
    """Run MI-FGSM with gradients over the mean of the whole batch: TPAP's DIM, whose resizing is the identity.

    The script takes the mean of the losses; the sum's gradient differs by a factor that the division takes out.
    """
    direction = momentum(decay, lambda gradient: gradient / gradient.abs().mean())
    return ascend(lambda point: cross_entropy(model(point), y), x, step, _ball(x, threat), steps, direction=direction)


def _stepped(model: Oracle, x: Images, y: Labels, size: torch.Tensor, sign: Function) -> Images:
    return ascend(
        lambda point: cross_entropy(model(point), y), x, 1.0, lambda point: point.clamp(0.0, 1.0), 1,
        direction=lambda gradient: size * sign(gradient),
    )  # fmt: skip


def _deviations(x: torch.Tensor) -> torch.Tensor:
    """CIFAR's channels; for another number of channels, which no script has, their mean."""
    deviations = torch.tensor(CIFAR_DEVIATIONS).to(x)
    return (deviations if x.shape[1] == len(deviations) else deviations.mean()).view(1, -1, 1, 1)


def _unclamped(x: Images, threat: ThreatModel, ctx: AttackContext) -> Images:
    return x + threat.radius * ctx.noise("start:0")


def _ball(x: Images, threat: ThreatModel) -> Function:
    return project_linf(x, threat.radius)
