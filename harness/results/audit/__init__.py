"""Red flags: what the records themselves say against a number, with the evidence. Flags never change a number.

Accuracies are in points (per cent). Where a number becomes a flag is in `harness.results.audit.thresholds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.results.audit.comparisons import compared
from harness.results.audit.growth import grown
from harness.results.audit.images import counted
from harness.results.audit.meaning import MEANING
from harness.results.audit.overfitting import overfitted
from harness.results.audit.probed import probed
from harness.results.audit.protocol import attacked

if TYPE_CHECKING:
    from harness.results.rows import Row

__all__ = ["MEANING", "flags"]


def flags(row: Row, refused: Sequence[str] = ()) -> dict[str, str]:
    """Collect every flag that a row raises: name -> evidence.

    `refused`: the attacks on it whose images the harness did not accept; no record holds them.
    """
    cells = list(row.cells.values())
    attacks = [cell for cell in cells if cell.threat != "none"]
    found = {
        **counted(cells, refused),
        **probed(cells, row.probes),
        **compared(attacks),
        **grown(attacks, row.probes),
        **attacked(row, attacks),
        **overfitted(row, attacks),
    }
    return dict(sorted(found.items()))
