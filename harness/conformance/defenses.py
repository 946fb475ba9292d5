"""What every defense is held to, on a toy network and toy data."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.api import Defense, InnerAttack, Recipe
from harness.conformance import toys
from harness.conformance.report import CheckResult, NotApplicable, run_checks
from harness.names import default_value, plain
from harness.oracle import tensors_sha256
from harness.training import SavedState, TrainContext, fit

RECIPE = Recipe(name="toy", arch="toy", epochs=3, batch=32, lr=1e-3, inner=InnerAttack(steps=2))


def check_defense(defense: Defense) -> list[CheckResult]:
    """Hold a defense to every contract that applies to it."""
    return run_checks(defense, CONTRACTS)


def _loss(defense: Defense) -> None:
    """The step gives a finite scalar whose gradient reaches the network, and leaves its inputs and modes alone."""
    if defense.step is None:
        raise NotApplicable("it has no step")
    model, ctx = toys.tiny_net().train(), _context()
    x, y = ctx.train.batch(slice(0, 32), ctx.device)
    before = x.clone(), y.clone()
    loss = defense.step(model, x, y, ctx, **_params(defense))
    assert isinstance(loss, torch.Tensor), "step must return a tensor"
    assert loss.dim() == 0, f"step must return a scalar, not {tuple(loss.shape)}"
    assert bool(torch.isfinite(loss)), f"the loss is {loss.item()}"
    assert torch.equal(x, before[0]), "step wrote to the images it was given"
    assert torch.equal(y, before[1]), "step wrote to the labels it was given"
    assert all(module.training for module in model.modules()), "step left a module out of train mode"
    assert all(p.requires_grad for p in model.parameters()), "step left a parameter frozen"
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
    whole, _ = _trained(defense, states)
    assert _trained(defense, [], states[0])[0] == whole, "a resumed training differs from an uninterrupted one"


def _deploys(defense: Defense) -> None:
    """What it deploys answers finite logits, the same for one image alone as in a batch."""
    model = toys.tiny_net()
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


CONTRACTS: dict[str, Callable[[Defense], None]] = {
    "step gives a usable loss": _loss,
    "learns an easy toy": _learns,
    "same weights twice": _repeatable,
    "resumes to the same weights": _resumes,
    "deploys a model": _deploys,
}


def _params(defense: Defense) -> dict[str, object]:
    return {name: plain(default_value(default)) for name, default in defense.params.items()}


def _context(saved: SavedState | None = None, states: list[SavedState] | None = None) -> TrainContext:
    keep = states if states is not None else []
    return TrainContext(
        recipe=RECIPE, seed=0, train=toys.toy_part(), validation=toys.toy_part(n=32, seed=4), eps=0.05, step=0.025,
        device=torch.device("cpu"), saved=saved, save_state=keep.append,
    )  # fmt: skip


def _trained(
    defense: Defense, states: list[SavedState] | None = None, saved: SavedState | None = None
) -> tuple[str, SavedState]:
    """The sha256 of the weights after training, and the last saved state."""
    kept: list[SavedState] = states if states is not None else []
    model, ctx = toys.tiny_net(), _context(saved, kept)
    if defense.step is not None:
        fit(model, defense.step, ctx, _params(defense))  # type: ignore[arg-type]
    elif defense.train is not None:
        defense.train(model, ctx, **_params(defense))
    else:
        raise NotApplicable("it loads its weights")
    assert kept, "no state was saved: call ctx.save_state every epoch"
    return tensors_sha256(model.state_dict()), kept[-1]
