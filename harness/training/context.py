"""What a defense is handed while it trains, and the state that a training saves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from harness.data.dataset import LoadedPart
from harness.errors import HarnessError
from harness.networks import frozen
from harness.ops import ascend, cross_entropy, project_linf
from harness.reporter import EpochReport
from harness.training.augmentation import AUGMENTATIONS
from harness.types import Recipe, ThreatModel

if TYPE_CHECKING:
    from harness.training.peers import PeerAttack, Peers
    from harness.types import Images, Labels


Tensors = dict[str, torch.Tensor]


@dataclass(slots=True, kw_only=True)
class SavedState:
    """Everything needed to go on after an epoch: how many are done, named tensors, and the reports so far."""

    epochs: int
    tensors: Tensors
    history: list[dict[str, float]]


def _ignore(*_: object) -> None:
    """Report nothing."""


@dataclass(slots=True, kw_only=True)
class TrainContext:
    """What a defense's `step` and `train` are handed as `ctx`.

    `eps` and `step` are the inner attack's, on the [0, 1] scale. `progress` is the number of epochs done, with a
    fraction, and `examples` are the batch's indices in the training split; the loop keeps both up to date. `saved` is
    the state to resume from, or None; a `train` of its own calls `save_state` after every epoch. `peers`: other
    defenses and attacks by name, as far as the defense declares that it `uses` them. `cache_dir`: a folder to keep
    files in. `note`: tells the user a line.
    """

    recipe: Recipe
    seed: int
    train: LoadedPart
    validation: LoadedPart
    eps: float
    step: float
    device: torch.device
    saved: SavedState | None = None
    save_state: Callable[[SavedState], None] = _ignore
    on_batch: Callable[[int, int, int, float], None] = _ignore
    on_epoch: Callable[[EpochReport], None] = _ignore
    note: Callable[[str], None] = _ignore
    peers: Peers | None = None
    cache_dir: Path | None = None
    progress: float = field(default=math.inf)
    examples: np.ndarray = field(default_factory=lambda: np.arange(0))

    def loss_of(self, defense: str) -> Callable[..., torch.Tensor]:
        """Get the loss of another defense, `step(model, x, y, ctx)`, with its parameters filled in.

        Raises:
            PluginError: where it is not declared, or has no step.
        """
        return self._peers().loss(defense)

    def network_of(self, defense: str, eps: float | None = None) -> nn.Module:
        """Get a trained, frozen network of another defense on the same data, with the next seed.

        `eps`: of its inner attack, on the [0, 1] scale, instead of the recipe's.

        Raises:
            PluginError: where it is not declared.
        """
        return self._peers().network(defense, eps)

    def attack(self, name: str, threat: str | ThreatModel | None = None) -> PeerAttack:
        """Get an attack, `craft(model, x, y, examples)`, under the dataset's own budget or under `threat`.

        Raises:
            PluginError: where it is not declared, or has no budget here.
            UsageError: where it does not work under `threat`.
        """
        return self._peers().attack(name, threat)

    def _peers(self) -> Peers:
        if self.peers is None:
            raise HarnessError("this training has no other plugins at hand: give TrainContext its peers")
        return self.peers

    def augment(self, x: Images) -> Images:
        """Augment images (n, c, h, w) as the recipe says, by torch's global generators.

        The loop has done so with the images that `step` is handed.
        """
        return AUGMENTATIONS[self.recipe.augment](x)

    def perturb(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Callable[[Images], torch.Tensor] | None = None,
        **changes: Any,
    ) -> Images:
        """Attack a batch (n, c, h, w) as the recipe's inner attack says; detached, parameters untouched.

        A random start is drawn from torch's global generators, which `fit` seeds for every batch.

        Args:
            loss: images -> values (n,) to be increased; cross-entropy against `y` by default.
            changes: fields of `InnerAttack` to set instead of the recipe's, such as `start="normal"`; `step` and `eps`
                on the [0, 1] scale.
        """
        inner = dataclasses.replace(self.recipe.inner, **changes)
        ramp = min(1.0, self.progress / inner.ramp_epochs) if inner.ramp_epochs else 1.0
        eps = float(changes.get("eps", self.eps)) * ramp
        step = float(changes.get("step", self.step)) * ramp
        with frozen(model, training=inner.mode == "train"):
            start = x
            if inner.start == "uniform":
                start = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0.0, 1.0)
            elif inner.start == "normal":
                start = x + 0.001 * torch.randn_like(x)
            goal = loss or (lambda point: cross_entropy(model(point), y))
            return ascend(goal, start, step, project_linf(x, eps), inner.steps)
