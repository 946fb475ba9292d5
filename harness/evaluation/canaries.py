"""Canary images, and what is asked of a network's answers to them: are two answers the same, but for rounding?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.ops import logit_scale

if TYPE_CHECKING:
    from harness.types import Images, Logits

CANARIES = 8
PASSES = 66
"""Passes over the canaries: what happens in one of ten is seen with a probability of 1 - 0.9 ** 66 > 0.999."""
AGREEMENT = 1e-4
"""By what share of the gap between two logits answers may differ and be the same."""
LARGEST = 1e6
"""The largest share that is told: between two infinite logits there is no gap to measure by."""
_ROUNDING = 8 * float(torch.finfo(torch.float32).eps)


def canary_images(shape: tuple[int, ...], device: str | torch.device, real: Images | None = None) -> Images:
    """Make the canaries (n, c, h, w): uniform noise, half of it replaced by `real` images where there are any."""
    noise = torch.rand(CANARIES, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    if real is None:
        return noise
    kept = real[: CANARIES // 2].to(device)
    return torch.cat([kept, noise[len(kept) :]])


def apart(first: Logits, second: Logits) -> torch.Tensor:
    """Measure how far apart two answers (n, k) are for each image, float64 (n,), as a share of the gaps of the first.

    A gap is what lies between the largest logit of an image and another of its logits, but no less than the median over
    the images of the smallest: an image on the border of two classes is no sign of anything. Rounding is left out. A
    logit that is far below the others, or infinite, makes nothing look the same that is not.
    """
    first, second = first.double(), second.double()
    top = first.argmax(dim=1, keepdim=True)
    gaps, others = (answer.gather(1, top) - answer for answer in (first, second))
    closest = gaps.scatter(1, top, torch.inf).amin(dim=1)
    scale = gaps.abs().maximum(closest[torch.isfinite(closest)].nanmedian() if len(closest) else closest.sum())
    size = torch.where(torch.isfinite(first), first.abs() + first.gather(1, top).abs(), 0.0)
    moved = torch.where(gaps == others, 0.0, (gaps - others).abs() - _ROUNDING * size).clamp_min(0.0)
    shares = torch.where(moved > 0, moved / scale.clamp_min(1e-30), 0.0)
    return shares.nan_to_num(LARGEST).clamp_max(LARGEST).amax(dim=1)


def noise_share(first: Logits, second: Logits) -> float:
    """Compare two passes: the largest difference as a share of the scale of the logits.

    What is far off the scale of the others, a masked class, is compared on its own.
    """
    scale = torch.maximum(logit_scale(first).amax(), first.abs()).clamp_min(1e-12)
    return float(((first - second).abs() / scale).max())
