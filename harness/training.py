"""The epoch loop that a defense plugs its `step` into.

Every batch reseeds torch's generators from (train seed, epoch, batch), and the state is saved after every epoch, so a
training that was killed and resumed equals one that was not, bit for bit on one CPU build and thread count.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness.context import seed_generators
from harness.data import LoadedPart
from harness.errors import HarnessError
from harness.networks import frozen
from harness.ops import ascend, cross_entropy, project_linf
from harness.types import Recipe, Value

if TYPE_CHECKING:
    from harness.peers import Peers
    from harness.types import Flags, Images, Labels, Logits

__all__ = ["EpochReport", "SavedState", "TrainContext", "fit"]

Tensors = dict[str, torch.Tensor]
Step = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """What one epoch came to; accuracies on the validation slice, robust ones under the recipe's inner attack."""

    epoch: int
    loss: float
    clean: float
    robust: float


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
    """Handed to a defense's `step` and `train` as `ctx`.

    `eps` and `step` are the inner attack's, on the [0, 1] scale. `progress` is the number of epochs done, with a
    fraction, and `examples` are the batch's indices in the training split; the loop keeps both up to date. `saved` is
    the state to resume from, or None. `peers`: other defenses and attacks by name, as far as the defense declares
    that it `uses` them. `cache_dir`: a folder to keep files in. `note`: tells the user a line.
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
        """The loss of another defense, `step(model, x, y, ctx)`; see `harness.peers.Peers.loss`."""
        return self._peers().loss(defense)

    def network_of(self, defense: str) -> nn.Module:
        """A trained, frozen network of another defense; see `harness.peers.Peers.network`."""
        return self._peers().network(defense)

    def attack(self, name: str) -> Callable[..., Images]:
        """An attack, `craft(model, x, y, examples)`; see `harness.peers.Peers.attack`."""
        return self._peers().attack(name)

    def _peers(self) -> Peers:
        if self.peers is None:
            raise HarnessError("this training has no other plugins at hand: give TrainContext its peers")
        return self.peers

    def augment(self, x: Images) -> Images:
        """Change a batch as the recipe's `augment` says; the loop has done so with the images of `step`."""
        return crop_flip(x) if self.recipe.augment == "crop-flip" else x

    def perturb(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        loss: Callable[[Images], torch.Tensor] | None = None,
        **changes: Any,
    ) -> Images:
        """Attack a batch as the recipe's inner attack says; detached, parameters untouched.

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


def fit(model: nn.Module, step: Step, ctx: TrainContext, params: Mapping[str, Value]) -> None:
    """Train `model` in place for the recipe's epochs, from `ctx.saved` where there is one.

    After each epoch it saves `model/...`, `best/...` (the best robust accuracy on the validation slice so far) and
    `optimizer/...` tensors.
    """
    optimizer = _optimizer(model, ctx.recipe)
    history: list[dict[str, float]] = []
    best: Tensors = {}
    if ctx.saved is not None:
        history = list(ctx.saved.history)
        model.load_state_dict(group(ctx.saved.tensors, "model"))
        best = group(ctx.saved.tensors, "best")
        _load_optimizer(optimizer, group(ctx.saved.tensors, "optimizer"))
    for epoch in range(len(history), ctx.recipe.epochs):
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate(ctx.recipe, epoch)
        loss = _epoch(model, step, optimizer, ctx, params, epoch)
        clean, robust = _validate(model, ctx)
        report = EpochReport(epoch=epoch + 1, loss=loss, clean=clean, robust=robust)
        if robust > max((past["robust"] for past in history), default=-1.0):
            best = _copied(model.state_dict())
        history.append({"loss": loss, "clean": clean, "robust": robust})
        tensors = {
            **_prefixed("model", _copied(model.state_dict())),
            **_prefixed("best", best),
            **_prefixed("optimizer", _optimizer_tensors(optimizer)),
        }
        ctx.save_state(SavedState(epochs=epoch + 1, tensors=tensors, history=list(history)))
        ctx.on_epoch(report)


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """The rate of an epoch, counted from 0."""
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
    passed = sum(epoch >= milestone for milestone in recipe.milestones)
    return recipe.lr * recipe.decay**passed if recipe.schedule == "steps" else recipe.lr


def group(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """The tensors under `prefix/`, without it."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}


def _epoch(
    model: nn.Module, step: Step, optimizer: torch.optim.Optimizer, ctx: TrainContext,
    params: Mapping[str, Value], epoch: int,
) -> float:  # fmt: skip
    seed_generators("epoch", ctx.seed, epoch)
    order = torch.randperm(len(ctx.train)).numpy()
    batches = math.ceil(len(order) / ctx.recipe.batch)
    total = 0.0
    model.train()
    for batch in range(batches):
        seed_generators("batch", ctx.seed, epoch, batch)
        ctx.progress = epoch + batch / batches
        chosen = order[batch * ctx.recipe.batch : (batch + 1) * ctx.recipe.batch]
        x, y = ctx.train.batch(chosen, ctx.device)
        x, ctx.examples = ctx.augment(x), chosen
        loss = step(model, x, y, ctx, **params)
        if not torch.isfinite(loss).all():
            raise HarnessError(f"the loss became {loss.item()} in epoch {epoch + 1}, batch {batch + 1}; lower the rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        value = float(loss.detach())
        total += value * len(chosen)
        ctx.on_batch(epoch, batch + 1, batches, value)
    optimizer.zero_grad(set_to_none=True)
    return total / len(order)


def crop_flip(x: Images) -> Images:
    """Pad 4 pixels of black, crop a random window of the old size, flip half of the images left to right."""
    n, _, height, width = x.shape
    padded = F.pad(x, (4, 4, 4, 4))
    top, left = (torch.randint(0, 9, (n,), device=x.device) for _ in range(2))
    flipped = torch.rand(n, device=x.device) < 0.5
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(n, width)
    columns = left[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)
    examples = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[examples, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _validate(model: nn.Module, ctx: TrainContext) -> tuple[float, float]:
    model.eval()
    seed_generators("validate", ctx.seed)
    ctx.progress = math.inf
    standing = unbroken = 0
    for start in range(0, len(ctx.validation), 500):
        x, y = ctx.validation.batch(slice(start, start + 500), ctx.device)
        x_adv = ctx.perturb(model, x, y)
        with torch.no_grad():
            right = _right(model(x), y)
            standing += int(right.sum())
            unbroken += int((right & _right(model(x_adv), y)).sum())
    return standing / len(ctx.validation), unbroken / len(ctx.validation)


def _right(logits: Logits, y: Labels) -> Flags:
    return (logits.argmax(dim=1) == y) & torch.isfinite(logits).all(dim=1)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return torch.optim.Adam(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{index}/{name}": value.detach().clone()
        for index, values in state.items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    state: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        index, _, slot = name.partition("/")
        state.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _copied(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
