"""Draws which images of a batch are adversarial: 0 for clean, 1 and up for the attack sets in order."""

import hashlib

import torch

from harness.api import UsageError


def draw(n: int, ratio: float, sets: int) -> torch.Tensor:
    """Draw the kinds (n,) of a batch, each adversarial with probability `ratio`, all sets alike.

    Draws come from torch's global generator.
    """
    adversarial = torch.rand(n) < ratio
    return torch.where(adversarial, torch.randint(1, sets + 1, (n,)), 0)


def epoch_ratio(ratio: float, ratio_range: str | None, seed: int, progress: float) -> float:
    """Return the ratio of the epoch: as given, or uniform between the ends of a range such as `0.3:0.7`.

    It is a function of the seed and of the epoch that `progress` lies in.
    """
    if ratio_range is None:
        return ratio
    low, high = _ends(ratio_range)
    digest = hashlib.sha256(f"ratio {seed} {progress // 1:g}".encode()).digest()
    return low + (high - low) * int.from_bytes(digest[:7], "big") / 2**56


def check_ratios(ratio: float, ratio_range: str | None) -> None:
    """Raise UsageError for ratios that are no probabilities."""
    for value in (ratio, *(_ends(ratio_range) if ratio_range is not None else ())):
        if not 0 <= value <= 1:
            raise UsageError(f"simple_structure: {value} is no share of adversarial images; give one from 0 to 1")


def _ends(text: str) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in str(text).split(":"))
    except ValueError:
        raise UsageError(f"simple_structure: ratio_range={text} must be two numbers, as in 0.3:0.7") from None
    return low, high
