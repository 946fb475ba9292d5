"""Parts of both ascents: the direction at an image, and a result that counts feasible images only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from harness.api import Result, UsageError
from harness.ops import cross_entropy, margin, misclassified, where_rows
from harness_wasserstein.capacity import return_to_sender
from harness_wasserstein.plan import Plan
from harness_wasserstein.window import Window

if TYPE_CHECKING:
    from harness.api import Images, Labels, Logits, Oracle

LOSSES: dict[str, Callable[[Logits, Labels], torch.Tensor]] = {
    "ce": cross_entropy,
    "margin": lambda logits, y: -margin(logits, y),
}


def checked(steps: int, gamma: float = 1.0, momentum: float = 0.0, price: float = 0.0) -> None:
    """Raise UsageError for settings that mean nothing."""
    if steps < 1 or not gamma > 0 or not 0 <= momentum < 1 or not price >= 0:
        raise UsageError(
            f"steps={steps} must be at least 1, gamma={gamma:g} above 0, momentum={momentum:g} in [0, 1) and "
            f"price={price:g} at least 0"
        )


class Direction:
    """The gain of a unit of intensity at each pixel, image after image along an ascent; it keeps averages between
    calls.

    The gradient at the clamped image, zero where the image exceeds 1, each averaged with the earlier ones by
    `momentum`; minus the price of room, which rises by `price` times the excess over 1 with every step and falls where
    there is room (dual ascent for the condition that no pixel exceeds 1). The largest entry is 1 in size.
    """

    def __init__(
        self, model: Oracle, x: Images, y: Labels, loss: str, momentum: float = 0.0, price: float = 0.0
    ) -> None:
        self.model, self.y, self.loss, self.momentum, self.price = model, y, loss, momentum, price
        self._average, self._room = torch.zeros_like(x), torch.zeros_like(x)

    def __call__(self, image: Images) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the direction (n, c, h, w) at images, and which of them (n,) have a gradient to follow."""
        gradient, useful = gradient_of(self.model, image, self.y, self.loss)
        self._average = where_rows(useful, torch.lerp(gradient, self._average, self.momentum), self._average)
        self._room = (self._room + self.price * (image - 1)).clamp_min(0)
        return _scaled(_scaled(self._average, 1e-35) - self._room, 1.0), useful


def gradient_of(model: Oracle, image: Images, y: Labels, loss: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the gradient through the clamp, with a largest entry of 1, and which images (n,) have a finite one."""
    seen = image.clamp(0, 1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(LOSSES[loss](model(seen), y).sum(), seen)
    gradient = gradient.masked_fill((image < 0) | (image > 1), 0.0)
    largest = gradient.abs().amax(dim=(1, 2, 3))
    useful = torch.isfinite(largest) & (largest > 0)
    return where_rows(useful, _scaled(gradient, 1e-35), torch.zeros_like(gradient)), useful


def _scaled(field: torch.Tensor, least: float) -> torch.Tensor:
    return field / field.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(least)


def feasible(model: Oracle, x: Images, y: Labels, plan: torch.Tensor, window: Window) -> Result:
    """Turn a plan into feasible images by `return_to_sender`; the clean image where that does not end.

    `details` tell whether the plan as the ascent left it would have broken the model, with values above 1
    (`broken_unclamped`) and with those cut off (`broken_clamped`), which loses mass.
    """
    details = readings(model, y, window.push(plan))
    plan, fits = return_to_sender(plan, window)
    image = window.push(plan).clamp(0, 1)
    moved = fits & (plan.flatten(1) != window.staying(x).flatten(1)).any(dim=1)
    return Result(last=where_rows(moved, image, x), evidence=Plan(plan, window.low, window.high), details=details)


def readings(model: Oracle, y: Labels, image: Images) -> dict[str, torch.Tensor]:
    """Tell whether images are misclassified as they are, and with values above 1 cut off."""
    with torch.no_grad():
        return {
            "broken_unclamped": misclassified(model(image), y).float(),
            "broken_clamped": misclassified(model(image.clamp(0, 1)), y).float(),
        }
