"""The epoch loop: rates, augmentation, the inner attack, and resuming to the same bits."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from harness.conformance import toys
from harness.errors import HarnessError
from harness.networks import tensors_sha256
from harness.training.context import SavedState
from harness.training.loop import _right, fit, group, learning_rate
from harness.types import InnerAttack
from support.plugins import RECIPE, plain_step, robust_step
from support.training import training_context


def context_of_toys(recipe=RECIPE, saved=None, **kwargs):
    return training_context(recipe, eps=0.05, step=0.02, saved=saved, **kwargs)


def trained(step=robust_step, recipe=RECIPE, saved=None, **kwargs):
    states: list[SavedState] = []
    model = toys.tiny_net()
    fit(model, step, context_of_toys(recipe, saved, save_state=states.append, **kwargs), {})
    return model, states


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_resumed_training_equals_an_uninterrupted_one(optimizer, after):
    recipe = replace(RECIPE, optimizer=optimizer, momentum=0.9, weight_decay=1e-3, schedule="cosine")
    whole, states = trained(recipe=recipe)
    resumed, later = trained(recipe=recipe, saved=states[after])
    assert tensors_sha256(whole.state_dict()) == tensors_sha256(resumed.state_dict())
    assert tensors_sha256(states[-1].tensors) == tensors_sha256(later[-1].tensors)
    assert states[-1].history == later[-1].history


def test_the_best_epoch_is_kept_beside_the_last():
    _, states = trained(recipe=replace(RECIPE, epochs=6))
    scores = [epoch["robust"] for epoch in states[-1].history]
    best = scores.index(max(scores))
    assert tensors_sha256(group(states[-1].tensors, "best")) == tensors_sha256(group(states[best].tensors, "model"))


def test_training_does_not_depend_on_the_generator_it_meets():
    torch.manual_seed(1)
    first, _ = trained()
    torch.manual_seed(2)
    torch.rand(5)
    second, _ = trained()
    assert tensors_sha256(first.state_dict()) == tensors_sha256(second.state_dict())


def test_rates_follow_the_schedules_in_closed_form():
    base = replace(RECIPE, epochs=10, lr=0.1)
    assert [learning_rate(base, e) for e in (0, 9)] == [0.1, 0.1]
    steps = replace(base, schedule="steps", milestones=(3, 6), decay=0.1)
    assert [learning_rate(steps, e) for e in (2, 3, 5, 6)] == pytest.approx([0.1, 0.01, 0.01, 0.001])
    cosine = replace(base, schedule="cosine")
    assert [learning_rate(cosine, e) for e in range(10)] == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * e / 10)) for e in range(10)]
    )


def test_only_a_cyclic_rate_changes_within_an_epoch():
    base = replace(RECIPE, epochs=10, lr=0.1, milestones=(3,))
    for schedule in ("constant", "steps", "cosine"):
        recipe = replace(base, schedule=schedule)
        assert [learning_rate(recipe, 3.99), learning_rate(recipe, 2.99)] == [learning_rate(recipe, e) for e in (3, 2)]
    cyclic = replace(base, schedule="cyclic")
    assert [learning_rate(cyclic, e) for e in (0, 2.5, 5, 7.5)] == pytest.approx([0, 0.05, 0.1, 0.05])


def test_the_loop_steps_a_cyclic_rate_with_every_batch():
    rates = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    recipe = replace(RECIPE, epochs=2, lr=0.1, schedule="cyclic", optimizer="sgd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "SGD", Watched)
        trained(plain_step, recipe)
    total = len(rates)
    assert total > 4
    assert rates == pytest.approx([0.1 * (1 - abs(2 * batch / total - 1)) for batch in range(total)])


def test_the_ramp_grows_eps_and_step_linearly():
    model, (x, y) = toys.tiny_net(), toys.images()
    ctx = context_of_toys(replace(RECIPE, inner=InnerAttack(steps=3, start="none", ramp_epochs=2)))
    for progress, share in ((0.0, 0.0), (1.0, 0.5), (2.0, 1.0), (5.0, 1.0)):
        ctx.progress = progress
        reached = (ctx.perturb(model, x, y) - x).abs().max()
        assert float(reached) == pytest.approx(0.05 * share, abs=1e-6)


def test_a_loss_of_its_own_is_climbed_instead():
    model, (x, y) = toys.tiny_net(), toys.images()
    ctx = context_of_toys(replace(RECIPE, inner=InnerAttack(steps=5, start="none")))
    darker = ctx.perturb(model, x, y, loss=lambda point: -point.flatten(1).sum(dim=1))
    assert torch.allclose(darker, (x - 0.05).clamp(0, 1), atol=1e-6)


def test_reports_count_epochs_and_hold_what_validation_says():
    reports, batches = [], []
    model, states = trained(plain_step, on_epoch=reports.append, on_batch=lambda *args: batches.append(args[:3]))
    assert [r.epoch for r in reports] == [1, 2, 3]
    assert batches[:3] == [(0, 1, 3), (0, 2, 3), (0, 3, 3)]
    x, y = toys.toy_part(n=32, seed=4).batch(slice(None), torch.device("cpu"))
    with torch.no_grad():
        assert reports[-1].clean == float((model.eval()(x).argmax(1) == y).float().mean())
    assert states[-1].history[-1]["clean"] == reports[-1].clean


def test_the_default_budget_of_the_inner_attack_is_the_datasets():
    from harness.data.dataset import LoadedDataset
    from harness.training.checkpoints import budget
    from harness.types import Dataset
    from support.plugins import toy_registry

    data = LoadedDataset(toy_registry().get(Dataset, "toy").spec, "toy", None)
    assert budget(RECIPE, data) == (Fraction(1, 20), Fraction(1, 80))
    own = replace(RECIPE, inner=InnerAttack(steps=1, eps=Fraction(1, 10), step=Fraction(1, 7)))
    assert budget(own, data) == (Fraction(1, 10), Fraction(1, 7))


def test_a_training_that_diverges_stops_with_a_name_and_never_scores():
    with pytest.raises(HarnessError, match=r"the loss became nan in epoch 1, batch 1"):
        trained(lambda model, x, y, ctx: plain_step(model, x, y, ctx) * float("nan"))
    logits = torch.full((3, 4), float("nan"))
    assert not _right(logits, torch.tensor([0, 1, 2])).any()
