"""Classes answered with minus infinity, against the network that does not have them."""

import pytest
import torch
from torch import nn

from harness.conformance import toys
from harness.evaluation.absent import without_absent
from harness.evaluation.judge import InvalidModel, Judge
from harness.ops import cross_entropy, logit_scale, margin
from harness.reporter import Reporter
from harness.running.entry import bench
from support.attacks import Masked

MINUS = float("-inf")


class Sometimes(nn.Module):
    """Minus infinity for the last class where the first pixel is bright."""

    def forward(self, x):
        logits = toys.tiny_net()(x)
        return torch.cat([logits[:, :3], logits[:, 3:].masked_fill(x[:, 0, 0, :1] > 0.5, MINUS)], dim=1)


class Constant(nn.Module):
    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def test_predictions_losses_and_gradients_are_those_of_the_network_without_the_class():
    x, y = toys.images(n=32)
    network, absent = without_absent(Masked(toys.tiny_net(), MINUS), toys.SHAPE)
    assert absent == [4]
    for measure in (margin, cross_entropy):
        point, own = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
        value, expected = measure(network(point), y), measure(toys.tiny_net()(own), y)
        assert torch.equal(value, expected)
        found = torch.autograd.grad(value.sum(), point) + torch.autograd.grad(expected.sum(), own)
        assert torch.equal(*found)
    logits = network(x)
    assert (logits[:, 4] < logits[:, :4].amin(dim=1)).all()
    assert torch.equal(logit_scale(logits), logit_scale(toys.tiny_net()(x)))
    assert not Judge(network, 5, toys.SHAPE).stochastic


class NoReturn(Masked):
    def train(self, mode=True):
        super().train(mode)  # and forgets to return itself


def test_a_network_whose_methods_return_nothing_is_tried_too():
    network, absent = without_absent(NoReturn(toys.tiny_net(), MINUS), toys.SHAPE)
    assert absent == [4]
    assert torch.isfinite(network(toys.images(n=4)[0])).all()


@pytest.mark.parametrize("model", [
    Sometimes(), Constant(MINUS, MINUS, MINUS, MINUS), Constant(0.0, 1.0, 2.0, float("inf")),
    Constant(0.0, 1.0, 2.0, float("nan")),
])  # fmt: skip
def test_what_is_no_absent_class_is_left_alone_and_refused(model):
    assert without_absent(model, toys.SHAPE) == (model, [])
    with pytest.raises(InvalidModel, match="NaN or infinity"):
        Judge(model, 4, toys.SHAPE).logits(torch.ones(1, *toys.SHAPE))


def test_other_trouble_stays_refused_beside_an_absent_class():
    network, absent = without_absent(Constant(0.0, MINUS, float("nan"), 1.0), toys.SHAPE)
    assert absent == [1]
    with pytest.raises(InvalidModel, match="NaN or infinity"):
        Judge(network, 4, toys.SHAPE)


def test_an_ordinary_network_and_one_that_fails_are_returned_as_they_are():
    plain, wrong = toys.tiny_net(), nn.Linear(3, 4)
    assert without_absent(plain, toys.SHAPE) == (plain, [])
    assert without_absent(wrong, toys.SHAPE) == (wrong, [])


def test_the_user_is_told_and_the_numbers_are_those_of_a_finite_mask(tmp_path):
    lines = []

    class Noting(Reporter):
        def warn(self, text):
            lines.append(text)

    def network(value):
        torch.manual_seed(0)
        return Masked(nn.Sequential(nn.Flatten(), nn.Linear(64, 9)).eval(), value)

    columns = {}
    for value in (MINUS, -1e4):
        report = bench(model=network(value), attacks=["fgsm", "deepfool"], limit=30, output=tmp_path, reporter=Noting())
        columns[value] = report.cells()[["attack", "clean", "robust", "median_distance"]].fillna(-1).to_dict("records")
    assert columns[MINUS] == columns[-1e4]
    (line,) = [line for line in lines if "absent" in line]
    assert "-inf for class 9" in line
