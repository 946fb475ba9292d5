"""Cheats that a review found: each once passed, or could have. None may give a number that honest play does not."""

import os
import warnings

import numpy as np
import pytest
import torch

from harness.api import Attack, Result
from harness.conformance import toys
from harness.errors import HarnessError
from harness.evaluation.judge import InvalidModel, Judge
from harness.evaluation.measurement import Measurement, Refused
from harness.types import ThreatKind
from support.measure import REGISTRY, cell_of, evaluated, measure, planted

HONEST = measure("one_step")[0]


class TwoFaced(torch.Tensor):
    """Shows one content to comparisons and another to convolutions."""


def returns_a_subclass(model, x, y, threat):
    return x.as_subclass(TwoFaced)


def test_tensor_subclasses_are_refused():
    result, _ = measure(planted(returns_a_subclass))
    assert isinstance(result, Refused)
    assert "TwoFaced" in str(result)


def test_what_changes_after_returning_changes_nothing():
    kept = []

    def alias(model, x, y, threat):
        kept.append(x)
        return x

    x, y = toys.images(n=32)
    before = x.clone()
    result, _ = measure(planted(alias), x=x, y=y)
    kept[0].fill_(0)
    assert torch.equal(x, before)
    assert result == measure(planted(alias), x=x, y=y)[0]


def test_the_context_holds_nothing_that_verdicts_rest_on():
    def reaches(model, x, y, threat, *, ctx):
        held = [value for value in vars(ctx).values() if isinstance(value, torch.Tensor)]
        assert not held
        return x

    assert isinstance(measure(planted(reaches))[0], Measurement)


def run_then_honest(run):
    """Run a cheat, then an honest attack, on one judge: what each gave, an exception being its message."""
    x, y = toys.images(n=32)
    judge = Judge(toys.tiny_net(), 4, toys.SHAPE)
    found = []
    for spec in (planted(run), REGISTRY.get(Attack, "one_step").spec):
        try:
            found.append(evaluated(judge, toys.shard(x, y), spec, [cell_of(spec)]).results[0])
        except InvalidModel as error:
            found.append(str(error))
    return found


def test_a_patched_class_stops_every_later_number():
    original = toys.TinyNet.features

    def patches_the_class(model, x, y, threat):
        type(model.model).features = lambda self, images: -original(self, images)
        return x

    try:
        first, second = run_then_honest(patches_the_class)
    finally:
        toys.TinyNet.features = original
    assert "has changed (behaviour)" in first
    assert "has changed" in second


def test_a_global_hook_stops_every_later_number():
    handles = []

    def hooks_everything(model, x, y, threat):
        handle = torch.nn.modules.module.register_module_forward_hook(
            lambda module, inputs, output: output.flip(1) if isinstance(module, torch.nn.Linear) else None
        )
        handles.append(handle)
        return x

    try:
        first, second = run_then_honest(hooks_everything)
    finally:
        handles[0].remove()
    assert "has changed" in first
    assert "has changed" in second


class InAClosure(torch.nn.Module):
    """A deployed model whose network a copy shares."""

    def __init__(self, network):
        super().__init__()
        self.answer = lambda x: network(x)
        self.parameters_of = lambda: network.parameters()

    def forward(self, x):
        return self.answer(x)


def test_a_network_that_a_copy_shares_cannot_be_changed_unseen():
    def negates(model, x, y, threat):
        for parameter in model.model.parameters_of():
            parameter.data.neg_()
        return x

    with pytest.raises(InvalidModel, match="has changed"):
        measure(planted(negates), InAClosure(toys.tiny_net()))


class Counting(torch.nn.Module):
    """A model that answers worse the more often it is asked."""

    def __init__(self, as_buffer):
        super().__init__()
        self.network = toys.tiny_net()
        self.calls = 0
        if as_buffer:
            self.register_buffer("asked", torch.zeros(()))
        self.as_buffer = as_buffer

    def forward(self, x):
        self.calls += 1
        if self.as_buffer:
            self.asked += 1
        return self.network(x) * (1 if self.calls < 6 else -1)


@pytest.mark.parametrize("as_buffer", [False, True])
def test_a_model_that_keeps_state_gives_no_number(as_buffer):
    with pytest.raises(InvalidModel, match="keeps state"):
        measure("one_step", Counting(as_buffer))


class Watchful(torch.nn.Module):
    """Answers something else where gradients are switched on, to mislead attacks."""

    def __init__(self):
        super().__init__()
        self.network = toys.tiny_net()

    def forward(self, x):
        return self.network(x if not torch.is_grad_enabled() else 1 - x)


def test_a_model_that_watches_the_gradient_mode_is_refused():
    with pytest.raises(InvalidModel, match="gradients are switched on"):
        measure("one_step", Watchful())


class InPlace(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = toys.tiny_net()

    def forward(self, x):
        return self.network(x.sub_(0.0).mul_(1.0).add_(0.0))


def test_a_model_that_normalises_in_place_blames_no_attack():
    assert measure("one_step", InPlace())[0] == HONEST


def test_global_switches_are_put_back_and_verdicts_stay_float32():
    def careless(model, x, y, threat):
        torch.set_autocast_enabled("cpu", True)
        torch.set_default_device("meta")
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.benchmark = True
        os.environ["HARNESS_PLANTED"] = "1"
        warnings.simplefilter("ignore")
        np.random.seed(1)
        return x

    benchmark, state = torch.backends.cudnn.benchmark, np.random.get_state()[1].copy()
    still, careful = measure(planted(careless))[0], measure(planted(lambda model, x, y, threat: x))[0]
    assert still == careful
    assert not torch.is_autocast_enabled("cpu")
    assert torch.get_default_device().type == "cpu"
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.benchmark == benchmark
    assert "HARNESS_PLANTED" not in os.environ
    assert (np.random.get_state()[1] == state).all()


def test_passes_that_go_round_the_oracle_are_counted_too():
    def inside(model, x, y, threat):
        model.model(x)
        return x

    assert measure(planted(inside))[0].forwards == 32


def test_an_attack_cannot_lower_the_cost_of_a_plain_cell():
    def claims_nothing(model, x, y, threat, *, ctx):
        for _ in range(5):
            model(x)
        ctx.costs[0] = (1, 0)
        return x

    assert measure(planted(claims_nothing))[0].forwards == 5 * 32


def test_shared_runs_need_to_say_what_each_snapshot_cost():
    def silent(model, x, y, threat, *, ctx, steps):
        return Result(last=x, snapshots={done: Result(last=x) for done in ctx.steps_wanted})

    spec = planted(silent, prefix="steps", params={"steps": 3})
    x, y = toys.images()
    cells = [cell_of(spec, params={"steps": s}) for s in (1, 3)]
    judge = Judge(toys.tiny_net(), 4, toys.SHAPE)
    with pytest.raises(HarnessError, match=r"does not call ctx\.reached"):
        evaluated(judge, toys.shard(x, y), spec, cells)


@pytest.mark.parametrize("batch", [5, 32, 250])
def test_attacks_on_global_generators_get_the_whole_shard_whatever_the_batch(batch):
    assert measure("random_signs", batch=batch)[0] == measure("random_signs")[0]


def test_a_distance_that_is_not_finite_is_a_reason():
    endless = ThreatKind(
        name="linf", distance=lambda x, x_adv, evidence: torch.full((len(x),), float("inf")),
        verify=lambda x, x_adv, eps, evidence: torch.zeros(len(x), dtype=torch.bool),
    )  # fmt: skip
    x, y = toys.images()
    spec = planted(lambda model, x, y, threat: x, minimal=True)
    judge = Judge(toys.tiny_net(), 4, toys.SHAPE)
    (result,) = evaluated(judge, toys.shard(x, y), spec, [cell_of(spec)], endless).results
    assert isinstance(result, Refused)
    assert result.reasons == {"distance not finite": 16}


def test_snapshots_may_be_plain_images():
    def plain(model, x, y, threat, *, ctx, steps):
        for done in ctx.steps_wanted:
            ctx.reached(done)
        return Result(last=x, snapshots=dict.fromkeys(ctx.steps_wanted, x))

    result, _ = measure(planted(plain, prefix="steps", params={"steps": 2}))
    assert isinstance(result, Measurement)
