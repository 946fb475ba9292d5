"""Catastrophic overfitting: robust to the one step of its training, and to nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.results.audit import thresholds as t
from harness.results.audit.cells import accuracy, name

if TYPE_CHECKING:
    from harness.results.cells import CellResult
    from harness.results.rows import Row

ANALYSIS = "overfitting"
"""The analysis of a defense whose network must have overfitted: `fgsm_accuracy` and `pgd20_accuracy`, in per cent."""


def overfitted(row: Row, attacks: Sequence[CellResult]) -> dict[str, str]:
    """Flag a network that has overfitted catastrophically, or that should have and has not.

    Cells tell of what is deployed. So where something is put around the network, only the analysis tells.
    """
    for analysis, quantities in row.analyses.items():
        if analysis.partition("[")[0] == ANALYSIS:
            single, several = (quantities[key].value for key in ("fgsm_accuracy", "pgd20_accuracy"))
            if single is not None and several is not None:
                raised = "co_detected" if single - several > t.OVERFITTING_GAP else "co_missing"
                return {raised: f"of the network alone: fgsm {single:.1f}, pgd-20 {several:.1f}"}
    if row.gated:
        return {}
    for first in (cell for cell in attacks if name(cell) == "fgsm" and not cell.on):
        for second in (cell for cell in attacks if name(cell) == "pgd-20" and not cell.on):
            same = (first.threat, first.n) == (second.threat, second.n)
            if same and accuracy(first) - accuracy(second) > t.OVERFITTING_GAP:
                return {"co_detected": f"fgsm {accuracy(first):.1f}, pgd-20 {accuracy(second):.1f}"}
    return {}
