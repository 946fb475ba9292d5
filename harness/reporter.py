"""What the benchmark tells whoever watches it. This one is silent; the command line overrides it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.types import Cell, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """What one epoch came to: its number, counted from 1, its mean loss, and accuracies as shares in [0, 1].

    `clean`: the clean accuracy on the validation slice. `robust`: the robust accuracy there, under the recipe's inner
    attack.
    """

    epoch: int
    loss: float
    clean: float
    robust: float


class Reporter:
    """Told what a run is doing. Every method may be overridden; none may change a result.

    `train_batch` and `shard_done` may raise `KeyboardInterrupt`, which ends the run there.
    """

    def note(self, text: str) -> None:
        """Tell the user something worth a line."""

    def warn(self, text: str) -> None:
        """Tell the user something to act on."""

    def train_start(self, subject: Subject, epochs_done: int) -> None:
        """Tell that a training starts, or goes on after so many epochs."""

    def train_batch(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        """Tell that a batch is done; epochs count from 0, batches from 1."""

    def train_epoch(self, report: EpochReport) -> None:
        """Tell that an epoch is done and saved."""

    def train_end(self) -> None:
        """Tell that a training is complete."""

    def attack_start(self, cells: tuple[Cell, ...], shards: int) -> None:
        """Tell that cells which share one attack run start on so many shards."""

    def shard_done(self, cells: tuple[Cell, ...], done: int, shards: int, images: int) -> None:
        """Tell that a shard of these cells is recorded, now or in an earlier run.

        `done` of `shards` are, and so the first `images` of the fixed order.
        """

    def attack_end(self, cells: tuple[Cell, ...]) -> None:
        """Tell that these cells are complete or failed."""
