"""Before records of a user's own network are reused: does it answer as it did when they were made?"""

from __future__ import annotations

import torch

from harness.errors import BoardMismatch
from harness.evaluation.canaries import AGREEMENT, apart
from harness.storage.run_folder import Answers
from harness.storage.runs import RunStore

SLOPE = 1e-3
"""By what share of the largest a gradient may differ and be the same."""


def refuse_others(store: RunStore) -> None:
    """Compare the answers of the user's networks to the canaries with those of earlier runs beside this one.

    Compared are networks whose records could be reused: those of the same sources, weights and images.

    Raises:
        BoardMismatch: naming the network and the run, where an answer differs by more than 1e-4 of the gap of logits,
            or a gradient by more than 1e-3 of the largest.
    """
    now = store.document.get("answers", {})
    for path, defense, before in store.earlier_answers():
        here = now.get(defense)
        if here is None or (here["network"], here["device"]) != (before.get("network"), before.get("device")):
            continue
        by, turned = _moved(here, before), _turned(here, before)
        if by > AGREEMENT or turned > SLOPE:
            told = f"gradients at the canaries differ by {100 * turned:.2g} % of the largest"
            if by > AGREEMENT:
                told = f"logits of the canaries differ by {100 * by:.2g} % of their gap"
            raise BoardMismatch(
                f"{defense}: its sources, weights and images are those of {path.parent}, and its answers are not: "
                f"{told}. Something else decides them, such as an environment variable, a data file or the version "
                "of a library. No record is reused: set it as it was, or give another folder with --output, or remove "
                f"{path.parent}"
            )


def _moved(here: Answers, before: Answers) -> float:
    now, then = (torch.tensor(answers["logits"], dtype=torch.float64) for answers in (here, before))
    return float(apart(now, then).max()) if now.shape == then.shape else float("inf")


def _turned(here: Answers, before: Answers) -> float:
    """Compare gradients, as a share of the largest; 0 where an earlier run has none, or ran on another device."""
    if "slopes" not in here or "slopes" not in before or here.get("slopes_on") != before.get("slopes_on"):
        return 0.0
    now, then = (torch.tensor(answers["slopes"], dtype=torch.float64) for answers in (here, before))
    if now.shape != then.shape:
        return float("inf")
    return float((now - then).abs().max() / torch.maximum(now.abs().max(), then.abs().max()).clamp_min(1e-30))
