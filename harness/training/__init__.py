"""What a defense needs to train: the context it is handed, and the epoch loop that it plugs a step into."""

from harness.reporter import EpochReport
from harness.training.context import SavedState, TrainContext
from harness.training.loop import fit

__all__ = ["EpochReport", "SavedState", "TrainContext", "fit"]
