"""What was counted of the images that attacks returned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.results.cells import CellResult


def counted(cells: Sequence[CellResult], refused: Sequence[str]) -> dict[str, str]:
    """Collect the flags about images: falsely claimed, out of range, refused, too few, or of an attack as published."""
    # What breaks a stand-in and not what is deployed is no false claim: the attack never saw that. Nor is what one pass
    # of a random network got wrong, and the majority gets right.
    honest = [cell for cell in cells if not cell.on and not cell.flags.get("stochastic")]
    claims = sum(cell.flags.get("false_claims", 0) for cell in honest)
    beyond = sum(cell.flags.get("out_of_range", 0) for cell in cells)
    found = {name: f"{n:g} images" for name, n in (("false_claims", claims), ("out_of_range", beyond)) if n}
    if published := [cell.attack for cell in cells if cell.flags.get("as_published")]:
        found["as_published"] = ", ".join(published)
    outside = [f"{c.attack}: {c.flags['out_of_range']:g} of {c.n} images" for c in cells if c.flags.get("out_of_range")]
    if given := [*outside, *(f"{attack}: refused" for attack in refused)]:
        found["attack_fallback"] = ", ".join(given)
    if short := min((cell for cell in cells if cell.n < cell.split_size), key=lambda cell: cell.n, default=None):
        found["limited"] = f"{short.n} of {short.split_size} images"
    return found
