"""What the benchmark tells whoever watches it. This one is silent; the command line overrides it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.types import Cell, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """What one epoch came to; accuracies on the validation slice, robust ones under the recipe's inner attack."""

    epoch: int
    loss: float
    clean: float
    robust: float


class Reporter:
    """Every method may be overridden; none may change a result. `checkpoint` may raise to stop between batches."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def warn(self, text: str) -> None:
        """Something the user should act on."""

    def train_start(self, subject: Subject, epochs_done: int) -> None:
        """A training starts, or goes on after so many epochs."""

    def train_batch(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        """A batch is done; epochs count from 0, batches from 1."""

    def train_epoch(self, report: EpochReport) -> None:
        """An epoch is done and saved."""

    def train_end(self) -> None:
        """A training is complete."""

    def attack_start(self, cells: tuple[Cell, ...], shards: int) -> None:
        """Cells that share one run start on so many shards."""

    def shard_done(self, cells: tuple[Cell, ...], done: int, shards: int, images: int) -> None:
        """A shard of these cells is recorded, now or in an earlier run."""

    def attack_end(self, cells: tuple[Cell, ...]) -> None:
        """These cells are complete or failed."""
