"""Networks that answer for an image by the images beside it: seen, and judged and attacked one image at a time."""

import json

import pytest
import torch
from torch import nn

import harness_gradient
from harness.api import Defense
from harness.conformance import toys
from harness.evaluation.alone import OneByOne, batch_dependence
from harness.evaluation.context import AttackContext
from harness.evaluation.judge import InvalidModel, Judge
from harness.evaluation.oracle import Oracle
from harness.results import audit
from harness.results.rows import rows
from support.bench import bench_toy
from support.plugins import Offers, plain_step, toy_registry


class Around(nn.Module):
    def __init__(self, network=None):
        super().__init__()
        self.network = network or toys.tiny_net()


class Standardised(Around):
    """Case 05: standardises over the batch."""

    def forward(self, x):
        return self.network((x - x.mean()) / x.std() * 0.3 + 0.5)


class WithoutStatistics(Around):
    """A batch norm without running statistics."""

    def __init__(self, network=None):
        super().__init__(network)
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)

    def forward(self, x):
        return self.network(self.norm(x) * 0.3 + 0.5)


class Ordered(Around):
    """Adds something to all but the first image of a batch."""

    def forward(self, x):
        return self.network(x + 0.2 * (torch.arange(len(x)) > 0).view(-1, 1, 1, 1))


class Neighbour(Around):
    """Looks at the next image, faintly."""

    def forward(self, x):
        return self.network(x + 0.03 * x.roll(1, dims=0))


class Contrast(Around):
    """Answers in batches of many by the brightest of the batch."""

    def forward(self, x):
        return self.network(x / x.amax())


class Sized(Around):
    """Is another network in batches of at least `size` images, or of less where that is negative."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        changed = len(x) >= self.size if self.size > 0 else len(x) < -self.size
        return self.network(nn.functional.avg_pool2d(x, 5, 1, 2) if changed else x)


class Plain(Around):
    def forward(self, x):
        return self.network(x)


class PerImage(Around):
    """Standardises each image by itself."""

    def forward(self, x):
        return self.network((x - x.mean(dim=(1, 2, 3), keepdim=True)) / x.std(dim=(1, 2, 3), keepdim=True))


class Rounded(Around):
    """Rounds its sums differently for batches of different sizes, as kernels do."""

    def forward(self, x):
        return self.network(x) * (1 + 1e-6 / len(x))


class Amplifies(Around):
    """Steps by the sign of a gradient: rounding grows to a step wherever the gradient is next to nothing."""

    def forward(self, x):
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            (found,) = torch.autograd.grad(self.network(point).logsumexp(dim=1).sum(), point)
        found = found + 1e-9 * torch.sin(1e7 * x.sum(dim=(1, 2, 3), keepdim=True) / len(x))
        return self.network(x + 0.05 * found.sign())


DEPENDENT = [Standardised, WithoutStatistics, Ordered, Neighbour, Contrast]


@pytest.mark.parametrize("network", DEPENDENT)
def test_what_depends_on_the_batch_is_seen_and_is_not_once_it_sees_one_image_at_a_time(network):
    real = toys.images()[0]
    assert batch_dependence(Judge(network(), 4, toys.SHAPE, real=real)) > 1e-3
    assert batch_dependence(Judge(OneByOne(network()), 4, toys.SHAPE, real=real)) == 0


@pytest.mark.parametrize("size", [-3, -16, 12, 32, 100])
def test_a_network_that_changes_with_the_size_of_the_batch_is_seen(size):
    assert batch_dependence(Judge(Sized(size), 4, toys.SHAPE)) > 1e-3


@pytest.mark.parametrize("network", [Plain, PerImage, Rounded, Amplifies])
def test_what_rounding_explains_is_no_dependence(network):
    assert batch_dependence(Judge(network(), 4, toys.SHAPE, real=toys.images()[0])) == 0


def test_each_image_is_answered_alone_with_its_own_gradient():
    network = Standardised()
    x = toys.images(n=5)[0].requires_grad_(True)
    found = OneByOne(network)(x)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    for row in range(5):
        alone = x[row : row + 1].detach().requires_grad_(True)
        answer = network(alone)
        assert torch.equal(answer[0], found[row])
        assert torch.equal(torch.autograd.grad(answer.square().sum(), alone)[0][0], gradient[row])


def test_what_cannot_see_one_image_alone_says_why():
    """A batch norm in train mode has nothing to standardise by in one image of one pixel."""

    class Norm(nn.Module):
        def forward(self, x):
            return nn.functional.batch_norm(x.flatten(1)[:, :4], None, None, training=True)

    with pytest.raises(
        InvalidModel, match=r"8 images at once and not one alone \(ValueError: Expected more than 1 value"
    ):
        batch_dependence(Judge(Norm(), 4, toys.SHAPE))


def test_features_of_each_image_are_there_too():
    x, _ = toys.images(n=3)
    oracle = Oracle(OneByOne(toys.tiny_net()), "gradient")
    ctx = AttackContext(oracle, x, seed=0, data_sha256="", examples=range(3))
    expected = toys.tiny_net().stages(x)
    for name, found in ctx.features(x).items():
        torch.testing.assert_close(found, expected[name])
    assert oracle.forwards == 3


# From plan to table.


REGISTRY = toy_registry(harness_gradient, Offers(Defense(name="beside", step=plain_step, wrap=Standardised)))


def bench(folder, batch_size):
    return bench_toy(
        folder, REGISTRY, defenses=["beside"], attacks=["unchanged", "pgd-40[steps=5]"], threats=["linf:2/5"],
        limit=60, batch_size=batch_size,
    )  # fmt: skip


def test_the_same_numbers_come_out_for_every_batch_size(tmp_path):
    """Case 05: 73, 65 and 37 came out for 250, 5 and 1."""
    found = [bench(tmp_path / str(size), size) for size in (60, 7, 1)]
    told = [json.dumps(sorted(outcome.records, key=lambda one: one["key"])) for outcome in found]
    assert told[0] == told[1] == told[2]
    (row,) = rows(found[0].records)
    assert "alone and beside others" in audit.flags(row)["batch_dependent"]
    robust = {cell.attack: cell.robust.count("1") for cell in row.cells.values()}
    assert robust["pgd-40[steps=5]"] < robust["unchanged"], "gradients reach the attack"


def test_what_is_deployed_one_by_one_is_another_network_in_its_records(tmp_path):
    (first, *_) = bench(tmp_path, 60).records
    assert first["outcome"]["flags"]["batch_dependent"] == 1
    assert first["identity"]["deployed_sha256"] != first["identity"]["weights_sha256"]
