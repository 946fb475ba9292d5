"""harness_tpap against closed forms of a linear network, autograd, finite differences and loops over single images."""

import copy
import functools
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.api import Dataset, Defense, InnerAttack, NotApplicable, UsageError
from harness.conformance import toys
from harness.conformance.toy_training import toy_context, toy_network, train_toy
from harness.evaluation.context import Supplies
from harness.evaluation.isolation import isolated
from harness.evaluation.judge import Judge
from harness.models.analysis import AnalysisContext
from harness.ops import ascend, cross_entropy, project_linf
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.registry import discovery
from harness.registry.names import default_value
from harness.registry.registry import Registry
from harness.training.loop import group
from harness.training.peers import Peers
from harness.types import TRAINING_EPS, Attack, ThreatModel
from harness_tpap import harness_analyses, harness_attacks, harness_defenses
from harness_tpap.controls import observed, purification
from harness_tpap.overfitting import overfitting
from harness_tpap.overfitting_course import overfitting_course
from harness_tpap.purify import Purified, direction, wrap
from harness_tpap.surface import Surface, ascent
from support.analyses import analysis_context
from support.attacks import context_on, resolved
from support.measure import judged
from support.training import toy_recipe, training_context

TPAP, ITERATED, GAUSSIAN = harness_defenses()
ATTACKS = {attack.name: attack for attack in harness_attacks()}
NO_SHA = "cd" * 32
S = 0.1  # the strength of the purification
EPS = Fraction(1, 5)
K = 4


class CentredLinear(nn.Module):
    """Two classes, z = (-u/2, u/2) with u = w . (x - 1/2)."""

    def __init__(self, pixels: int = 64, seed: int = 0) -> None:
        super().__init__()
        weight = torch.randn(pixels, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(torch.where(weight.abs() < 0.1, 0.1, weight) / pixels)

    def forward(self, x):
        u = (x.flatten(1) - 0.5) @ self.weight
        return torch.stack([-u / 2, u / 2], dim=1)


def at(linear: CentredLinear, u: torch.Tensor) -> torch.Tensor:
    """Images far from the box with the given u."""
    w = linear.weight.detach()
    stream = torch.Generator().manual_seed(1)
    x = 0.48 + 0.04 * torch.rand(len(u), len(w), generator=stream)
    x += ((u - (x - 0.5) @ w) / w.abs().sum())[:, None] * w.sign()
    return x.view(-1, *toys.SHAPE)


def purified(network: nn.Module, pattern: str = "predicted", strength: object = S) -> Purified:
    return wrap(network, strength=strength, pattern=pattern, base="fgsm_at").eval()


def built(name: str, network: nn.Module, pattern: str = "predicted", strength: object = S) -> nn.Module:
    found = {stand_in.name: stand_in for stand_in in TPAP.stand_ins}[name]
    return found.build(network, base="fgsm_at", strength=strength, pattern=pattern).eval()


def smooth_net(classes: int = K, seed: int = 0, factor: float = 1.0) -> nn.Module:
    """A network whose second derivatives are not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 64, classes))
    with torch.no_grad():
        body[-1].weight.mul_(factor)
    return body.eval()


# --- what is deployed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "towards"), [("predicted", -1), ("reversed", 1), ("next_label", 1)], ids=lambda value: str(value)
)
def test_a_linear_network_is_moved_by_its_signs_away_from_its_label(pattern, towards):
    # For two classes the class after the predicted one is the other one: moving away from it is moving back.
    linear = CentredLinear()
    w = linear.weight.detach()
    reach = S * float(w.abs().sum())
    u = torch.tensor([2.0, 1.5, 0.5, 0.1, -0.1, -0.5, -1.5, -2.0]) * reach
    x = at(linear, u)
    model = purified(linear, pattern)
    with torch.no_grad():
        signs = u.sign()[:, None] * w.sign()
        expected = x + towards * S * signs.view(x.shape)
        assert torch.equal(model.purify(x), expected.clamp(0, 1))
        assert torch.allclose(model(x)[:, 1] * 2, u + towards * reach * u.sign(), atol=1e-5)
    flipped = (model(x).argmax(1) != linear(x).argmax(1)).tolist()
    assert flipped == [pattern == "predicted" and bool(abs(value) < reach) for value in u.tolist()]


def test_purification_is_one_fgsm_step_on_the_predicted_label_cut_to_the_box():
    network, (x, _) = toys.tiny_net(), toys.images()
    x = x.clone()
    x[:, :, ::2] = (x[:, :, ::2] > 0.5).float()
    model = purified(network, strength="3/10")
    for i in range(len(x)):
        point = x[i : i + 1].clone().requires_grad_(True)
        logits = network(point)
        F.cross_entropy(logits, logits.argmax(1)).backward()
        expected = torch.where(
            point.grad > 0, x[i : i + 1] + 0.3, torch.where(point.grad < 0, x[i : i + 1] - 0.3, x[i])
        )
        assert torch.equal(model.purify(x[i : i + 1]), expected.clamp(0.0, 1.0))
    moved = model.purify(x)
    assert moved.min() == 0
    assert moved.max() == 1


def test_the_clamp_has_derivative_1_at_its_bounds_and_0_beyond_them():
    network, (x, y) = toys.tiny_net(), toys.images()
    x = x.clone()
    x[:, :, ::2] = (x[:, :, ::2] > 0.5).float()

    def gradient(model, at):
        point = at.clone().requires_grad_(True)
        return torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)[0]

    assert torch.equal(gradient(purified(network, strength=0), x), gradient(network, x)), "nothing is purified"
    model = purified(network, strength="3/10")
    moved = x + 0.3 * direction(network, x, "predicted")
    beyond = (moved < 0) | (moved > 1)
    assert beyond.any()
    assert torch.equal(gradient(model, x), gradient(network, model.purify(x)).masked_fill(beyond, 0.0))


def test_it_works_for_callers_without_gradients_and_leaves_no_gradient_behind():
    network, (x, _) = toys.tiny_net(), toys.images()
    model = purified(network)
    graded = model(x.clone().requires_grad_(True))
    with torch.no_grad():
        plain = model(x)
    with torch.inference_mode():
        inferred = model(x)
    assert graded.requires_grad
    assert not plain.requires_grad
    assert torch.equal(plain, graded)
    assert torch.equal(plain, inferred)
    assert not torch.equal(plain, network(x))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not x.requires_grad


@pytest.mark.parametrize("pattern", TPAP.params["pattern"].values)
def test_an_image_is_purified_alike_alone_in_another_order_and_twice(pattern):
    model, (x, _) = purified(smooth_net(), pattern), toys.images()
    together = model.purify(x)
    torch.rand(3)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.purify(x), together)
    assert torch.equal(model.purify(x[order]), together[order])
    assert torch.equal(torch.cat([model.purify(one) for one in x.split(1)]), together)


def test_a_vanishing_gradient_does_not_depend_on_the_size_of_the_batch():
    # Divided by 64 for the mean, this gradient would leave the range of float32.
    class Faint(nn.Module):
        def forward(self, x):
            u = 1e-44 * x.flatten(1).sum(dim=1)
            return torch.stack([u, -u], dim=1)

    x = torch.full((64, *toys.SHAPE), 0.5)
    assert torch.equal(purified(Faint()).purify(x), x - S)


def test_where_cross_entropy_underflows_nothing_is_purified():
    x, _ = toys.images()
    model = purified(nn.Sequential(toys.tiny_net(), Scaled(1e5)))
    assert torch.equal(model.purify(x), x)


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return self.factor * logits


def test_random_signs_have_full_size_and_are_those_of_no_gradient():
    model, (x, _) = purified(smooth_net(), "random_sign"), toys.images()
    change = model.purify(x) - x
    inside = (x > S) & (x < 1 - S)
    assert torch.allclose(change[inside].abs(), torch.tensor(S), atol=1e-6)
    signs = change.sign()
    assert bool((signs == signs[:1])[inside & inside[:1]].all())
    assert 0.3 < float((signs[0] > 0).float().mean()) < 0.7


@pytest.mark.parametrize("strength", ["much", "-1/10", "3/2", "1/0"])
def test_a_strength_that_is_none_is_refused(strength):
    with pytest.raises(UsageError, match="strength"):
        purified(toys.tiny_net(), strength=strength)


def test_the_derivative_is_the_identity_inside_the_box_and_zero_where_it_cuts():
    model = purified(CentredLinear())
    x = torch.full((1, *toys.SHAPE), 0.5)
    x[..., :4, :] = 1.0
    jacobian = torch.autograd.functional.jacobian(model.purify, x).view(64, 64)
    # Of the 32 pixels at 1, those are cut that would rise.
    cut = (model.purify(x) == 1).flatten()
    assert torch.equal(jacobian, torch.diag((~cut).float()))
    assert 0 < int(cut.sum()) < 32


# --- what stands in for it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", TPAP.params["pattern"].values)
def test_bpda_answers_as_deployed_and_hands_over_the_gradient_at_the_purified_image(pattern):
    network, (x, y) = smooth_net(), toys.images()
    x = x.clone()
    x[:, :, ::2] = (x[:, :, ::2] > 0.5).float()
    deployed, stand_in = purified(network, pattern, 0.3), built("bpda", network, pattern, 0.3)
    assert torch.equal(stand_in(x), deployed(x))
    point, moved = x.clone().requires_grad_(True), deployed.purify(x).detach().requires_grad_(True)
    (found,) = torch.autograd.grad(cross_entropy(stand_in(point), y).sum(), point)
    (expected,) = torch.autograd.grad(cross_entropy(network(moved), y).sum(), moved)
    assert torch.equal(found, expected)
    cut = ((moved == 0) | (moved == 1)).detach()
    assert bool(cut.any())
    assert bool((found[cut] != 0).any())
    point = x.clone().requires_grad_(True)
    (exact,) = torch.autograd.grad(cross_entropy(deployed(point), y).sum(), point)
    assert not torch.equal(found, exact)


def test_base_is_the_network_itself():
    network = toys.tiny_net()
    assert built("base", network) is network
    assert {s.name: (s.knowledge, s.every) for s in TPAP.stand_ins}["base"] == ("static", True)
    assert {s.knowledge for s in TPAP.stand_ins if s.name != "base"} == {"adaptive"}


@pytest.mark.parametrize(("name", "sharpness"), [("smooth_1", 1), ("smooth", 10), ("smooth_100", 100)])
def test_the_smooth_stand_in_is_a_soft_sign_of_the_gradient(name, sharpness):
    network, (x, _) = smooth_net(), toys.images()
    point = x.clone().requires_grad_(True)
    logits = network(point)
    (g,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), point)
    soft = torch.stack([torch.tanh(sharpness * one / one.abs().mean()) for one in g])
    assert torch.allclose(built(name, network)(x), network((x + S * soft).clamp(0, 1)), atol=1e-5)
    with torch.no_grad():
        assert not built(name, network)(x).requires_grad


@pytest.mark.parametrize("pattern", ["predicted", "reversed", "next_label"])
@pytest.mark.parametrize("name", ["smooth_1", "smooth"])
def test_the_gradient_of_the_smooth_stand_in_is_that_of_finite_differences(name, pattern):
    network = smooth_net(factor=3.0).double()
    x = 0.4 + 0.2 * torch.rand(3, *toys.SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = torch.tensor([0, 1, 2])
    model = built(name, network, pattern)

    def loss(point):
        return cross_entropy(model(point), y)

    point = x.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(loss(point).sum(), point)
    h, stream = 1e-6, torch.Generator().manual_seed(3)
    for _ in range(5):
        along = torch.randn(x.shape, generator=stream, dtype=torch.float64)
        with torch.no_grad():
            expected = (loss(x + h * along) - loss(x - h * along)) / (2 * h)
        assert torch.allclose((found * along).sum(dim=(1, 2, 3)), expected, rtol=1e-4, atol=1e-7)
    # And it is not what BPDA hands over: the pattern's own change counts.
    moved = x.clone().requires_grad_(True)
    (identity,) = torch.autograd.grad(cross_entropy(built("bpda", network, pattern)(moved), y).sum(), moved)
    assert not torch.allclose(found, identity, rtol=1e-2)


@pytest.mark.parametrize("name", ["smooth_1", "smooth", "smooth_100"])
def test_the_smooth_stand_in_stays_finite_where_the_gradient_vanishes(name):
    x, y = toys.images()
    for factor in (1e2, 1e3, 1e5):
        point = x.clone().requires_grad_(True)
        logits = built(name, nn.Sequential(smooth_net(), Scaled(factor)))(point)
        (gradient,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), point)
        assert bool(torch.isfinite(gradient).all())


# --- attacks that know it --------------------------------------------------------------------------------------------

BASE_PGD = Attack(
    name="static", threats=("linf",), params={"steps": 20, "step": Fraction(1, 50)},
    run=lambda model, x, y, threat, *, steps, step: ascend(
        lambda point: cross_entropy(model(point), y), x, step, project_linf(x, float(threat.eps)), steps
    ),
)  # fmt: skip


def judged_purified(
    attack: Attack, network: nn.Module, x, y, *, eps: Fraction = EPS, on: str = "", pattern="predicted", **given
):
    frozen = copy.deepcopy(network).requires_grad_(False)
    with torch.no_grad():
        classes = network(x[:1]).shape[1]
    return judged(
        attack, Judge(purified(frozen, pattern), classes, toys.SHAPE), x, y, ThreatModel(kind="linf", eps=eps),
        resolved(attack, given, eps / 10), sha256=NO_SHA, on=on,
        supplies=Supplies(stand_ins={s.name: built(s.name, frozen, pattern) for s in TPAP.stand_ins}),
    )  # fmt: skip


def trap() -> tuple[CentredLinear, torch.Tensor, torch.Tensor]:
    """Images that whoever attacks the network alone, at twice the strength, moves past the trap.

    With R the reach of the purification and |u| = 1.5 R, the network is right, and so is what is deployed. The whole
    budget of 2 R leads to -0.5 R: the network is wrong, and its purification leads back to 0.5 R. Between 0 and R the
    network is right, and purification makes it wrong.
    """
    linear = CentredLinear()
    reach = S * float(linear.weight.detach().abs().sum())
    y = torch.arange(12) % 2
    return linear, at(linear, 1.5 * reach * (2.0 * y - 1)), y


def test_the_static_attack_fails_on_the_planted_pipeline_and_is_judged_there():
    linear, x, y = trap()
    found = judged_purified(BASE_PGD, linear, x, y, on="base")
    assert found.clean == "1" * 12
    assert found.last == "0" * 12
    assert bool(
        (
            linear(BASE_PGD.run(linear, x, y, ThreatModel(kind="linf", eps=EPS), steps=20, step=0.02)).argmax(1) != y
        ).all()
    )


@pytest.mark.parametrize("loss", ["margin", "ce"])
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_that_know_it_break_the_planted_pipeline(name, loss):
    linear, x, y = trap()
    found = judged_purified(ATTACKS[name], linear, x, y, loss=loss)
    assert found.any == "1" * 12
    assert found.last == "1" * 12
    assert not found.flags


# Moved towards its label, a linear network errs only where it erred before, and the whole budget is 2 R. Moved away, it
# errs within R of the boundary, too: from 3.1 R, 2 R leads to 1.1 R, which purification takes to 0.1 R.
@pytest.mark.parametrize(("pattern", "radius"), [("reversed", 2), ("next_label", 2), ("predicted", 3)])
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_win_within_the_exact_radius_and_nowhere_else(name, pattern, radius):
    linear, _, y = trap()
    reach = S * float(linear.weight.detach().abs().sum())
    near = torch.arange(12) % 4 < 2
    x = at(linear, torch.where(near, radius - 0.1, radius + 0.1) * reach * (2.0 * y - 1))
    found = judged_purified(ATTACKS[name], linear, x, y, pattern=pattern, steps=25)
    assert found.any == found.last == "110011001100"
    assert not found.flags


def test_a_label_that_is_held_is_reached_and_kept():
    linear, x, y = trap()
    oracle, ctx = context_on(purified(linear), x, sha256=NO_SHA, stand_ins={"base": linear})
    surface = Surface(oracle, ctx)
    # From the static image, where the pattern of the true label would already do but the label is another.
    start = BASE_PGD.run(linear, x, y, ThreatModel(kind="linf", eps=EPS), steps=20, step=0.02)
    true = ascent(surface, x, y, float(EPS), start, 25, 0.02, loss="margin", held=y)
    assert torch.equal(linear(true).argmax(1), y)
    assert torch.equal(oracle(true).argmax(1), 1 - y)
    # Wrong before and after purification lies out of reach; the label is held while the rest is tried in vain.
    other = ascent(surface, x, y, float(EPS), x, 25, 0.02, loss="margin", held=1 - y)
    assert torch.equal(linear(other).argmax(1), 1 - y)
    assert torch.equal(oracle(other).argmax(1), y)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_example_is_attacked_alike_beside_others_and_twice(name):
    network, (x, y) = smooth_net(2, factor=4.0), toys.images(6)
    y = y % 2
    attack = ATTACKS[name]
    threat = ThreatModel(kind="linf", eps=Fraction(1, 20))
    params = {key: default_value(value) for key, value in attack.params.items()} | {"steps": 10, "step": 0.005}

    def run(part: slice):
        stand_ins, examples = {"base": network}, range(len(x))[part]
        oracle, ctx = context_on(purified(network), x[part], sha256=NO_SHA, examples=examples, stand_ins=stand_ins)
        return attack.run(oracle, x[part], y[part], threat, ctx=ctx, **params)

    whole, again = run(slice(None)), run(slice(None))
    assert torch.equal(whole.any, again.any)
    assert torch.equal(whole.last, again.last)
    apart = torch.cat([run(slice(i, i + 1)).last for i in range(len(x))])
    verdicts = [purified(network)(images).argmax(1) != y for images in (whole.last, apart)]
    assert torch.equal(*verdicts)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_say_where_they_do_not_apply(name):
    x, y = toys.images()
    attack = ATTACKS[name]
    params = {key: default_value(value) for key, value in attack.params.items()} | {"step": 0.01}
    for supplies in ({}, {"stand_ins": {"base": toys.tiny_net()}}):
        oracle, ctx = context_on(toys.tiny_net(), x, sha256=NO_SHA, **supplies)
        with pytest.raises(NotApplicable):
            attack.run(oracle, x, y, ThreatModel(kind="linf", eps=EPS), ctx=ctx, **params)


def test_every_pass_of_an_attack_is_counted():
    # One climb from the image itself of one step: static 1 + 1, then 2 x 2 passes forward and as many back; and one
    # question to what is deployed for each climb.
    linear, _, y = trap()
    reach = S * float(linear.weight.detach().abs().sum())
    x = at(linear, 3.1 * reach * (2.0 * y - 1))
    found = judged_purified(ATTACKS["tpap_bpda"], linear, x, y, steps=1, restarts=0)
    assert found.forwards == 12 * (1 + 2 * (2 * 2 + 1))
    assert found.backwards >= 12 * (1 + 2 * 2)


# --- how it is trained -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "loss"),
    [
        ("fgsm_at", "fgsm_at[statistics=both]"),
        ("trades", "trades[beta=6,inner=fgsm]"),
        ("mart", "mart[beta=6,inner=fgsm]"),
        ("mart_published", "mart[beta=6,inner=fgsm,variant=tpap]"),
        ("trades_published", "trades[beta=6,clean_passes=1,inner=fgsm]"),
    ],
)
def test_the_base_is_trained_with_the_loss_of_another_defense_on_fgsm_examples(base, loss):
    ctx = training_context(toy_recipe(batch=8, inner=InnerAttack(steps=3)), step=0.05, peers=peers())
    x, y = ctx.train.batch(slice(0, 32), ctx.device)
    found, expected = (toys.tiny_net(seed=1).train() for _ in range(2))
    value = TPAP.step(found, x, y, ctx, base=base)
    peers(None).loss(loss)(expected, x, y, ctx).backward()
    value.backward()
    for ours, theirs in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_it_says_what_it_needs():
    assert TPAP.gated
    assert TPAP.params["strength"] == TRAINING_EPS
    assert set(TPAP.mandatory) >= {"aa_standard", "square", *ATTACKS}
    assert set(ATTACKS) <= set(TPAP.adaptive)
    assert all(attack.only_against == ("tpap", "tpap_iterated") for attack in ATTACKS.values())


STATED = {
    # scripts of tly18/TPAP: network, epochs, batch, augmentation, milestones, eps of training
    ("cifar10", "tpap"): ("resnet18", 100, 128, "crop-flip", (75, 90), Fraction(8, 255)),
    ("cifar10", "tpap-wide"): ("wrn34_10", 100, 64, "crop-flip", (75, 90), Fraction(8, 255)),
    ("cifar10", "tpap-slides"): ("resnet18", 150, 128, "crop-flip", (75, 90), Fraction(8, 255)),
    ("cifar100", "tpap"): ("resnet18", 150, 128, "crop-flip", (76, 91, 141), Fraction(12, 255)),
    ("svhn", "tpap"): ("resnet18", 100, 128, "none", (75, 90), Fraction(8, 255)),
    ("svhn", "tpap-wide"): ("wrn34_10", 100, 64, "none", (75, 90), Fraction(8, 255)),
    ("tiny-imagenet", "tpap"): ("resnet18", 100, 64, "flip", (75, 90), Fraction(8, 255)),
}


@pytest.mark.parametrize(("where", "stated"), STATED.items(), ids=["-".join(where) for where in STATED])
def test_it_trains_as_the_published_scripts_do_and_purifies_at_their_8_255(where, stated):
    dataset, name = where
    asked = Request(defenses=["tpap"], attacks=["clean"], dataset=dataset, recipe=name)
    (subject,) = plan(asked, installed()).subjects
    recipe = subject.recipe
    assert (recipe.lr, recipe.optimizer, recipe.momentum, recipe.weight_decay) == (0.01, "sgd", 0.9, 1e-3)
    assert (
        recipe.arch, recipe.epochs, recipe.batch, recipe.augment, recipe.milestones, recipe.inner.eps
    ) == stated  # fmt: skip
    assert subject.defense_params["strength"] == Fraction(8, 255)
    assert recipe.name == name


@pytest.mark.parametrize(("recipe", "strength"), [("quick", Fraction(3, 10)), ("quick-0.3", Fraction(3, 10))])
def test_on_digits_it_purifies_at_the_eps_of_training(recipe, strength):
    asked = Request(defenses=["tpap"], attacks=["clean"], recipe=recipe)
    (subject,) = plan(asked, installed()).subjects
    assert dict(subject.defense_params) == {"base": "fgsm_at", "strength": strength, "pattern": "predicted"}


# --- what is measured of it ------------------------------------------------------------------------------------------

DATASET = Dataset(
    name="toy", load=lambda part, root, location: toys.toy_part().split, classes=4, shape=toys.SHAPE,
    budgets={"linf": Fraction(3, 20)}, step=Fraction(1, 10),
)  # fmt: skip


@functools.cache
def installed() -> Registry:
    return discovery.discover()


def peers(uses: tuple[str, ...] | None = TPAP.uses) -> Peers:
    return Peers(
        registry=installed(), dataset=DATASET, data_sha256=NO_SHA, seed=0, uses=uses, network_of=lambda name, eps: None,
        train=toys.toy_part,
    )  # fmt: skip


def analysed(network: nn.Module, n: int = 300, eps: float | None = None) -> AnalysisContext:
    training = None
    if eps is not None:
        training = training_context(toy_recipe(batch=8), eps=eps, step=eps / 4)
    return analysis_context(
        purified(network), toys.toy_part(400), network=network.requires_grad_(False), peers=peers(None),
        defense_params={"base": "fgsm_at", "strength": "1/4", "pattern": "predicted"},
        examples=np.random.default_rng(0).permutation(400)[:n], training=training,
    )  # fmt: skip


def toy_trained() -> nn.Module:
    """A network that is right on the toy images but not far from an error."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, (x, y) = smooth_net(), toys.toy_part(96).batch(slice(0, 96), torch.device("cpu"))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(6):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
    return network.requires_grad_(False)


def fgsm_by_hand(network, x, label, eps):
    """One image, one step up the cross-entropy of a label."""
    point = x.clone().requires_grad_(True)
    z = network(point)[0]
    (torch.logsumexp(z, 0) - z[label]).backward()
    return (x + eps * torch.sign(point.grad)).clamp(0, 1)


def test_overfitting_is_measured_on_the_bare_network_at_the_eps_of_training_and_at_the_budget():
    network = toy_trained()
    ctx = analysed(network, eps=0.2)
    found = overfitting(ctx)
    x, y = ctx.images()
    for eps, suffix in ((0.2, ""), (0.15, "_at_budget")):
        right = sum(
            int(network(fgsm_by_hand(network, x[i : i + 1], y[i], eps))[0].argmax() == y[i]) for i in range(len(x))
        )
        assert found[f"fgsm_accuracy{suffix}"].value == pytest.approx(100 * right / 300)
        assert found[f"fgsm_accuracy{suffix}"].n == 300
        assert 10 < right < 290
        noise = context_on(network, x, sha256=NO_SHA, examples=ctx.examples.tolist())[1].noise("start:0")
        point = (x + eps * noise).clamp(0, 1)
        for _ in range(20):
            point = point.detach().requires_grad_(True)
            F.cross_entropy(network(point), y, reduction="sum").backward()
            moved = point.detach() + eps / 10 * point.grad.sign()
            point = torch.minimum(torch.maximum(moved, x - eps), x + eps).clamp(0, 1)
        expected = 100 * float((network(point).argmax(1) == y).float().mean())
        assert found[f"pgd20_accuracy{suffix}"].value == pytest.approx(expected, abs=0.4)
        assert found[f"gap{suffix}"].value == pytest.approx(
            found[f"fgsm_accuracy{suffix}"].value - found[f"pgd20_accuracy{suffix}"].value
        )
    assert (found["eps"].value, found["eps_at_budget"].value) == (0.2, 0.15)
    # Weights that were given tell no eps of training: the purification's counts.
    assert overfitting(analysed(network, n=8))["eps"].value == 0.25


def test_the_course_of_overfitting_is_that_of_the_networks_on_the_way():
    fgsm_at, states = installed().entry(Defense, "fgsm_at").spec, []
    network = train_toy(fgsm_at, states)[2].eval().requires_grad_(False)
    ctx = analysis_context(
        network, toys.toy_part(60, seed=5), peers=peers(None), training=toy_context(fgsm_at),
        step=functools.partial(fgsm_at.step, statistics="adv"), untrained=functools.partial(toy_network, fgsm_at),
    )  # fmt: skip
    with isolated("analysis"):
        found = overfitting_course(ctx, every=2)
    looked = {int(name[-3:]) for name in found if "_at_epoch_" in name}
    assert looked == {2, 3}, "every second epoch, and the last"
    assert found["same_weights"].value == 1
    for done in looked:
        way = toys.tiny_net()
        way.load_state_dict(group(states[done - 1].tensors, "model"))
        for part, data, n in (("test", ctx.test, 60), ("train", ctx.training.train, 60)):
            x, y = data.batch(ctx.examples[:n] if part == "test" else np.arange(n), ctx.device)
            way.eval()
            clean = 100 * float((way(x).argmax(1) == y).double().mean())
            steps = [fgsm_by_hand(way, x[i : i + 1], y[i], ctx.training.eps) for i in range(n)]
            fgsm = 100 * float((way(torch.cat(steps)).argmax(1) == y).double().mean())
            assert found[f"{part}_clean_at_epoch_{done:03d}"].value == pytest.approx(clean)
            assert found[f"{part}_fgsm_at_epoch_{done:03d}"].value == pytest.approx(fgsm)
            assert found[f"{part}_fgsm_at_epoch_{done:03d}"].n == n
    gap = found["test_fgsm_at_epoch_003"].value - found["test_pgd-20_at_epoch_003"].value
    assert found["final_gap"].value == pytest.approx(gap)
    assert found["overfitted_from_epoch"].value is None, "a toy that is robust to neither does not overfit"


def test_the_epoch_at_which_it_overfits_is_the_first_with_the_gap(monkeypatch):
    course = {5: (90.0, 70.0), 10: (95.0, 50.0), 15: (97.0, 10.0)}
    network, done = toy_trained(), []

    def planned(network, part, examples, crafts, device):
        fgsm, pgd = course[5 * (1 + len(done) // 2)]
        done.append(part)
        return {"clean": 100.0, "fgsm": fgsm, "pgd-10": pgd, "pgd-20": pgd, "cw_inf-20": pgd}

    monkeypatch.setattr("harness_tpap.overfitting_course.accuracies", planned)
    recipe = toy_recipe(epochs=15, batch=96)
    ctx = analysis_context(
        network, toys.toy_part(20, seed=5), peers=peers(None), training=training_context(recipe, step=0.05),
        step=lambda model, x, y, ctx: F.cross_entropy(model(x), y), untrained=toys.tiny_net,
    )  # fmt: skip
    found = overfitting_course(ctx, every=5)
    assert found["overfitted_from_epoch"].value == 10
    assert found["final_gap"].value == pytest.approx(87.0)
    for refused in (0, -1):
        with pytest.raises(UsageError, match="every"):
            overfitting_course(ctx, every=refused)
    ctx.training = None
    with pytest.raises(NotApplicable, match="no training to follow"):
        overfitting_course(ctx, every=5)


def test_the_controls_are_those_of_loops_over_single_images():
    network = toy_trained()
    ctx = analysed(network, n=40)
    with isolated("analysis"):
        found = purification(ctx)
    x, y = ctx.images()
    craft = ctx.attack("pgd-20")
    for kind, images in (("clean", x), ("pgd20", craft(network, x, y, ctx.examples.tolist()))):
        counted = {"bare": 0, "predicted": 0, "reversed": 0, "oracle_label": 0, "strength_0.5": 0, "other_image": 0}
        follows, asked, changed = 0, 0, 0
        own = [int(network(images[i : i + 1]).argmax()) for i in range(40)]
        for i in range(40):
            one, other = images[i : i + 1], images[i - 1 : i] if i else images[-1:]
            sign = (fgsm_by_hand(network, one, own[i], 1e-3) - one).sign()
            oracle = (fgsm_by_hand(network, one, y[i], 1e-3) - one).sign()
            foreign = (fgsm_by_hand(network, other, own[i - 1], 1e-3) - other).sign()

            def answer(change, one=one):
                return int(network((one + change).clamp(0, 1)).argmax())

            counted["bare"] += own[i] == y[i]
            counted["predicted"] += answer(0.25 * sign) == y[i]
            counted["reversed"] += answer(-0.25 * sign) == y[i]
            counted["oracle_label"] += answer(0.25 * oracle) == y[i]
            counted["strength_0.5"] += answer(0.125 * sign) == y[i]
            counted["other_image"] += answer(0.25 * foreign) == y[i]
            changed += answer(0.25 * sign) != own[i]
            if own[i - 1] not in (own[i], int(y[i])):
                asked += 1
                follows += answer(0.25 * foreign) == own[i - 1]
        for name, right in counted.items():
            assert found[f"{kind}_{name}"].value == pytest.approx(100 * right / 40), name
        assert found[f"{kind}_changed_by_purification"].value == pytest.approx(100 * changed / 40)
        assert found[f"{kind}_follows_other_image"].n == asked > 0
        assert found[f"{kind}_follows_other_image"].value == pytest.approx(100 * follows / asked)
        assert found[f"{kind}_zero_gradient_pixels"].value == 0
        assert found[f"{kind}_zero_gradient_pixels"].n == 40 * 64
    assert {f"{kind}_{name}" for kind in ("clean", "pgd20") for name in ("random_sign", "random_label")} <= found.keys()


def test_zero_gradients_are_counted_where_cross_entropy_underflows():
    ctx = analysed(nn.Sequential(toy_trained(), Scaled(1e5)), n=20)
    with isolated("analysis"):
        found = purification(ctx)
    assert found["clean_zero_gradient_images"].value == 100
    assert found["clean_zero_gradient_pixels"].value == 100
    assert found["clean_predicted"].value == found["clean_bare"].value
    assert found["clean_changed_by_purification"].value == 0


class Reader(nn.Module):
    """Answers the class whose quarter of the image is darkest."""

    def __init__(self) -> None:
        super().__init__()
        self.masks = torch.eye(4).repeat_interleave(16, dim=1)

    def forward(self, x):
        return -((x.flatten(1) - 0.5) @ self.masks.T)


def test_a_network_that_reads_the_pattern_is_seen_to_follow_it():
    # Away from class t this network makes the quarter of t brighter by S and the others darker: it then answers any
    # class but t. With the sign of its logits turned it would answer t.
    x = torch.full((40, *toys.SHAPE), 0.5)
    x += 0.01 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    with isolated("analysis"), torch.no_grad():
        away = observed(Reader(), x, Reader()(x).argmax(1), S)
    assert not away["follows_random_label"].any()

    class Leaking(nn.Module):
        def forward(self, x):
            logits = Reader()(x)
            read = (x.flatten(1).sub(0.5).abs().mean(dim=1) > S / 2).float()[:, None]
            return logits * (1 - 2 * read)

    with isolated("analysis"), torch.no_grad():
        leaking = observed(Leaking(), x, Leaking()(x).argmax(1), S)
    assert leaking["follows_random_label"].all()
    assert len(leaking["follows_random_label"]) == 40
    assert leaking["follows_other_image"].all()


@pytest.mark.parametrize(("pattern", "expected"), [("predicted", (2, 1)), ("random_sign", (1, 0))])
def test_a_prediction_costs_two_passes_forward_and_one_back_to_the_image(pattern, expected):
    ctx = analysed(toy_trained(), n=4)
    ctx.model = purified(ctx.network, pattern)
    with isolated("analysis"):
        found = purification(ctx)
    assert (found["forward_passes"].value, found["backward_passes"].value) == expected


def test_the_analyses_are_about_what_they_name():
    about = {analysis.name: analysis.only_of for analysis in harness_analyses()}
    trained = ("tpap", "tpap_iterated", "fgsm_at", "fast_at", "pgd_at", "raw")
    assert about == {
        "overfitting": ("tpap", "fgsm_at"), "overfitting_course": trained, "purification": ("tpap",),
    }  # fmt: skip
    # Boards that ask for `all` are measured, and a course trains again.
    assert {a.name for a in harness_analyses() if "all" in a.groups} == {"overfitting", "purification"}
