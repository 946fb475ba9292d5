"""What every defense is held to, on a toy network and toy data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from harness.api import Defense
from harness.conformance import toys
from harness.conformance.report import CheckResult, NotApplicable, run_checks
from harness.conformance.toy_training import toy_context, toy_network, toy_params, toy_training_params, train_toy
from harness.evaluation.canaries import PASSES
from harness.networks import tensors_sha256
from harness.registry.names import split_target
from harness.training.context import SavedState


def check_defense(defense: Defense) -> list[CheckResult]:
    """Hold a defense to every contract that applies to it."""
    return run_checks(defense, CONTRACTS)


def _loss(defense: Defense) -> None:
    """Check that the step gives a finite scalar loss whose gradient reaches the network.

    It must leave its inputs, and the modes and gradient flags of the network, as they were.
    """
    if defense.step is None:
        raise NotApplicable("it has no step")
    model, ctx = toy_network(defense).train(), toy_context(defense)
    ctx.examples = np.arange(32)
    x, y = ctx.train.batch(ctx.examples, ctx.device)
    frozen = [not p.requires_grad for p in model.parameters()]
    before, modes = (x.clone(), y.clone()), [module.training for module in model.modules()]
    loss = defense.step(model, x, y, ctx, **toy_training_params(defense))
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
    """Check that three epochs on an easy toy lower the loss."""
    history = train_toy(defense)[1].history
    assert history[-1]["loss"] < history[0]["loss"], (
        f"loss went from {history[0]['loss']:.3f} to {history[-1]['loss']:.3f}"
    )


def _repeatable(defense: Defense) -> None:
    """Check that two trainings with one seed give the same weights, bit for bit."""
    assert train_toy(defense)[0] == train_toy(defense)[0], "two trainings with one seed differ"


def _resumes(defense: Defense) -> None:
    """Check that a training resumed after its first epoch gives the weights of an uninterrupted one, bit for bit."""
    states: list[SavedState] = []
    whole, _, _ = train_toy(defense, states)
    assert train_toy(defense, [], states[0])[0] == whole, "a resumed training differs from an uninterrupted one"


def _deploys(defense: Defense) -> None:
    """Check that what it deploys gives finite logits (n, 4), and predicts the same for an image alone as in a batch."""
    model = toy_network(defense)
    deployed = (defense.wrap(model, **toy_params(defense)) if defense.wrap else model).eval()
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
    """Check that every stand-in gives finite logits (n, 4), passes a gradient to the image and changes no weights."""
    if not defense.stand_ins:
        raise NotApplicable("it has no stand-ins")
    model = toy_network(defense).requires_grad_(False)
    before = tensors_sha256(model.state_dict())
    for stand_in in defense.stand_ins:
        x = toys.images()[0].requires_grad_(True)
        logits = stand_in.build(model, **toy_params(defense)).eval()(x)
        assert logits.shape == (len(x), 4), f"{stand_in.name}: logits are {tuple(logits.shape)} for 4 classes"
        assert bool(torch.isfinite(logits).all()), f"{stand_in.name}: logits are not finite"
        (gradient,) = torch.autograd.grad(logits.square().sum(), x)
        assert bool((gradient != 0).any()), f"{stand_in.name}: no gradient reaches the image"
    assert tensors_sha256(model.state_dict()) == before, "a stand-in changed the network"


def _is_random_as_declared(defense: Defense) -> None:
    """Check that two passes differ exactly where it is declared stochastic, and that its votes are odd there."""
    if defense.load is not None:
        raise NotApplicable("it loads its weights")
    model = toy_network(defense)
    deployed = (defense.wrap(model, **toy_params(defense)) if defense.wrap else model).eval()
    x, _ = toys.images()
    with torch.no_grad():
        first = deployed(x)
        same = all(torch.equal(first, deployed(x)) for _ in range(PASSES - 1))
    assert same or defense.stochastic, "two passes differ: declare stochastic=True, or make it deterministic"
    assert not (same and defense.stochastic), "it is declared stochastic, and two passes are equal"
    assert defense.votes % 2 or not defense.stochastic, f"{defense.votes} votes can be split evenly: make them odd"


def _deployment_is_of_its_parameters(defense: Defense) -> None:
    """Check that `deployment` names parameters of the defense, and that there is a `wrap` to be handed them."""
    if not defense.deployment:
        raise NotApplicable("it names no parameters of deployment")
    unknown = [name for name in defense.deployment if name not in defense.params]
    assert not unknown, f"deployment names {', '.join(unknown)}, which is none of params"
    assert defense.wrap is not None, "it names parameters of deployment and has no wrap"


def _is_known(defense: Defense) -> None:
    """Check that a gated or random defense names adaptive attacks, on stand-ins that exist."""
    if not defense.gated and not defense.stochastic and not defense.adaptive:
        raise NotApplicable("gradients see all of its prediction")
    assert defense.adaptive or not defense.gated, (
        "it hides a choice from gradients: name attacks that know it in adaptive=(...)"
    )
    assert defense.adaptive, "it is random: name attacks that average over its draws in adaptive=(...), as aa_rand does"
    offered = {"", *(stand_in.name for stand_in in defense.stand_ins)}
    unknown = [name for name in defense.adaptive if split_target(name)[1] not in offered]
    assert not unknown, f"{', '.join(unknown)}: no such stand-in"


CONTRACTS: dict[str, Callable[[Defense], None]] = {
    "step gives a usable loss": _loss,
    "learns an easy toy": _learns,
    "same weights twice": _repeatable,
    "resumes to the same weights": _resumes,
    "deploys a model": _deploys,
    "random as declared": _is_random_as_declared,
    "parameters of deployment": _deployment_is_of_its_parameters,
    "stand-ins answer": _stands_in,
    "adaptive attacks are named": _is_known,
}
