"""The cost of a defense: parameters, and floating point operations of inference and of training.

Never seconds, which are no property of a defense and differ from run to run; those of a run are in its attempt log.
"""

from collections.abc import Iterable

from harness.api import Analysis, hookimpl, lazy


@hookimpl
def harness_analyses() -> Iterable[Analysis]:
    """Offer the analysis `cost`."""
    yield Analysis(
        name="cost",
        run=lazy("harness_cost.analysis:cost"),
        params={"images": 16},
        about={"images": "images of the one inference and the one training step that are counted"},
        summary="parameters, FLOPs of inference and of training, inferences of the bare network that one of it takes",
    )
