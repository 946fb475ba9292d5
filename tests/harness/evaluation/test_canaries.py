"""When two answers are the same, how often that is asked, and what a judge makes of the passes."""

import math

import pytest
import torch
from torch import nn

from harness.conformance import toys
from harness.evaluation.canaries import AGREEMENT, PASSES, apart, canary_images
from harness.evaluation.judge import InvalidModel, Judge


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))


def by_hand(first, second) -> list[float]:
    """The definition, image by image and class by class."""
    tops = [row.index(max(row)) for row in first.tolist()]
    closest = sorted(
        min(row[top] - value for k, value in enumerate(row) if k != top)
        for row, top in zip(first.double().tolist(), tops, strict=True)
    )
    floor = closest[(len(closest) - 1) // 2]
    found = []
    for here, there, top in zip(first.double().tolist(), second.double().tolist(), tops, strict=True):
        gaps = [(here[top] - here[k], there[top] - there[k]) for k in range(len(here)) if k != top]
        found.append(max(abs(a - b) / max(a, floor) for a, b in gaps))
    return found


def test_answers_are_as_far_apart_as_by_hand():
    first, second = logits(), logits() + 0.01 * logits(1)
    torch.testing.assert_close(apart(first, second), torch.tensor(by_hand(first, second)).double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("change", [
    lambda z: z, lambda z: z + 7, lambda z: z * (1 + 1e-7), lambda z: z + 3e-7,
])  # fmt: skip
def test_what_moves_no_gap_beyond_rounding_is_the_same(change):
    assert (apart(logits(), change(logits())) <= AGREEMENT).all()


@pytest.mark.parametrize("masked", [-1e9, -torch.inf])
def test_a_masked_class_hides_no_difference(masked):
    first, second = logits().clone(), logits().clone()
    first[:, 3] = second[:, 3] = masked
    first[:, 0] += 5
    second[:, 0] += 5
    second[2, 1] += 0.1
    found = apart(first, second)
    assert found[2] > 0.01
    assert found[[0, 1, 3, 4, 5, 6, 7]].max() <= AGREEMENT


def test_an_image_on_the_border_is_no_sign_of_anything():
    first = logits().clone()
    first[0, :2] = 9.0
    second = first.clone()
    second[0, 0] += 1e-5
    assert apart(first, second).max() <= AGREEMENT


def test_half_of_the_canaries_are_the_images_to_be_judged():
    real = torch.full((100, *toys.SHAPE), 0.25)
    found = canary_images(toys.SHAPE, "cpu", real)
    assert len(found) == 8
    assert (found == 0.25).flatten(1).all(dim=1).sum() == 4
    assert len(canary_images(toys.SHAPE, "cpu", real[:1])) == 8


class Sometimes(nn.Module):
    """Acts in some passes, on all images or on one, or on real-looking images only."""

    def __init__(self, share, each=False, dark_only=False):
        super().__init__()
        self.network, self.share, self.each, self.dark_only = toys.tiny_net(), share, each, dark_only

    def forward(self, x):
        acts = torch.rand(len(x) if self.each else 1, 1) < self.share
        if self.dark_only:
            acts = acts & (x.flatten(1).mean(dim=1, keepdim=True) < 0.3)
        answers = self.network(x)
        return torch.where(acts, answers.roll(1, dims=1), answers)


def test_what_happens_in_one_of_ten_passes_is_seen():
    """With a probability above 0.999 each, so all of twenty."""
    assert 1 - 0.9**PASSES > 0.999
    x = toys.images()[0]
    for draws in range(20):
        model = Sometimes(0.1)
        # The passes are seeded: what draws more acts in others of them.
        model.register_forward_pre_hook(lambda *_, n=draws: torch.rand(n).sum() < 0 or None)
        assert Judge(model, 4, toys.SHAPE, real=x).stochastic, draws


@pytest.mark.parametrize("more", [{"each": True}, {"dark_only": True}])
def test_randomness_of_single_images_and_of_dark_ones_only_is_seen(more):
    dark = toys.images()[0] / 4
    assert Judge(Sometimes(0.1, **more), 4, toys.SHAPE, real=dark).stochastic
    assert not Judge(Sometimes(0.0, **more), 4, toys.SHAPE, real=dark).stochastic


class Rounding(nn.Module):
    """Answers with the noise of a sum in another order."""

    def __init__(self, masked=False):
        super().__init__()
        self.network, self.masked = toys.tiny_net(), masked

    def forward(self, x):
        answers = self.network(x) * (1 + 2e-7 * torch.randn(len(x), 4))
        return answers.index_fill(1, torch.tensor([3]), -1e9) if self.masked else answers


@pytest.mark.parametrize("masked", [False, True])
def test_the_noise_of_rounding_is_no_randomness(masked):
    assert not Judge(Rounding(masked), 4, toys.SHAPE).stochastic


class Masked(nn.Module):
    """Random, under a logit so low that no other difference shows beside it."""

    def __init__(self):
        super().__init__()
        self.network = toys.tiny_net()

    def forward(self, x):
        answers = self.network(x + 0.1 * torch.randn_like(x))
        return answers.index_fill(1, torch.tensor([3]), -1e9)


def test_a_masked_logit_hides_no_randomness():
    assert Judge(Masked(), 4, toys.SHAPE).stochastic


class Counts(nn.Module):
    """Answers something else from its n-th pass on."""

    def __init__(self, calls):
        super().__init__()
        self.network, self.left = toys.tiny_net(), calls

    def forward(self, x):
        self.left -= 1
        return self.network(x) if self.left > 0 else -self.network(x)


@pytest.mark.parametrize("calls", [2, 6, 40])
def test_state_is_no_randomness(calls):
    with pytest.raises(InvalidModel, match=r"keeps to it: it keeps state"):
        Judge(Counts(calls), 4, toys.SHAPE)


class OwnGenerator(nn.Module):
    """Random by a generator that no seed of ours reaches."""

    def __init__(self):
        super().__init__()
        self.network = toys.tiny_net()
        self.stream = torch.Generator().manual_seed(3)

    def forward(self, x):
        return self.network(x + 0.3 * torch.randn(x.shape, generator=self.stream))


def test_answers_that_a_reseed_does_not_bring_again_are_not_repeatable():
    judge = Judge(OwnGenerator(), 4, toys.SHAPE)
    assert (judge.stochastic, judge.repeatable) == (True, False)
    judge = Judge(Sometimes(0.5), 4, toys.SHAPE)
    assert (judge.stochastic, judge.repeatable) == (True, True)
    assert math.isfinite(judge.logit_noise)
