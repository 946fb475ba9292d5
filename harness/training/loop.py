"""The epoch loop that a defense plugs its `step` into.

Every batch reseeds the global generators from (train seed, epoch, batch), and the state is saved after every epoch, so
a training that was killed and resumed equals one that was not, bit for bit on one CPU build and thread count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.errors import HarnessError
from harness.evaluation.isolation import seed_generators
from harness.reporter import EpochReport
from harness.training.context import SavedState, Tensors, TrainContext
from harness.types import Recipe, Value

if TYPE_CHECKING:
    from harness.types import Flags, Labels, Logits

Step = Callable[..., torch.Tensor]


def fit(model: nn.Module, step: Step, ctx: TrainContext, params: Mapping[str, Value]) -> None:
    """Train `model` in place for the recipe's epochs, from `ctx.saved` where there is one.

    After each epoch it saves `model/...`, `best/...` (the best robust accuracy on the validation slice so far) and
    `optimizer/...` tensors.

    Raises:
        HarnessError: where the loss is not finite.
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


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Compute the learning rate after `progress` epochs, with a fraction; only a cyclic one changes within an epoch."""
    if recipe.schedule == "cyclic":
        return recipe.lr * (1 - abs(2 * progress / recipe.epochs - 1))
    epoch = math.floor(progress)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
    passed = sum(epoch >= milestone for milestone in recipe.milestones)
    return recipe.lr * recipe.decay**passed if recipe.schedule == "steps" else recipe.lr


def group(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """Pick the tensors under `prefix/`, and drop it from their names."""
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
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate(ctx.recipe, ctx.progress)
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
