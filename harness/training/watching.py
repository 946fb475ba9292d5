"""A training that is watched: what `fit` does, with the network shown to observers on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from harness.networks import frozen
from harness.reporter import EpochReport
from harness.training.context import SavedState, TrainContext
from harness.training.loop import Step, fit

Observer = Callable[[nn.Module, int], None]
"""Handed the network in training, in eval mode and frozen, and how many steps or epochs are done."""


def watched_fit(
    model: nn.Module, step: Step, ctx: TrainContext, after_step: Observer | None, after_epoch: Observer | None,
    every: int = 1,
) -> SavedState:  # fmt: skip
    """Train `model` in place from the start, and return the state after the last epoch.

    Observers are called after every so many steps or epochs, and after the last. They change nothing: batches, epochs
    and validation seed the generators anew, so that what an observer draws from them is not missed.

    Raises:
        HarnessError: where the loss is not finite.
    """
    states: list[SavedState] = []
    epochs, steps = ctx.recipe.epochs, 0
    last_step = epochs * math.ceil(len(ctx.train) / ctx.recipe.batch)

    def keep(state: SavedState) -> None:
        states[:] = [state]

    def show(observer: Observer | None, done: int, last: int) -> None:
        if observer is not None and (done % every == 0 or done == last):
            with frozen(model, training=False):
                observer(model, done)

    def on_batch(*_: object) -> None:
        nonlocal steps
        steps += 1
        show(after_step, steps, last_step)

    def on_epoch(report: EpochReport) -> None:
        show(after_epoch, report.epoch, epochs)

    watched = replace(ctx, saved=None, save_state=keep, on_batch=on_batch, on_epoch=on_epoch)
    fit(model, step, watched, {})
    return states[0]
