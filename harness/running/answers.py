"""Before records of a user's own network are reused: does it answer as it did when they were made?"""

from __future__ import annotations

import torch

from harness.errors import BoardMismatch
from harness.evaluation.canaries import AGREEMENT, apart
from harness.storage.run_folder import Answers
from harness.storage.runs import RunStore


def refuse_others(store: RunStore) -> None:
    """Compare the answers of the user's networks to the canaries with those of earlier runs beside this one.

    Compared are networks whose records could be reused: those of the same sources, weights and images.

    Raises:
        BoardMismatch: naming the network and the run, where an answer differs by more than 1e-4 of the gap of logits.
    """
    now = store.document.get("answers", {})
    for path, defense, before in store.earlier_answers():
        here = now.get(defense)
        if here is None or (here["network"], here["device"]) != (before.get("network"), before.get("device")):
            continue
        if (by := _moved(here, before)) > AGREEMENT:
            raise BoardMismatch(
                f"{defense}: its sources, weights and images are those of {path.parent}, and its answers are not: "
                f"logits of the canaries differ by {100 * by:.2g} % of their gap. Something else decides them, such as "
                "an environment variable, a data file or the version of a library. No record is reused: set it as it "
                f"was, or give another folder with --output, or remove {path.parent}"
            )


def _moved(here: Answers, before: Answers) -> float:
    now, then = (torch.tensor(answers["logits"], dtype=torch.float64) for answers in (here, before))
    return float(apart(now, then).max()) if now.shape == then.shape else float("inf")
