"""FLOPs against counts by hand: a convolution and a linear layer, their gradients, a purifier, an inner attack."""

from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.api import InnerAttack
from harness.conformance import toys
from harness.networks import Classifier
from harness_cost.flops import count
from support.analyses import analysis_context, quantities
from support.training import toy_recipe, training_context

FIRST = 2 * (3 * 3 * 1) * 5 * (8 * 8)
"""Two for each multiply-add: 9 inputs, 5 outputs, 64 places."""
SECOND = 2 * (2 * 2 * 5) * 6 * (4 * 4)
HEAD = 2 * (6 * 4 * 4) * 4
FORWARD = FIRST + SECOND + HEAD


class Net(Classifier):
    stage_names = ("first", "second")

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 6, 2, stride=2)
        self.head = nn.Linear(6 * 4 * 4, 4)

    def features(self, x):
        return F.relu(self.second(F.relu(self.first(x)))).flatten(1)


class Purifier(nn.Module):
    """A forward for the label, a forward and a gradient of the image, a forward."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        label = self.network(x).argmax(dim=1)
        with torch.enable_grad():
            point = x.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(F.cross_entropy(self.network(point), label), point)
        return self.network((x + 0.01 * gradient.sign()).clamp(0, 1))


def frozen():
    return Net().eval().requires_grad_(False)


def context_of_small_parts(model=None, network=None, step=None, inner=1):
    network = network or frozen()
    train, test = toys.toy_part(n=40), toys.toy_part(n=24, seed=5)
    recipe = toy_recipe(inner=InnerAttack(steps=inner))
    training = training_context(recipe, eps=0.05, step=0.01, train=train, validation=train)
    return analysis_context(model or network, test, network=network, training=training if step else None, step=step)


def values_and_counts(ctx, **params):
    found = quantities("cost", ctx, **{"images": 16, **params})
    return {name: quantity["value"] for name, quantity in found.items()}, {n: q["n"] for n, q in found.items()}


def plain(model, x, y, ctx):
    return F.cross_entropy(model(x), y)


def adversarial(model, x, y, ctx):
    return F.cross_entropy(model(ctx.perturb(model, x, y)), y)


@pytest.mark.parametrize("n", [1, 3])
def test_a_forward_and_both_kinds_of_backward_are_what_a_hand_counts(n):
    x = torch.rand(n, 1, 8, 8)
    assert count(lambda: Net()(x), n).counted == FORWARD
    whole = count(lambda: Net()(x).sum().backward(), n)
    assert whole.counted == 3 * FORWARD - FIRST, "nobody asks for the gradient of the image"
    assert whole.by_convention == 3 * FORWARD
    point, network = x.clone().requires_grad_(True), frozen()
    of_image = count(lambda: torch.autograd.grad(network(point).sum(), point), n)
    assert of_image.counted == 2 * FORWARD, "nor for those of the weights"
    assert of_image.by_convention == 3 * FORWARD - HEAD, "matrix products count as they are"


def test_transposed_convolutions_count_their_inputs():
    up = nn.ConvTranspose2d(3, 2, 2, stride=2)
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    forward = 2 * (2 * 2 * 2) * 3 * (4 * 4)
    assert count(lambda: up(x.detach()), 2).counted == forward
    assert count(lambda: up(x).sum().backward(), 2).counted == 3 * forward
    assert count(lambda: torch.autograd.grad(up(x).sum(), x), 2).by_convention == 3 * forward


def test_torch_is_as_it_was_after_counting():
    network = frozen()
    count(lambda: network(torch.rand(1, 1, 8, 8)), 1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert not torch.nn.modules.module._global_forward_hooks


def test_parameters_and_a_plain_inference():
    values, n = values_and_counts(context_of_small_parts())
    assert values["parameters"] == values["parameters_trained"] == sum(prod(p.shape) for p in Net().parameters())
    assert values["inference_flops"] == values["inference_flops_bare"] == FORWARD
    assert values["inference_multiplier"] == values["inference_multiplier_by_convention"] == 1
    assert values["training_flops"] is None
    assert (n["inference_flops"], n["training_flops"]) == (16, 0)


def test_what_is_put_around_a_network_costs_what_it_does():
    network = frozen()
    values, _ = values_and_counts(context_of_small_parts(model=Purifier(network), network=network))
    assert values["inference_flops"] == 4 * FORWARD
    assert values["inference_multiplier"] == 4
    assert values["inference_multiplier_by_convention"] == pytest.approx((5 * FORWARD - HEAD) / FORWARD)
    assert values["inference_flops_bare"] == FORWARD


@pytest.mark.parametrize(("step", "inner", "counted", "convention"), [
    (plain, 0, 3 * FORWARD - FIRST, 3 * FORWARD),
    (adversarial, 1, 5 * FORWARD - FIRST, 6 * FORWARD - HEAD),
    (adversarial, 10, 23 * FORWARD - FIRST, 33 * FORWARD - 10 * HEAD),
])  # fmt: skip
def test_training_costs_its_inner_attack(step, inner, counted, convention):
    """By the convention PGD-10 costs eleven times what training without it does, as the cost table of TPAP prints."""
    values, n = values_and_counts(context_of_small_parts(step=step, inner=inner))
    assert values["training_flops"] == counted
    assert values["training_flops_by_convention"] == convention
    assert n["training_flops"] == 16


def test_flops_of_an_image_do_not_depend_on_how_many_are_counted():
    few, many = (values_and_counts(context_of_small_parts(step=adversarial), images=images)[0] for images in (1, 24))
    assert few == many


def test_the_network_is_neither_trained_nor_thawed():
    ctx = context_of_small_parts(step=adversarial)
    before = {name: tensor.clone() for name, tensor in ctx.network.state_dict().items()}
    values_and_counts(ctx)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ctx.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in ctx.network.parameters())
    assert not ctx.network.training
