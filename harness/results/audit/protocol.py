"""Who attacked, and what they knew of what is deployed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.results.audit.cells import crafted_elsewhere

if TYPE_CHECKING:
    from harness.results.cells import CellResult
    from harness.results.rows import Row


def attacked(row: Row, attacks: Sequence[CellResult]) -> dict[str, str]:
    """Collect the flags about the attackers: too few, too ignorant, or bound by nothing."""
    found = {}
    adaptive = [cell.attack for cell in attacks if cell.knowledge == "adaptive"]
    if row.gated:
        found["prediction_gated"] = f"{len(adaptive)} of {len(attacks)} attacks are adaptive"
        if not adaptive:
            found["no_adaptive"] = "no adaptive evaluation"
    if elsewhere := [cell.attack for cell in attacks if crafted_elsewhere(cell)]:
        found["static_set"] = f"{len(elsewhere)} of {len(attacks)} attacks: {', '.join(elsewhere)}"
    if free := [cell for cell in attacks if ":" not in cell.threat]:
        found["unbounded_attack"] = ", ".join(f"{cell.attack} {_far(cell)}" for cell in free)
    if missing := [name for name in row.mandatory if name not in {cell.attack for cell in row.cells.values()}]:
        found["weak_protocol"] = f"not run: {', '.join(missing)}"
    return found


def _far(cell: CellResult) -> str:
    distance = cell.median_distance
    return "without a distance" if distance is None else f"median distance {distance:.3g}"
