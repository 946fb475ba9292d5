"""Tensor functions for attacks and defenses. No state, no global random numbers.

Images are float32 (n, c, h, w) in [0, 1]; `eps` and `step` are on that scale.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from harness.types import Flags, Images, Labels, Logits

__all__ = [
    "ascend",
    "cross_entropy",
    "logit_scale",
    "margin",
    "misclassified",
    "norm",
    "present",
    "project_l2",
    "project_linf",
    "rows",
    "substituted",
    "tolerance",
    "where_rows",
]

TINY = torch.finfo(torch.float32).tiny
FAR = 10
"""How many times the larger of the two highest logits another one may be and still count among them.

At the decision boundaries of trained networks 1 point in 300 has a larger one; a masked class is further away. Two that
are below 3 count as 3: where they all but cancel, their rounding is that of what cancelled.
"""


def where_rows(mask: Flags, where_true: Images, where_false: Images) -> Images:
    """Take whole examples (n, ...): `where_true` where the mask (n,) is set, `where_false` elsewhere."""
    return torch.where(mask.view(-1, *[1] * (where_true.dim() - 1)), where_true, where_false)


def rows(mask: Flags, where_true: Images, where_false: Images) -> Images:
    """Do what `where_rows` does. Deprecated: the old name, kept for one release."""
    warnings.warn("harness.ops.rows is now called where_rows", DeprecationWarning, stacklevel=2)
    return where_rows(mask, where_true, where_false)


def substituted(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return the second tensor with the gradient of the first, of the same shape: how BPDA differentiates.

    Bit for bit the value, which a sum of differences is not (Athalye et al. 2018, arXiv:1802.00420, section 4.1).
    """
    found: torch.Tensor = _Substituted.apply(x, value)
    return found


class _Substituted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def misclassified(logits: Logits, y: Labels) -> Flags:
    """Tell which examples (n,) are misclassified, from logits (n, k) and labels (n,).

    An example whose logits are not all finite counts as not misclassified.
    """
    return (logits.argmax(dim=1) != y) & torch.isfinite(logits).all(dim=1)


def cross_entropy(logits: Logits, y: Labels) -> torch.Tensor:
    """Compute the cross-entropy (n,) of each example, in nats, from logits (n, k) and labels (n,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Logits, y: Labels) -> torch.Tensor:
    """Compute the margin (n,): the logit of `y` minus the largest other one; negative means misclassified.

    Takes logits (n, k), k at least 2. The true class is masked with -inf, so adding a constant to all logits changes
    nothing.
    """
    true = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, y.unsqueeze(1), float("-inf"))
    return true - others.amax(dim=1)


def present(logits: Logits, far: float = FAR) -> torch.Tensor:
    """Tell which logits (n, k) are on the scale of the two highest ones, bool (n, k): not those of a masked class.

    `far`: how many times the larger of these two, or 3, they may be.
    """
    sizes = logits.abs()
    compared = logits.topk(min(2, logits.shape[1]), dim=1).values.abs().amax(dim=1, keepdim=True)
    return sizes <= far * compared.clamp_min(3.0)


def logit_scale(logits: Logits) -> torch.Tensor:
    """Compute what the rounding of each example's margin (n,) is relative to, from logits (n, k).

    The largest magnitude, of the logits that are `present`: a class masked with -1e9 rounds nothing that is compared.
    """
    return logits.abs().where(present(logits), 0.0).amax(dim=1)


def project_linf(x: Images, eps: float) -> Callable[[Images], Images]:
    """Make the projection of images (n, c, h, w) on the linf ball of radius `eps` around `x`, then on [0, 1]."""

    def project(point: Images) -> Images:
        return (x + (point - x).clamp(-eps, eps)).clamp(0.0, 1.0)

    return project


def project_l2(x: Images, eps: float) -> Callable[[Images], Images]:
    """Make the projection of images (n, c, h, w) on the l2 ball of radius `eps` around `x`, then on [0, 1].

    Clipping to [0, 1] leads no farther from `x`, which lies there. Lengths are taken in float64, so that only the
    rounding of the image itself is left of the tolerance.
    """

    def project(point: Images) -> Images:
        change = point.double() - x.double()
        share = (eps / norm(change, 2).clamp_min(TINY)).clamp_max(1.0)
        return (x.double() + change * share.view(-1, *[1] * (x.dim() - 1))).to(x.dtype).clamp(0.0, 1.0)

    return project


def tolerance(kind: str, eps: float) -> float:
    """Say how far beyond `eps` an image still counts as inside a norm's ball: one float32 rounding of an exact step.

    In the unit of `eps`: 1e-7 for `linf`, none for `l0`, a part in 1e5 plus 1e-6 for the others. Distances are taken in
    float64.
    """
    return {"linf": 1e-7, "l0": 0.0}.get(kind, 1e-5 * eps + 1e-6)


def ascend(
    loss: Callable[[Images], torch.Tensor],
    start: Images,
    step: float,
    project: Callable[[Images], Images],
    steps: int,
    observe: Callable[[int, Images], None] | None = None,
    *,
    direction: Callable[[torch.Tensor], torch.Tensor] = torch.sign,
) -> Images:
    """Take `steps` projected gradient steps: the one loop behind FGSM, BIM, PGD and training's inner attack.

    Returns the last point (n, c, h, w), detached. The start is not projected, and gradients of parameters are left
    alone.

    Args:
        loss: images -> values (n,), to be increased; one evaluation per step. It may couple the examples of a batch.
        step: the factor of each step, on the [0, 1] scale.
        project: images -> images inside the threat model, as `project_linf` makes it; called after each step.
        observe: called after each update with the number of updates so far and the point, which it must not change.
        direction: gradients (n, c, h, w) -> the steps to take, times `step`; it may remember earlier gradients.

    Raises:
        RuntimeError: where the loss does not depend on the images.
    """
    point = start.detach()
    for done in range(1, steps + 1):
        point.requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(point).sum(), point)
        point = project(point.detach() + step * direction(gradient))
        if observe is not None:
            observe(done, point)
    return point


def norm(difference: torch.Tensor, p: float) -> torch.Tensor:
    """Compute the p-norm (n,) of each example's difference (n, ...), in float64; p is 0, 1, 2 or infinity."""
    norms: torch.Tensor = torch.linalg.vector_norm(difference.double().flatten(1), ord=p, dim=1)
    return norms
