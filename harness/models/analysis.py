"""Analyses: numbers about a defense besides its accuracy, each with how many images it rests on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from harness.errors import NotApplicable, PluginError, UsageError
from harness.evaluation.isolation import isolated
from harness.networks import tensors_sha256
from harness.storage.schema import AnalysisObserved
from harness.training.context import TrainContext
from harness.training.loop import group
from harness.training.peers import PeerAttack, Peers
from harness.training.watching import Observer, watched_fit
from harness.types import Analysis, Quantity, ThreatModel, Value

if TYPE_CHECKING:
    from harness.data.dataset import LoadedPart
    from harness.types import Images, Labels

__all__ = ["AnalysisContext", "Quantity", "measure"]


@dataclass(slots=True, kw_only=True)
class AnalysisContext:
    """What an analysis is handed as `ctx`.

    `model`: what is deployed. `network`: what was trained, before it was wrapped. `stand_ins`: see `StandIn`.
    `defense_params`: the defense's. `examples`: the test images to use, by their index in the split. `training`: the
    context of the defense's training, None where its weights were given. `step(model, x, y, ctx)`: the loss of one
    batch, parameters filled in; None where the defense has its own loop. `untrained` builds the network as its training
    started from it. Networks are in eval mode and frozen; an analysis changes copies only.
    """

    model: nn.Module
    network: nn.Module
    stand_ins: Mapping[str, nn.Module]
    defense_params: Mapping[str, Value]
    test: LoadedPart
    examples: np.ndarray
    device: torch.device
    peers: Peers
    training: TrainContext | None = None
    step: Callable[..., torch.Tensor] | None = None
    untrained: Callable[[], nn.Module] | None = None

    def images(self) -> tuple[Images, Labels]:
        """Load the test images to use, float32 (n, c, h, w) in [0, 1], and their labels, int64 (n,)."""
        return self.test.batch(self.examples, self.device)

    def attack(self, name: str, threat: str | ThreatModel | None = None) -> PeerAttack:
        """Get an attack, `craft(model, x, y, examples)`, under the dataset's own budget or under `threat`.

        Raises:
            PluginError: where the dataset has no budget for it.
            UsageError: where there is no such attack, or it does not work under `threat`.
        """
        return self.peers.attack(name, threat)

    def network_of(self, defense: str, eps: float | None = None) -> nn.Module:
        """Get a trained, frozen network of another defense on the same data, with the next seed.

        `eps`: of its inner attack, on the [0, 1] scale, instead of the recipe's.
        """
        return self.peers.network(defense, eps)

    def budget(self, kind: str) -> Fraction:
        """Get the dataset's budget of a threat kind, in the kind's unit.

        Raises:
            PluginError: where it has none.
        """
        return self.peers.budget(kind)

    def training_batch(self, n: int) -> tuple[Images, Labels, TrainContext]:
        """Get the first n training images as `step` is handed them: images, labels, and the context of that batch.

        Raises:
            PluginError: where the weights were given, so that nobody knows how they were trained.
        """
        if self.training is None:
            raise PluginError("the weights were given: there is no training to take a batch of")
        examples = np.arange(min(n, len(self.training.train)))
        x, y = self.training.train.batch(examples, self.device)
        return x, y, replace(self.training, examples=examples)

    def trainee(self) -> nn.Module:
        """Copy the trained network, so that it may be trained on: unfrozen, in train mode."""
        return copy.deepcopy(self.network).requires_grad_(True).train()

    def training_to_follow(self) -> TrainContext:
        """Get the context of the training that gave the network.

        Raises:
            NotApplicable: where nobody knows how the weights came about.
        """
        if self.training is None:
            raise NotApplicable("the weights were given: there is no training to follow")
        return self.training

    def train_again(
        self, *, after_step: Observer | None = None, after_epoch: Observer | None = None, every: int = 1
    ) -> bool:  # fmt: skip
        """Train the network once more and show it on the way; tell whether the same weights result.

        Other machines, devices and numbers of threads round to other weights.

        Args:
            after_step: called with the network and how many batches are done.
            after_epoch: called with the network and how many epochs are done.
                Observers are handed the network in eval mode and frozen; what they draw changes nothing.
            every: batches or epochs between two calls; there is one after the last, too.

        Raises:
            NotApplicable: where nobody knows how the weights came about, or the defense has its own loop.
            UsageError: for `every` below 1.
        """
        if every < 1:
            raise UsageError(f"every={every} must be at least 1")
        training = self.training_to_follow()
        if self.untrained is None:
            raise NotApplicable("the weights were given: there is no network to start from")
        if self.step is None:
            raise NotApplicable("the defense has a training loop of its own, which cannot be followed")
        model = self.untrained().to(self.device)
        final = watched_fit(model, self.step, training, after_step, after_epoch, every)
        selected = "best" if training.recipe.selection == "best" else "model"
        trained = group(final.tensors, selected) or group(final.tensors, "model")
        return tensors_sha256(trained) == tensors_sha256(self.network.state_dict())


def measure(analysis: Analysis, ctx: AnalysisContext, params: Mapping[str, Value], seed: int) -> AnalysisObserved:
    """Run an analysis in isolation, and return the observed part of its record.

    Raises:
        PluginError: where it returns something else than finite quantities.
    """
    with isolated("analysis", seed, ctx.test.sha256):
        found = analysis.run(ctx, **params)
    for name, quantity in found.items():
        if type(quantity) is not Quantity or (quantity.value is not None and not np.isfinite(quantity.value)):
            raise PluginError(f"analysis '{analysis.name}': {name} is no finite Quantity")
    return {
        "quantities": {
            name: {"value": None if q.value is None else float(q.value), "n": int(q.n), "unit": q.unit}
            for name, q in sorted(found.items())
        }
    }
