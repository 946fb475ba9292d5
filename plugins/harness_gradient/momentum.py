"""MI-FGSM: steps along the sign of gradients that are added up."""

import torch

from harness.api import Result, UsageError
from harness.ops import ascend, cross_entropy, project_linf
from harness_gradient.first_adversarial import FirstAdversarial, Function


def mi_fgsm(model, x, y, threat, *, ctx, steps, step, decay, start):
    """Climb the cross-entropy; `step=None` is eps / steps, as published."""
    eps = float(threat.eps)
    size = step_size(step, eps, steps)
    begin = x if start == "none" else (x + eps * ctx.noise("start:0")).clamp(0.0, 1.0)
    trail = FirstAdversarial(model, x, y, lambda logits: cross_entropy(logits, y))
    last = ascend(trail.loss, begin, size, project_linf(x, eps), steps, direction=momentum(decay, guarded))
    return Result(last=last, any=trail.first)


def step_size(step: float | None, eps: float, steps: int) -> float:
    """The step, by default the budget over the number of steps."""
    if steps < 1 or isinstance(step, str) or (step is not None and step < 0):
        raise UsageError(f"steps={steps} must be at least 1, and step={step} a number, or none for eps / steps")
    return eps / steps if step is None else step


def momentum(decay: float, normalise: Function) -> Function:
    """The sign of all gradients so far, each normalised, the earlier ones times `decay` for every step since."""
    velocity: torch.Tensor | float = 0.0

    def direction(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal velocity
        velocity = decay * velocity + normalise(gradient)
        return velocity.sign()

    return direction


def guarded(gradient: torch.Tensor) -> torch.Tensor:
    """Each example's gradient over its mean absolute value; a zero or not finite gradient adds nothing.

    Without the guard one zero gradient makes the momentum NaN for good, and the sign of NaN is 0: nothing moves again.
    """
    finite = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    return finite / (finite.abs().mean(dim=(1, 2, 3), keepdim=True) + 1e-12)
