"""What was measured of the network before any attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.results.audit import thresholds as t

if TYPE_CHECKING:
    from harness.results.cells import CellResult


def probed(cells: Sequence[CellResult], probes: Mapping[str, float]) -> dict[str, str]:
    """Collect the flags about the network itself; a number that was not measured raises none.

    `probes`: what was measured where there are no cells.
    """
    seen = {**probes, **{name: value for cell in cells for name, value in cell.probes.items()}}
    found = {}
    noise = seen.get("logit_noise", 0.0)
    if noise > t.LOGIT_NOISE or any(cell.flags.get("stochastic") for cell in cells):
        votes = max((cell.votes for cell in cells), default=1)
        decided = f"; {votes} passes decide" if votes > 1 else ""
        found["stochastic"] = f"logits differ by {100 * noise:.2g} % between two passes{decided}"
    beside = seen.get("batch_dependence", 0.0)
    if beside > t.BATCH_DEPENDENCE:
        found["batch_dependent"] = f"logits differ by {100 * beside:.2g} % of their gap, alone and beside others"
    ce, by_margin = seen.get("zero_gradient_ce", 0.0), seen.get("zero_gradient_margin", 0.0)
    if ce > t.ZERO_GRADIENT_CE or by_margin > t.ZERO_GRADIENT_MARGIN:
        told = f"{100 * ce:.0f} % of images under cross-entropy, {100 * by_margin:.0f} % under margin"
        pixels = seen.get("zero_gradient_pixels")
        found["zero_gradients"] = told + (f"; {100 * pixels:.0f} % of all pixels" if pixels is not None else "")
    if seen.get("probabilities", 0.0) > t.PROBABILITIES:
        found["probability_outputs"] = f"{100 * seen['probabilities']:.0f} % of images"
    if seen.get("gradient_calls", 0.0) > t.GRADIENT_CALLS:
        found["dynamic"] = f"{seen['gradient_calls']:g} calls in a prediction"
    if seen.get("labels_taken", 0.0) > t.LABELS_TAKEN:
        found["train_labels_at_test"] = f"{seen['labels_taken']:g} argument for labels"
    return found
