"""What every defense is held to, on a toy network and toy data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from harness.api import TRAINING_EPS, Dataset, Defense, InnerAttack, Recipe
from harness.conformance import toys
from harness.conformance.report import CheckResult, NotApplicable, run_checks
from harness.context import isolated
from harness.discovery import discover
from harness.names import default_value, plain, split_target
from harness.oracle import tensors_sha256
from harness.peers import Peers
from harness.training import SavedState, TrainContext, fit

EPS = 0.05
RECIPE = Recipe(name="toy", arch="toy", epochs=3, batch=32, lr=1e-3, inner=InnerAttack(steps=2))
DATASET = Dataset(
    name="toy", load=lambda part, root, location: toys.toy_part().split, classes=4, shape=toys.SHAPE,
    budgets={"linf": Fraction(1, 20), "l2": Fraction(1, 2)},
)  # fmt: skip


def check_defense(defense: Defense) -> list[CheckResult]:
    """Hold a defense to every contract that applies to it."""
    return run_checks(defense, CONTRACTS)


def _loss(defense: Defense) -> None:
    """The step gives a finite scalar whose gradient reaches the network, and leaves its inputs and modes alone."""
    if defense.step is None:
        raise NotApplicable("it has no step")
    model, ctx = _network(defense).train(), _context(defense)
    ctx.examples = np.arange(32)
    x, y = ctx.train.batch(ctx.examples, ctx.device)
    frozen = [not p.requires_grad for p in model.parameters()]
    before, modes = (x.clone(), y.clone()), [module.training for module in model.modules()]
    loss = defense.step(model, x, y, ctx, **_params(defense))
    assert isinstance(loss, torch.Tensor), "step must return a tensor"
    assert loss.dim() == 0, f"step must return a scalar, not {tuple(loss.shape)}"
    assert bool(torch.isfinite(loss)), f"the loss is {loss.item()}"
    assert torch.equal(x, before[0]), "step wrote to the images it was given"
    assert torch.equal(y, before[1]), "step wrote to the labels it was given"
    assert modes == [module.training for module in model.modules()], "step left a module out of its mode"
    assert frozen == [not p.requires_grad for p in model.parameters()], "step left a parameter frozen"
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters()]
    assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients), "no gradient reaches the network"


def _learns(defense: Defense) -> None:
    """Three epochs on an easy toy lower the loss."""
    history = _trained(defense)[1].history
    assert history[-1]["loss"] < history[0]["loss"], (
        f"loss went from {history[0]['loss']:.3f} to {history[-1]['loss']:.3f}"
    )


def _repeatable(defense: Defense) -> None:
    """Two trainings with one seed give the same weights, bit for bit."""
    assert _trained(defense)[0] == _trained(defense)[0], "two trainings with one seed differ"


def _resumes(defense: Defense) -> None:
    """A training that stops after its first epoch and goes on gives the weights of one that never stopped."""
    states: list[SavedState] = []
    whole, _, _ = _trained(defense, states)
    assert _trained(defense, [], states[0])[0] == whole, "a resumed training differs from an uninterrupted one"


def _deploys(defense: Defense) -> None:
    """What it deploys answers finite logits, the same for one image alone as in a batch."""
    model = _network(defense)
    deployed = (defense.wrap(model, **_params(defense)) if defense.wrap else model).eval()
    x, _ = toys.images()
    with torch.no_grad():
        logits = deployed(x)
        alone = torch.cat([deployed(x[i : i + 1]) for i in range(len(x))])
    assert logits.shape == (len(x), 4), f"logits are {tuple(logits.shape)} for {len(x)} images and 4 classes"
    assert bool(torch.isfinite(logits).all()), "logits are not finite"
    if defense.stochastic:
        raise NotApplicable("its predictions are random by design")
    assert torch.equal(logits.argmax(1), alone.argmax(1)), "an image's prediction depends on the images beside it"


def _stands_in(defense: Defense) -> None:
    """Every stand-in answers finite logits, lets a gradient through to the image, and changes nothing."""
    if not defense.stand_ins:
        raise NotApplicable("it has no stand-ins")
    model = _network(defense).requires_grad_(False)
    before = tensors_sha256(model.state_dict())
    for stand_in in defense.stand_ins:
        x = toys.images()[0].requires_grad_(True)
        logits = stand_in.build(model, **_params(defense)).eval()(x)
        assert logits.shape == (len(x), 4), f"{stand_in.name}: logits are {tuple(logits.shape)} for 4 classes"
        assert bool(torch.isfinite(logits).all()), f"{stand_in.name}: logits are not finite"
        (gradient,) = torch.autograd.grad(logits.square().sum(), x)
        assert bool((gradient != 0).any()), f"{stand_in.name}: no gradient reaches the image"
    assert tensors_sha256(model.state_dict()) == before, "a stand-in changed the network"


def _is_known(defense: Defense) -> None:
    """A prediction that hides a choice from gradients comes with attacks that know of it, on stand-ins that exist."""
    if not defense.gated and not defense.adaptive:
        raise NotApplicable("gradients see all of its prediction")
    assert defense.adaptive, "it hides a choice from gradients: name attacks that know it in adaptive=(...)"
    offered = {"", *(stand_in.name for stand_in in defense.stand_ins)}
    unknown = [name for name in defense.adaptive if split_target(name)[1] not in offered]
    assert not unknown, f"{', '.join(unknown)}: no such stand-in"


CONTRACTS: dict[str, Callable[[Defense], None]] = {
    "step gives a usable loss": _loss,
    "learns an easy toy": _learns,
    "same weights twice": _repeatable,
    "resumes to the same weights": _resumes,
    "deploys a model": _deploys,
    "stand-ins answer": _stands_in,
    "adaptive attacks are named": _is_known,
}


def _params(defense: Defense) -> dict[str, object]:
    found = {name: default_value(default) for name, default in defense.params.items()}
    return {name: EPS if value == TRAINING_EPS else plain(value) for name, value in found.items()}


def _network(defense: Defense) -> nn.Module:
    """A fresh toy network with what the defense adds to it."""
    model: nn.Module = toys.tiny_net()
    if defense.extend is None:
        return model
    with isolated("init"):
        return defense.extend(model, shape=toys.SHAPE, classes=4, **_params(defense)).eval()


def _context(defense: Defense, saved: SavedState | None = None, states: list[SavedState] | None = None) -> TrainContext:
    keep, train = states if states is not None else [], toys.toy_part()
    ctx = TrainContext(
        recipe=RECIPE, seed=0, train=train, validation=toys.toy_part(n=32, seed=4), eps=EPS, step=EPS / 2,
        device=torch.device("cpu"), saved=saved, save_state=keep.append,
    )  # fmt: skip
    if defense.uses:
        ctx.peers = Peers(
            registry=discover(), dataset=DATASET, data_sha256=train.sha256, seed=0, uses=defense.uses,
            network_of=_neighbour,
        )  # fmt: skip
    return ctx


@functools.cache
def _neighbour(name: str) -> nn.Module:
    """A toy network of another, installed defense."""
    return _trained(discover().entry(Defense, name).spec)[2]


def _trained(
    defense: Defense, states: list[SavedState] | None = None, saved: SavedState | None = None
) -> tuple[str, SavedState, nn.Module]:
    """The sha256 of the weights after training, the last saved state, and the network."""
    kept: list[SavedState] = states if states is not None else []
    model, ctx = _network(defense), _context(defense, saved, kept)
    if defense.step is not None:
        fit(model, defense.step, ctx, _params(defense))  # type: ignore[arg-type]
    elif defense.train is not None:
        defense.train(model, ctx, **_params(defense))
    else:
        raise NotApplicable("it loads its weights")
    assert kept, "no state was saved: call ctx.save_state every epoch"
    return tensors_sha256(model.state_dict()), kept[-1], model
