"""harness_noise against closed forms of the clamped normal distribution and a loop over what the model was asked."""

import itertools
import math
from fractions import Fraction
from statistics import NormalDist

import pytest
import torch

from harness.api import UsageError
from harness.conformance import toys
from harness.types import ThreatModel
from harness_noise import harness_attacks
from support.attacks import context_on, resolved
from support.measure import measured

ATTACKS = {attack.name: attack for attack in harness_attacks()}
EPS = Fraction(1, 10)
UNIT = NormalDist()


def run(name, x, y, *, model=None, examples=None, seed=0, eps=EPS, **params):
    """Its result and every batch it showed the model."""
    shown = []

    def watched(images):
        shown.append(images.clone())
        return (model or toys.tiny_net())(images)

    attack = ATTACKS[name]
    threat = ThreatModel(kind=attack.threats[0], eps=eps if attack.threats[0] == "linf" else None)
    _, ctx = context_on(toys.tiny_net(), x, access="decision", seed=seed, sha256=toys.TOY_SHA256, examples=examples)
    return attack.run(watched, x, y, threat, ctx=ctx, **resolved(attack, params)), shown


def measure(name, model, x, y, **params):
    attack = ATTACKS[name]
    threat = ThreatModel(kind=attack.threats[0], eps=EPS if attack.threats[0] == "linf" else None)
    return measured(attack, model, x, y, threat, resolved(attack, params), sha256=toys.TOY_SHA256)


def frail(scale=12.0):
    """A network that noise breaks now and then."""
    model = toys.tiny_net()
    with torch.no_grad():
        model.head.bias.mul_(0).add_(torch.tensor([0.02, 0.0, 0.01, 0.0]))
        model.layer1[0].weight.mul_(scale)
    return model


def frail_images(n=48):
    x = 0.05 + 0.9 * torch.rand(n, *toys.SHAPE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return x, frail()(x).argmax(dim=1)


@pytest.mark.parametrize("sigma", [0.1, 0.4])
@pytest.mark.parametrize("level", [0.0, 0.05, 0.5, 1.0])
def test_gaussian_has_the_moments_of_a_clamped_normal(level, sigma):
    x = torch.full((256, 1, 32, 32), level)
    y = torch.zeros(len(x), dtype=torch.int64)
    values = run("gaussian", x, y, model=lambda a: a.flatten(1)[:, :4], sigma=sigma, draws=1)[0].last.double()
    low, high = (0 - level) / sigma, (1 - level) / sigma
    black, white = UNIT.cdf(low), 1 - UNIT.cdf(high)
    # Moments of a normal cut to [low, high], in units of sigma and not divided by its mass.
    first = UNIT.pdf(low) - UNIT.pdf(high)
    second = 1 - black - white + low * UNIT.pdf(low) - high * UNIT.pdf(high)
    expected = {
        "mean": (values - level, sigma * first - level * black + (1 - level) * white),
        "spread": ((values - level).square(), sigma**2 * second + level**2 * black + (1 - level) ** 2 * white),
        "black": ((values == 0).double(), black),
        "white": ((values == 1).double(), white),
    }
    for name, (found, wanted) in expected.items():
        error = float(found.std()) / math.sqrt(found.numel())
        assert abs(float(found.mean()) - wanted) <= 5 * error + 1e-6, name


def test_gaussian_is_normal_between_the_clamps():
    x = torch.full((64, 1, 32, 32), 0.5)
    last = run("gaussian", x, torch.zeros(64, dtype=torch.int64), model=lambda a: a.flatten(1)[:, :4])[0].last
    values = ((last - x) / 0.1).flatten().double().sort().values
    steps = (torch.arange(len(values)) + 0.5) / len(values)
    distance = max(abs(UNIT.cdf(v) - s) for v, s in zip(values[::97].tolist(), steps[::97].tolist(), strict=True))
    assert distance < 2 / math.sqrt(len(values))  # Kolmogorov-Smirnov


def test_uniform_is_uniform_in_the_ball_and_clamped():
    x = torch.full((64, 1, 32, 32), 0.5)
    x[32:] = 0.0
    last = run("uniform", x, torch.zeros(64, dtype=torch.int64), model=lambda a: a.flatten(1)[:, :4])[0].last
    values = (last - x)[:32].flatten().double().sort().values
    line = torch.linspace(-float(EPS), float(EPS), len(values), dtype=torch.float64)
    assert (values - line).abs().amax() < 2 * 2 * float(EPS) / math.sqrt(len(values))
    assert abs(float((last[32:] == 0).double().mean()) - 0.5) < 5 * math.sqrt(0.25 / len(values))
    assert (last - x).abs().max() <= float(EPS) + 1e-7


@pytest.mark.parametrize("name", ["gaussian", "uniform"])
def test_draws_are_independent_of_each_other_and_between_examples(name):
    x = torch.full((32, *toys.SHAPE), 0.5)
    y = torch.zeros(32, dtype=torch.int64)
    _, shown = run(name, x, y)
    rows = torch.stack(shown).sub(0.5).flatten(2).flatten(0, 1)  # (draws * examples, pixels)
    assert len(shown) == 10
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 6 / math.sqrt(rows.shape[1])


@pytest.mark.parametrize("name", ["gaussian", "uniform"])
def test_last_any_and_the_mean_are_those_of_a_loop_over_the_draws(name):
    model = frail()
    x, y = frail_images()
    result, shown = run(name, x, y, model=model)
    assert torch.equal(result.last, shown[0])
    verdicts = [[bool(model(draw[row : row + 1]).argmax() != y[row]) for draw in shown] for row in range(len(x))]
    expected = torch.stack([
        next((shown[draw][row] for draw, broken in enumerate(found) if broken), x[row])
        for row, found in enumerate(verdicts)
    ])  # fmt: skip
    assert torch.equal(result.any, expected)
    assert result.details["broken_draws"].tolist() == [sum(found) for found in verdicts]
    assert {sum(found) for found in verdicts} >= {0, 1, 2}  # some never, some once, some more often
    judged = measure(name, model, x, y)
    assert [bit == "1" for bit in judged.last] == [found[0] for found in verdicts]
    assert [bit == "1" for bit in judged.any] == [any(found) for found in verdicts]
    assert (judged.forwards, judged.backwards) == (10 * len(x), 0)
    assert judged.details["broken_draws"] == [float(sum(found)) for found in verdicts]
    assert judged.flags == {}


@pytest.mark.parametrize("name", ["gaussian", "uniform"])
def test_more_draws_leave_fewer_standing_and_keep_the_first(name):
    model = frail()
    x, y = frail_images()
    found = [measure(name, model, x, y, draws=draws) for draws in (1, 3, 10)]
    assert len({judged.last for judged in found}) == 1
    for fewer, more in itertools.pairwise(found):
        assert all(b >= a for a, b in zip(fewer.any, more.any, strict=True))
    assert found[0].any == found[0].last != found[-1].any


@pytest.mark.parametrize("name", ["gaussian", "uniform"])
def test_the_noise_of_an_example_is_its_own_whatever_the_batch(name):
    x, y = frail_images(12)
    whole, _ = run(name, x, y)
    order = [7, 2, 11]
    part, _ = run(name, x[order], y[order], examples=order)
    assert torch.equal(part.last, whole.last[order])
    other, _ = run(name, x, y, seed=1)
    assert not torch.equal(other.last, whole.last)


def test_defenses_see_common_noise():
    x, y = frail_images(4)
    one, _ = run("uniform", x, y)
    other, _ = run("uniform", x, y, model=frail())
    assert torch.equal(one.last, other.last)


@pytest.mark.parametrize("name", ["gaussian", "uniform"])
def test_edges(name):
    x = torch.stack([torch.zeros(toys.SHAPE), torch.ones(toys.SHAPE)])
    y = torch.tensor([0, 1])
    result, _ = run(name, x, y, model=lambda a: a.flatten(1)[:, :2])
    assert result.last.amin() >= 0
    assert result.last.amax() <= 1
    still = {"sigma": 0.0} if name == "gaussian" else {"eps": Fraction(0)}
    assert torch.equal(run(name, x, y, **still)[0].last, x)
    with pytest.raises(UsageError, match="draws=0"):
        run(name, x, y, draws=0)


def test_a_negative_deviation_is_refused():
    x, y = frail_images(2)
    with pytest.raises(UsageError, match="sigma"):
        run("gaussian", x, y, sigma=-0.1)
