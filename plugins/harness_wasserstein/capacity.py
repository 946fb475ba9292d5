"""Makes a plan feasible: no pixel holds more than 1."""

import torch

from harness_wasserstein.window import Window

TOLERANCE = 1e-6


def return_to_sender(plan: torch.Tensor, window: Window, rounds: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Send back from overfull pixels the moved mass that does not fit, until everything fits.

    The mass that leaves each pixel stays what it is and the cost only falls. What is sent back may overfill its
    source, so rounds follow; images that fit are left alone. Returns the plan and which images (n,) fit within 1e-6.
    """
    plan = plan.clone()
    active = torch.arange(len(plan), device=plan.device)
    fits = torch.zeros(len(plan), dtype=torch.bool, device=plan.device)
    for _ in range(rounds):
        some = plan[active]
        image = window.push(some)
        full = image.flatten(1).amax(dim=1) <= 1 + TOLERANCE
        fits[active[full]] = True
        active, some, image = active[~full], some[~full], image[~full]
        if not len(active):
            break
        plan[active] = _returned(some, image, window)
    return plan, fits


def _returned(plan: torch.Tensor, image: torch.Tensor, window: Window) -> torch.Tensor:
    """One round. As no pixel starts above 1, what exceeds 1 arrived."""
    arrivals = image - plan[:, :, window.centre]
    kept = (1 - (image - 1).clamp_min(0) / arrivals.clamp_min(1e-30)).clamp(0, 1)
    remaining = plan * window.pull(kept)
    remaining[:, :, window.centre] += (plan - remaining).sum(dim=2)
    return remaining
