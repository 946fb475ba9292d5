"""A watched training: observers see each step and epoch of the very training, and change nothing of it."""

import dataclasses
from functools import partial

import pytest
import torch

from harness.api import Analysis, Quantity, hookimpl
from harness.conformance import toys
from harness.conformance.analyses import UNPROTECTED
from harness.conformance.toy_training import RECIPE, toy_context, toy_network, train_toy
from harness.errors import NotApplicable
from harness.evaluation.isolation import isolated
from harness.networks import tensors_sha256
from harness.training.loop import group
from support.analyses import analysis_context
from support.bench import bench_toy
from support.plugins import toy_registry


def context(**changes):
    """What an analysis is handed of a toy training, whose weights are those that `train_toy` gives."""
    network = train_toy(UNPROTECTED)[2].eval().requires_grad_(False)
    usual = {
        "training": toy_context(UNPROTECTED), "step": UNPROTECTED.step, "untrained": partial(toy_network, UNPROTECTED),
    }  # fmt: skip
    return analysis_context(network, toys.toy_part(n=16, seed=5), **{**usual, **changes})


def weights_of(seen):
    return lambda network, done: seen.append((done, tensors_sha256(network.state_dict())))


def test_epochs_are_those_that_the_training_saved():
    states, seen = [], []
    train_toy(UNPROTECTED, states)
    assert context().train_again(after_epoch=weights_of(seen))
    assert seen == [(state.epochs, tensors_sha256(group(state.tensors, "model"))) for state in states]
    assert len(seen) == RECIPE.epochs


def test_steps_are_counted_over_epochs_and_end_with_the_trained_network():
    ctx, seen = context(), []
    assert ctx.train_again(after_step=weights_of(seen))
    batches = -(-96 // RECIPE.batch)
    assert [done for done, _ in seen] == list(range(1, RECIPE.epochs * batches + 1))
    assert len({weights for _, weights in seen}) == len(seen), "every step changes the weights"
    assert seen[-1][1] == tensors_sha256(ctx.network.state_dict())


def test_observers_are_handed_a_frozen_network_and_cannot_disturb_by_asking():
    def ask(network, done):
        assert not network.training
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        x = torch.rand(8, *toys.SHAPE, requires_grad=True)
        network(x).sum().backward()

    assert context().train_again(after_step=ask, after_epoch=ask)


def test_other_weights_are_told():
    ctx = context()
    with torch.no_grad():
        next(iter(ctx.network.parameters())).add_(1)
    assert not ctx.train_again()
    assert context().train_again(), "nothing is left of a training before"
    with isolated("elsewhere", 7):
        torch.rand(3)
        assert context().train_again(), "whatever was drawn before"


def test_the_selected_weights_are_compared():
    best = dataclasses.replace(RECIPE, selection="best")
    training = dataclasses.replace(toy_context(UNPROTECTED), recipe=best)
    states = []
    train_toy(UNPROTECTED, states)
    ctx = context(training=training)
    ctx.network.load_state_dict(group(states[-1].tensors, "best"))
    assert ctx.train_again()


@pytest.mark.parametrize(
    ("missing", "reason"), [("training", "weights were given"), ("untrained", "given"), ("step", "of its own")]
)
def test_without_a_training_to_follow_it_does_not_apply(missing, reason):
    with pytest.raises(NotApplicable, match=reason):
        context(**{missing: None}).train_again()


class Retraining:
    @hookimpl
    def harness_analyses(self):
        def again(ctx):
            seen = []
            same = ctx.train_again(after_epoch=lambda network, done: seen.append(done))
            return {"same": Quantity(float(same), 1), "epochs": Quantity(len(seen), 1)}

        return [Analysis(name="again", run=again, groups=())]


def test_a_benchmarked_defense_is_trained_again_to_its_own_weights(tmp_path):
    outcome = bench_toy(
        tmp_path, toy_registry(Retraining()), defenses=["plain", "robust"], attacks=["unchanged"], analyses=["again"],
        limit=8, train_seed=3,
    )  # fmt: skip
    found = [r["outcome"]["quantities"] for r in outcome.records if r["identity"]["kind"] == "analysis"]
    assert [(one["same"]["value"], one["epochs"]["value"]) for one in found] == [(1.0, 3.0)] * 2
