"""A toy training of any defense: a small network, toy images, three epochs."""

from __future__ import annotations

import functools
from fractions import Fraction

import torch
from torch import nn

from harness.api import TRAINING_EPS, Dataset, Defense, InnerAttack, Recipe
from harness.conformance import toys
from harness.conformance.report import NotApplicable
from harness.evaluation.isolation import isolated
from harness.networks import tensors_sha256
from harness.registry.discovery import discover
from harness.registry.names import default_value, plain
from harness.training.context import SavedState, TrainContext
from harness.training.loop import fit
from harness.training.peers import Peers

EPS = 0.05
RECIPE = Recipe(name="toy", arch="toy", epochs=3, batch=32, lr=1e-3, inner=InnerAttack(steps=2))
DATASET = Dataset(
    name="toy", load=lambda part, root, location: toys.toy_part().split, classes=4, shape=toys.SHAPE,
    budgets={"linf": Fraction(1, 20), "l2": Fraction(1, 2)},
)  # fmt: skip


def toy_params(defense: Defense) -> dict[str, object]:
    """Resolve the defense's parameters to their defaults, with the toy's eps where they take the training's."""
    found = {name: default_value(default) for name, default in defense.params.items()}
    return {name: EPS if value == TRAINING_EPS else plain(value) for name, value in found.items()}


def toy_training_params(defense: Defense) -> dict[str, object]:
    """Resolve those of the defense's parameters that training is handed, as `toy_params` does."""
    return defense.of_training(toy_params(defense))


def toy_network(defense: Defense) -> nn.Module:
    """Build a fresh toy network with what the defense adds to it; the weights are the same every time."""
    model: nn.Module = toys.tiny_net()
    if defense.extend is None:
        return model
    with isolated("init"):
        return defense.extend(model, shape=toys.SHAPE, classes=4, **toy_training_params(defense)).eval()


def toy_context(
    defense: Defense, saved: SavedState | None = None, states: list[SavedState] | None = None
) -> TrainContext:
    """Make the context of a toy training: it resumes from `saved`, and every saved state is appended to `states`."""
    keep, train = states if states is not None else [], toys.toy_part()
    ctx = TrainContext(
        recipe=RECIPE, seed=0, train=train, validation=toys.toy_part(n=32, seed=4), eps=EPS, step=EPS / 2,
        device=torch.device("cpu"), saved=saved, save_state=keep.append,
    )  # fmt: skip
    if defense.uses:
        ctx.peers = Peers(
            registry=discover(), dataset=DATASET, data_sha256=train.sha256, seed=0, uses=defense.uses,
            network_of=toy_neighbour, train=lambda: train,
        )  # fmt: skip
    return ctx


@functools.cache
def toy_neighbour(name: str, eps: float | None = None) -> nn.Module:
    """Train a toy network of another, installed defense, once in a process; `eps` is ignored.

    Raises:
        NotApplicable: where that defense loads its weights.
    """
    return train_toy(discover().entry(Defense, name).spec)[2]


def train_toy(
    defense: Defense, states: list[SavedState] | None = None, saved: SavedState | None = None
) -> tuple[str, SavedState, nn.Module]:
    """Train a toy network; returns the sha256 of its weights, the last saved state, and the network.

    Raises:
        NotApplicable: where the defense loads its weights.
        AssertionError: where the training saved no state.
    """
    kept: list[SavedState] = states if states is not None else []
    model, ctx = toy_network(defense), toy_context(defense, saved, kept)
    if defense.step is not None:
        fit(model, defense.step, ctx, toy_training_params(defense))  # type: ignore[arg-type]
    elif defense.train is not None:
        defense.train(model, ctx, **toy_training_params(defense))
    else:
        raise NotApplicable("it loads its weights")
    assert kept, "no state was saved: call ctx.save_state every epoch"
    return tensors_sha256(model.state_dict()), kept[-1], model
