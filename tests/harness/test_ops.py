"""The scale of logits, against a loop over rows and against networks that lack the masked class."""

import pytest
import torch

from harness.ops import FAR, logit_scale, present, substituted


def drawn(n=200, k=7, seed=0):
    return 20 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) - 10


def by_loop(logits):
    scales = []
    for row in logits.tolist():
        first, second = sorted(row)[:-3:-1]
        compared = max(abs(first), abs(second), 3.0)
        scales.append(max(abs(value) for value in row if abs(value) <= FAR * compared))
    return torch.tensor(scales)


def test_the_scale_is_the_largest_magnitude_of_ordinary_logits_bit_for_bit():
    logits = drawn() + 15
    ordinary = present(logits).all(dim=1)
    assert ordinary.float().mean() > 0.9
    assert torch.equal(logit_scale(logits)[ordinary], logits.abs().amax(dim=1)[ordinary])
    assert torch.equal(logit_scale(logits), by_loop(logits))


@pytest.mark.parametrize("value", [-1e9, -1e6, -1e4, -torch.finfo(torch.float32).max, float("-inf")])
@pytest.mark.parametrize("masked", [1, 5])
def test_masked_classes_have_no_part_in_it(value, masked):
    logits = drawn()
    filled = torch.cat([logits, torch.full((len(logits), masked), value)], dim=1)[:, torch.randperm(7 + masked)]
    far = logits.topk(2, dim=1).values.abs().amax(dim=1) * FAR >= abs(value)
    assert not far.any()
    assert torch.equal(logit_scale(filled), logit_scale(logits))
    assert (~present(filled)).sum(dim=1).min() >= masked


def test_two_classes_are_always_compared_with_each_other():
    logits = torch.tensor([[1e-3, -5.0], [7.0, 7.0], [-1e9, 3.0], [0.0, 0.0]])
    assert torch.equal(logit_scale(logits), torch.tensor([5.0, 7.0, 1e9, 0.0]))


def test_two_that_cancel_round_like_what_cancelled():
    assert torch.equal(logit_scale(torch.tensor([[1e-7, -1e-7, -20.0, -5.0]])), torch.tensor([20.0]))


def test_what_is_substituted_has_one_value_and_the_others_gradient():
    x = torch.tensor([0.1, 0.7, 0.3], requires_grad=True)
    value = torch.tensor([1.0, 1e9, -0.2])
    found = substituted(3 * x, value)
    assert torch.equal(found, value)
    assert found is not value
    (gradient,) = torch.autograd.grad((found * torch.tensor([1.0, 2.0, 4.0])).sum(), x)
    assert torch.equal(gradient, torch.tensor([3.0, 6.0, 12.0]))
