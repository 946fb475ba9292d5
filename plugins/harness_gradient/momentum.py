"""MI-FGSM: steps along the sign of accumulated gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.api import Result, UsageError
from harness.ops import ascend, cross_entropy, project_linf
from harness_gradient.first_adversarial import FirstAdversarial, Function

if TYPE_CHECKING:
    from harness.api import AttackContext, Images, Labels, Oracle, ThreatModel


def mi_fgsm(
    model: Oracle, x: Images, y: Labels, threat: ThreatModel, *, ctx: AttackContext, steps: int, step: float | None,
    decay: float, start: str,
) -> Result:  # fmt: skip
    """Increase the cross-entropy with momentum (Dong et al. 2018, arXiv:1710.06081).

    `step=None` is eps / steps, as published. `last` is the final iterate, `any` the first adversarial one.
    """
    eps = threat.radius
    size = step_size(step, eps, steps)
    begin = x if start == "none" else (x + eps * ctx.noise("start:0")).clamp(0.0, 1.0)
    run = FirstAdversarial(model, x, y, lambda logits: cross_entropy(logits, y))
    last = ascend(run.loss, begin, size, project_linf(x, eps), steps, direction=momentum(decay, guarded))
    return Result(last=last, any=run.first)


def step_size(step: float | None, eps: float, steps: int) -> float:
    """Return the step size, by default the budget over the number of steps.

    Raises:
        UsageError: where the step is no number or negative, or there are no steps.
    """
    if steps < 1 or isinstance(step, str) or (step is not None and step < 0):
        raise UsageError(f"steps={steps} must be at least 1, and step={step} a number, or none for eps / steps")
    return eps / steps if step is None else step


def momentum(decay: float, normalise: Function) -> Function:
    """Make the step direction: the sign of all gradients so far, normalised, decayed by `decay` at every step."""
    velocity: torch.Tensor | float = 0.0

    def direction(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal velocity
        velocity = decay * velocity + normalise(gradient)
        return velocity.sign()

    return direction


def guarded(gradient: torch.Tensor) -> torch.Tensor:
    """Divide each example's gradient by its mean absolute value; a zero or not finite gradient adds nothing.

    Without the guard one zero gradient makes the momentum NaN for good, and the sign of NaN is 0: nothing moves again.
    """
    finite = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    return finite / (finite.abs().mean(dim=(1, 2, 3), keepdim=True) + 1e-12)
