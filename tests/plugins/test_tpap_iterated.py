"""Purification by several steps and by noise against single images, finite differences, and TPAP where they agree."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.api import NotApplicable, UsageError
from harness.conformance import toys
from harness.conformance.toy_training import DATASET
from harness.registry import discovery
from harness.training.peers import Peers
from harness.types import ThreatModel
from harness_tpap import harness_attacks, harness_defenses
from harness_tpap.iterated import Iterated, Noisy, offset
from harness_tpap.purify import Purified
from harness_tpap.surface import Surface
from harness_tpap.unrolled import Unrolled
from support.attacks import context_on, resolved
from support.training import toy_recipe, training_context

TPAP, ITERATED, GAUSSIAN = harness_defenses()
ATTACKS = {attack.name: attack for attack in harness_attacks()}
S = 0.1


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 64, 4))
    return body.eval().requires_grad_(False)


def iterated(steps: int, strength: object = S) -> Iterated:
    return ITERATED.wrap(network(), base="raw", strength=strength, steps=steps).eval()


def on_the_edges() -> tuple[torch.Tensor, torch.Tensor]:
    """Images many of whose pixels are 0 or 1."""
    x, y = toys.images()
    x = x.clone()
    x[:, :, ::2] = (x[:, :, ::2] > 0.5).float()
    return x, y


def gradient_of(model, x, y):
    point = x.clone().requires_grad_(True)
    return torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)[0]


def test_one_step_is_tpap():
    x, y = on_the_edges()
    ours, theirs = iterated(1), Purified(network(), S, "predicted")
    assert torch.equal(ours.purify(x), theirs.purify(x))
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(gradient_of(ours, x, y), gradient_of(theirs, x, y))


@pytest.mark.parametrize("steps", [2, 10])
def test_several_steps_are_those_of_pgd_written_for_one_image(steps):
    x, _ = on_the_edges()
    model, step = iterated(steps), S * min(1, 2.5 / steps)
    found = model.purify(x)
    for i in range(len(x)):
        label = int(model.network(x[i : i + 1]).argmax())
        change = torch.zeros(1, *toys.SHAPE)
        for _ in range(steps):
            point = (x[i : i + 1] + change).clamp(0, 1).requires_grad_(True)
            (-F.log_softmax(model.network(point), dim=1)[0, label]).backward()
            change = torch.clamp(change + step * torch.sign(point.grad), -S, S)
        assert torch.allclose(found[i : i + 1], (x[i : i + 1] + change).clamp(0, 1), atol=1e-6)
    assert float((found - x).abs().max()) <= S + 1e-6
    assert not torch.equal(found, iterated(1).purify(x))
    assert torch.equal(torch.cat([model.purify(one) for one in x.split(1)]), found)


def test_more_steps_go_farther_from_the_predicted_label():
    x, _ = toys.images()
    losses = []
    for steps in (1, 10):
        model = iterated(steps)
        losses.append(F.cross_entropy(model(x), model.network(x).argmax(1)).item())
    assert losses[1] > losses[0]


@pytest.mark.parametrize("steps", [0, 1.5])
def test_steps_that_are_none_are_refused(steps):
    with pytest.raises(UsageError, match="steps"):
        iterated(steps)
    with pytest.raises(UsageError, match="strength"):
        iterated(1, strength="much")


def test_bpda_answers_as_deployed_and_hands_over_the_gradient_at_the_purified_image():
    x, y = on_the_edges()
    model = iterated(5)
    stand_in = {one.name: one for one in ITERATED.stand_ins}["bpda"].build(
        model.network, base="raw", strength=S, steps=5
    )
    assert torch.equal(stand_in(x), model(x))
    assert torch.equal(gradient_of(stand_in, x, y), gradient_of(model.network, model.purify(x), y))


def test_the_unrolled_purification_has_the_derivative_that_differences_show():
    x, y = toys.images()
    x = (0.3 + 0.4 * x[:3]).double()
    body = network().double()
    # So soft that no clamp cuts, which is differentiated as the identity.
    soft = Unrolled(body, S, 3, sharpness=0.1)
    found, step = gradient_of(soft, x, y[:3]), 1e-6
    for i, row, column in ((0, 0, 0), (1, 3, 4), (2, 7, 5)):
        moved = torch.zeros_like(x)
        moved[i, 0, row, column] = step
        slope = F.cross_entropy(soft(x + moved), y[:3], reduction="sum")
        slope = (slope - F.cross_entropy(soft(x - moved), y[:3], reduction="sum")) / (2 * step)
        assert float(found[i, 0, row, column]) == pytest.approx(float(slope), rel=1e-4, abs=1e-7)
    assert not torch.allclose(found, gradient_of(Iterated(body, S, 3), x, y[:3]), rtol=1e-3)
    sharp = Unrolled(body, S, 1, sharpness=1e7)
    assert torch.allclose(sharp(x), Iterated(body, S, 1)(x), atol=1e-4)


def test_an_attacker_sees_what_is_deployed_and_what_a_held_label_would_give():
    x, y = on_the_edges()
    model = iterated(4)
    oracle, ctx = context_on(model, x, stand_ins={"base": model.network})
    before, after, earlier, later = Surface(oracle, ctx).look(x, y, "ce")
    assert earlier is None
    assert torch.equal(before, model.network(x))
    assert torch.equal(after, model(x))
    assert torch.allclose(later, gradient_of(model.network, model.purify(x), y), atol=1e-6)
    held = (model.network(x).argmax(1) + 1) % 4
    _, after, earlier, _ = Surface(oracle, ctx).look(x, y, "ce", held)
    expected = (x + offset(model.network, x, held, S, 4)).clamp(0, 1)
    assert torch.equal(after, model.network(expected))
    assert earlier is not None
    assert not torch.equal(after, model(x))


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_on_one_step_are_those_on_tpap(name):
    x, y = toys.images()
    found = []
    for model in (iterated(1), Purified(network(), S, "predicted").eval()):
        oracle, ctx = context_on(model, x, stand_ins={"base": model.network})
        params = resolved(ATTACKS[name], {"steps": 5}, 0.01)
        found.append(ATTACKS[name].run(oracle, x, y, ThreatModel.parse("linf:1/20"), ctx=ctx, **params).last)
    assert torch.equal(*found)
    assert not torch.equal(found[0], x)
    oracle, ctx = context_on(Noisy(network(), S), x, stand_ins={"base": network()})
    with pytest.raises(NotApplicable):
        ATTACKS[name].run(oracle, x, y, ThreatModel.parse("linf:1/20"), ctx=ctx, **params)


def test_noise_is_normal_of_the_strength_and_is_drawn_anew():
    class Itself(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    model = GAUSSIAN.wrap(Itself(), base="raw", strength="1/20")
    x = torch.full((400, *toys.SHAPE), 0.5)
    torch.manual_seed(0)
    first, second = model(x) - 0.5, model(x) - 0.5
    assert not torch.equal(first, second)
    assert float(first.std()) == pytest.approx(0.05, rel=0.02)
    assert float(first.mean()) == pytest.approx(0, abs=1e-3)
    assert float((first.abs() < 0.05).float().mean()) == pytest.approx(0.6827, abs=0.01)
    edge = model(torch.zeros(400, *toys.SHAPE))
    assert float(edge.min()) == 0
    assert float((edge == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert GAUSSIAN.stochastic
    assert GAUSSIAN.votes % 2


@pytest.mark.parametrize("defense", [ITERATED, GAUSSIAN], ids=lambda defense: defense.name)
@pytest.mark.parametrize(
    ("base", "loss"), [("fgsm_at", "fgsm_at[statistics=both]"), ("pgd_at",) * 2, ("fast_at",) * 2, ("raw",) * 2]
)
def test_the_base_is_trained_with_the_loss_of_its_defense(defense, base, loss):
    def peers(uses):
        return Peers(
            registry=discovery.discover(), dataset=DATASET, data_sha256="cd" * 32, seed=0, uses=uses,
            network_of=lambda name, eps: None, train=toys.toy_part,
        )  # fmt: skip

    ctx = training_context(toy_recipe(batch=8), step=0.05, peers=peers(defense.uses))
    x, y = ctx.train.batch(slice(0, 8), ctx.device)
    values = []
    for step, params in ((defense.step, {"base": base}), (peers(None).loss(loss), {})):
        torch.manual_seed(0)
        values.append(step(toys.tiny_net(seed=1).train(), x, y, ctx, **params))
    assert torch.equal(*values)
