"""Every contract can fail: a planted fault for each, which that contract names."""

import dataclasses
import itertools
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.api import FROM_DATASET, Analysis, Architecture, Dataset, Defense, Quantity, Result, Split
from harness.conformance import check_analysis, check_architecture, check_attack, check_dataset, check_defense, toys
from harness.conformance.trial import BUILT_IN
from harness.ops import ascend, cross_entropy, project_linf
from support.measure import planted


def states_by_name(results):
    return {result.name: result.state for result in results}


def climb(model, x, y, threat, *, ctx, steps=7, step=0.01):
    snapshots = {}
    project = project_linf(x, float(threat.eps))

    def observe(done, point):
        if done in ctx.steps_wanted:
            ctx.reached(done)
            snapshots[done] = Result(last=point.detach().clone())

    last = ascend(lambda point: cross_entropy(model(point), y), x, step, project, steps, observe)
    return Result(last=last, snapshots=snapshots)


def test_an_honest_attack_passes_everything_that_applies():
    honest = planted(climb, prefix="steps", params={"steps": 7, "step": FROM_DATASET})
    assert set(states_by_name(check_attack(honest)).values()) == {"passed"}


def twice_the_budget(model, x, y, threat):
    return (x + 2 * float(threat.eps)).clamp(0, 1)


def never_quite_still(model, x, y, threat):
    return (x + 1e-3).clamp(0, 1)


def does_nothing(model, x, y, threat):
    return x


_calls = itertools.count()


def keeps_count(model, x, y, threat):
    return (x + float(threat.eps) * (next(_calls) % 5) / 5).clamp(0, 1)


def looks_sideways(model, x, y, threat):
    return (x + float(threat.eps) * (x - x.mean(dim=0, keepdim=True)).sign() * 0.5).clamp(0, 1)


def masks_with_zero(model, x, y, threat):
    """The mask of a known library defect: the true class counts as 0, so shifted logits change the loss."""
    x.requires_grad_(True)
    logits = model(x)
    others = (logits * (1 - F.one_hot(y, logits.shape[1]))).amax(dim=1)
    (gradient,) = torch.autograd.grad((logits.gather(1, y[:, None])[:, 0] - others).relu().sum(), x)
    return (x.detach() - float(threat.eps) * gradient.sign()).clamp(0, 1)


def writes_to_its_input(model, x, y, threat):
    x += float(threat.eps) / 2
    return x.clamp_(0, 1)


def step_depends_on_length(model, x, y, threat, *, ctx, steps, step):
    return climb(model, x, y, threat, ctx=ctx, steps=steps, step=float(threat.eps) / steps)


@pytest.mark.parametrize(
    ("run", "contract"),
    [
        (twice_the_budget, "keeps to the threat model"),
        (never_quite_still, "eps 0 changes nothing"),
        (does_nothing, "wins outside the exact radius"),
        (keeps_count, "same twice"),
        (looks_sideways, "same in a batch and alone"),
        (masks_with_zero, "indifferent to shifted logits"),
        (writes_to_its_input, "spares its inputs"),
    ],
)
def test_each_planted_attack_fails_its_contract(run, contract):
    assert states_by_name(check_attack(planted(run)))[contract] == "failed"


def test_a_step_that_depends_on_the_length_is_no_prefix():
    shortened = planted(step_depends_on_length, prefix="steps", params={"steps": 7, "step": FROM_DATASET})
    assert states_by_name(check_attack(shortened))["snapshots equal separate runs"] == "failed"


def test_a_lax_verifier_is_found_by_the_attack_that_wins_inside_the_radius():
    lax = dataclasses.replace(
        BUILT_IN["linf"], verify=lambda x, x_adv, eps, evidence: torch.ones(len(x), dtype=torch.bool)
    )

    def far(model, x, y, threat, *, ctx):
        wide = type(threat)(kind="linf", eps=threat.eps * 2)
        return climb(model, x, y, wide, ctx=ctx, step=float(threat.eps)).last

    assert states_by_name(check_attack(planted(far), [lax]))["loses inside the exact radius"] == "failed"


def test_the_exact_radius_is_exact():
    """The closed-form nearest point flips the linear model, and 0.999 of the way there does not."""
    for kind in ("linf", "l2"):
        model, x, y, radius = toys.linear_problem(kind)
        weight = (model[1].weight[1] - model[1].weight[0]).double().view(1, 1, 8, 8)
        direction = weight.sign() if kind == "linf" else weight / weight.norm()
        towards = torch.where(y == 1, -1.0, 1.0).view(-1, 1, 1, 1)
        for share, flips in ((0.999, False), (1.001, True)):
            moved = x.double() + share * float(radius) * towards * direction
            assert moved.min() > 0
            assert moved.max() < 1
            assert ((model.double()(moved).argmax(1) != y) == flips).all()
            model.float()


def honest_step(model, x, y, ctx):
    return F.cross_entropy(model(ctx.perturb(model, x, y)), y)


def vector_loss(model, x, y, ctx):
    return F.cross_entropy(model(x), y, reduction="none")


def no_gradient(model, x, y, ctx):
    return F.cross_entropy(model(x).detach(), y) + 0 * model.head.weight.sum()


_seen = itertools.count(1)


def drifts(model, x, y, ctx):
    return F.cross_entropy(model(x), y) * (1 + 1e-2 * next(_seen))


def leaves_eval_mode(model, x, y, ctx):
    model.eval()
    return F.cross_entropy(model(x), y)


class AcrossTheBatch(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) - self.model(x).mean(dim=0, keepdim=True)


def test_an_honest_defense_passes_all_that_applies():
    found = states_by_name(check_defense(Defense(name="honest", step=honest_step)))
    assert {name for name, state in found.items() if state != "passed"} == {
        "parameters of deployment", "stand-ins answer", "adaptive attacks are named"
    }  # fmt: skip
    assert "failed" not in found.values()


@pytest.mark.parametrize(
    ("planted", "contract"),
    [
        (Defense(name="planted", step=vector_loss), "step gives a usable loss"),
        (Defense(name="planted", step=no_gradient), "step gives a usable loss"),
        (Defense(name="planted", step=no_gradient), "learns an easy toy"),
        (Defense(name="planted", step=leaves_eval_mode), "step gives a usable loss"),
        (Defense(name="planted", step=drifts), "same weights twice"),
        (Defense(name="planted", step=drifts), "resumes to the same weights"),
        (Defense(name="planted", step=honest_step, wrap=AcrossTheBatch), "deploys a model"),
        (Defense(name="planted", train=lambda model, ctx: None), "same weights twice"),
        (Defense(name="planted", step=honest_step, deployment=("share",)), "parameters of deployment"),
        (
            Defense(name="planted", step=honest_step, params={"share": 1.0}, deployment=("share",)),
            "parameters of deployment",
        ),
    ],
)
def test_each_planted_defense_fails_its_contract(planted, contract):
    assert states_by_name(check_defense(planted))[contract] == "failed"


def dataset(load):
    return Dataset(name="planted", load=load, classes=4, shape=toys.SHAPE, budgets={"linf": Fraction(1, 20)})


def split(part, shift=0):
    seed = {"train": 3, "validation": 4, "test": 5}[part] + shift
    return toys.toy_part(seed=seed).split


def test_datasets_that_repeat_overlap_or_change():
    def honest(part, **_):
        return split(part)

    def one_part(part, **_):
        return split("test")

    def changing(part, **_):
        return split(part, next(_calls))

    def wrong_shape(part, **_):
        found = split(part)
        return Split(pixels=found.pixels[:, :, :4], labels=found.labels)

    assert set(states_by_name(check_dataset(dataset(honest))).values()) == {"passed"}
    assert states_by_name(check_dataset(dataset(one_part)))["loads what it declares"] == "failed"
    assert states_by_name(check_dataset(dataset(wrong_shape)))["loads what it declares"] == "failed"
    assert states_by_name(check_dataset(dataset(changing)))["same twice"] == "failed"


def planted_network(**changes):
    made = type("Planted", (toys.TinyNet,), changes)
    return Architecture(name="planted", build=lambda shape, classes: made(classes))


@pytest.mark.parametrize(
    ("changes", "contract"),
    [
        ({"forward": lambda self, x: 2 * self.head(self.features(x))}, "logits are head(features)"),
        ({"stage_names": ()}, "names its stages"),
        (
            {"features": lambda self, x: toys.TinyNet.features(self, x) - toys.TinyNet.features(self, x).mean(dim=0)},
            "same in a batch and alone",
        ),
        ({"features": lambda self, x: toys.TinyNet.features(self, x.round())}, "gradient reaches the image"),
    ],
)
def test_each_planted_architecture_fails_its_contract(changes, contract):
    assert set(states_by_name(check_architecture(planted_network())).values()) == {"passed"}
    assert states_by_name(check_architecture(planted_network(**changes)))[contract] == "failed"


def counts_right(ctx):
    x, y = ctx.images()
    with torch.no_grad():
        return {"right": Quantity(float((ctx.model(x).argmax(dim=1) == y).sum()), len(x)), "none": Quantity(None, 0)}


def counts_calls(ctx):
    return {"calls": Quantity(float(next(_calls)), 1)}


def trains_what_it_is_given(ctx):
    ctx.network.train()
    return counts_right(ctx)


def rewrites(ctx):
    with torch.no_grad():
        ctx.network.head.bias.add_(1)
    return counts_right(ctx)


def hooks(ctx):
    ctx.model.register_forward_hook(lambda module, inputs, output: None)
    return counts_right(ctx)


@pytest.mark.parametrize(
    ("run", "contract"),
    [
        (lambda ctx: {}, "gives finite quantities"),
        (lambda ctx: {"x": Quantity(float("inf"), 3)}, "gives finite quantities"),
        (lambda ctx: {"x": Quantity(1.0, 0)}, "gives finite quantities"),
        (lambda ctx: {"x": Quantity(1.0, -1)}, "gives finite quantities"),
        (lambda ctx: {"x": Quantity(None, 3)}, "gives finite quantities"),
        (lambda ctx: {"x": 1.0}, "gives finite quantities"),
        (counts_calls, "same twice, whatever ran before"),
        (trains_what_it_is_given, "leaves networks unchanged"),
        (rewrites, "leaves networks unchanged"),
        (hooks, "leaves networks unchanged"),
    ],
)
def test_each_planted_analysis_fails_its_contract(run, contract):
    assert states_by_name(check_analysis(Analysis(name="planted", run=run)))[contract] == "failed"


def test_an_honest_analysis_passes_and_may_draw():
    def draws(ctx):
        return {"drawn": Quantity(float(torch.rand(())), 1)}

    for run in (counts_right, draws):
        assert set(states_by_name(check_analysis(Analysis(name="honest", run=run))).values()) == {"passed"}


def test_an_analysis_is_tried_on_the_defenses_that_it_is_about():
    def wrapped(ctx):
        assert "raw" not in ctx.stand_ins
        return {"eps": Quantity(ctx.training.eps, 1), **counts_right(ctx)}

    installed = states_by_name(check_analysis(Analysis(name="planted", run=wrapped, only_of=("raw", "nobody"))))
    assert set(installed.values()) == {"passed"}
    absent = states_by_name(check_analysis(Analysis(name="planted", run=wrapped, only_of=("nobody",))))
    assert set(absent.values()) == {"not applicable"}
