"""Red flags: what the records themselves say against a number, with the evidence. Flags never change a number.

Accuracies are in points (per cent). Where a number becomes a flag is in `harness.audit.thresholds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.audit.comparisons import compared
from harness.audit.growth import grown
from harness.audit.images import counted
from harness.audit.meaning import MEANING
from harness.audit.overfitting import overfitted
from harness.audit.probed import probed
from harness.audit.protocol import attacked

if TYPE_CHECKING:
    from harness.leaderboard.rows import Row

__all__ = ["MEANING", "flags"]


def flags(row: Row, refused: Sequence[str] = ()) -> dict[str, str]:
    """Name -> evidence of every flag that a row raises.

    `refused`: the attacks on it whose images the harness did not accept; no record holds them.
    """
    cells = list(row.cells.values())
    attacks = [cell for cell in cells if cell.threat != "none"]
    found = {
        **counted(cells, refused),
        **probed(cells),
        **compared(attacks),
        **grown(attacks),
        **attacked(row, attacks),
        **overfitted(row, attacks),
    }
    return dict(sorted(found.items()))
