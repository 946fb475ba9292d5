"""harness_blackbox against linear models, a scalar RayS of one image at a time, and torch.optim.Adam."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from harness.api import UsageError
from harness.conformance import toys
from harness.evaluation.oracle import AccessDenied, Oracle
from harness.ops import margin
from harness.types import ThreatModel
from harness_blackbox import harness_attacks
from harness_blackbox.spsa import BITS, estimate, rademacher
from support.attacks import context_on, resolved
from support.measure import LINF, measured

ATTACKS = {attack.name: attack for attack in harness_attacks()}
NEVER = Fraction(1, 10**9)
"""A budget that no search reaches, so that it spends every query."""


def run(name, model, x, y, *, eps, examples=None, seed=0, **params):
    attack = ATTACKS[name]
    oracle, ctx = context_on(model, x, access=attack.access, seed=seed, sha256=toys.TOY_SHA256, examples=examples)
    threat = ThreatModel(kind="linf", eps=Fraction(eps))
    return attack.run(oracle, x, y, threat, ctx=ctx, **{**attack.params, **params}), oracle


def measure(name, model, x, y, *, eps, batch=250, **params):
    attack, threat = ATTACKS[name], ThreatModel(kind="linf", eps=Fraction(eps))
    found = measured(attack, model, x, y, threat, resolved(attack, params), batch=batch, sha256=toys.TOY_SHA256)
    assert found.flags == {}
    return found


def unbroken(model, x, y, result):
    return torch.tensor([bool(p == label) for p, label in zip(model(result.last).argmax(dim=1), y, strict=True)])


class Wavy(nn.Module):
    """Three classes in curved bands, cheap and with answers that do not depend on the batch."""

    def __init__(self, pixels=64, seed=0):
        super().__init__()
        stream = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, pixels, generator=stream) / math.sqrt(pixels))

    def forward(self, x):
        rows = x.flatten(1).unsqueeze(1) - 0.5
        return torch.sin(4 * (rows * self.weight).sum(dim=2)) + (rows * self.weight.flip(0)).sum(dim=2)


def wavy_problem(shape=toys.SHAPE, n=12, seed=0):
    model = Wavy(math.prod(shape), seed).eval().requires_grad_(False)
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed + 1))
    y = model(x).argmax(dim=1)
    y[::5] = (y[::5] + 1) % 3
    return model, x, y


# --- rays ------------------------------------------------------------------------------------------------------------


def scalar_rays(model, image, label, eps, queries, tolerance=1e-3):
    """RayS on one image as the paper tells it, except that each bisection first asks at eps, and success ends it.

    Returns the point (None where there is none), the smallest radius known to break, and the queries spent.
    """
    flat = image.reshape(-1).numpy()
    spent = 0

    class Spent(Exception):
        pass

    def point(radius, signs):
        moved = flat + np.float32(radius) * signs
        return np.clip(moved, np.float32(0), np.float32(1))

    def breaks(radius, signs):
        nonlocal spent
        if spent == queries:
            raise Spent
        spent += 1
        return int(model(torch.from_numpy(point(radius, signs)).view(1, *image.shape)).argmax()) != label

    signs, best = np.ones(len(flat), dtype=np.float32), np.float32(np.inf)
    width = tolerance / math.sqrt(len(flat))
    try:
        if breaks(0.0, signs):
            return image.reshape(-1).numpy(), 0.0, spent
        level = 0
        while True:
            size = math.ceil(len(flat) / 2**level)
            for start in range(0, len(flat), size):
                trial = signs.copy()
                trial[start : start + size] *= -1
                high = min(best, np.float32(1))
                if not breaks(high, trial):
                    continue
                if high <= eps:
                    return point(high, trial), high, spent
                if breaks(np.float32(eps), trial):
                    return point(eps, trial), eps, spent
                low = np.float32(eps)
                while True:
                    middle = (low + high) / np.float32(2)
                    if breaks(middle, trial):
                        high = middle
                    else:
                        low = middle
                    if high - low <= np.float32(width):
                        break
                if high < best:
                    signs, best = trial, high
            level += size > 1
    except Spent:
        return None, min(float(best), 1.0), spent


@pytest.mark.parametrize("eps", [NEVER, Fraction(1, 10), Fraction(1, 4)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7)])
def test_rays_is_the_search_of_each_image_alone(shape, eps):
    model, x, y = wavy_problem(shape)
    queries = 400
    result, oracle = run("rays", model, x, y, eps=eps, queries=queries)
    alone = [scalar_rays(model, image, label, float(eps), queries) for image, label in zip(x, y.tolist(), strict=True)]
    assert result.details["queries"].tolist() == [spent for _, _, spent in alone]
    assert oracle.forwards == sum(spent for _, _, spent in alone)
    assert result.details["radius"].tolist() == pytest.approx([float(radius) for _, radius, _ in alone], abs=1e-7)
    expected = torch.stack([
        image if point is None else torch.from_numpy(point).view(shape)
        for image, (point, _, _) in zip(x, alone, strict=True)
    ])  # fmt: skip
    assert torch.equal(result.last, expected)
    found = sum(point is not None for point, _, _ in alone)
    mistakes = int((model(x).argmax(dim=1) != y).sum())
    assert found == mistakes if eps == NEVER else mistakes < found
    assert torch.equal(result.any, result.last)


def test_rays_comes_down_to_the_exact_radius_of_a_linear_model_and_never_below():
    model, x, y, radius = toys.linear_problem("linf")
    ratios = []
    for queries in (300, 1000, 3000):
        result, oracle = run("rays", model, x, y, eps=NEVER, queries=queries)
        assert torch.equal(result.last, x)
        assert oracle.forwards == queries * len(x)
        ratios.append(result.details["radius"].double() / float(radius))
    assert min(float(ratio.min()) for ratio in ratios) > 1 - 1e-5
    assert (ratios[0] >= ratios[1] - 1e-6).all()
    assert (ratios[1] >= ratios[2] - 1e-6).all()
    assert float(ratios[0].max()) < 1.3
    assert float(ratios[1].max()) < 1.005


def test_rays_wins_outside_the_radius_and_never_inside():
    model, x, y, radius = toys.linear_problem("linf")
    inside = measure("rays", model, x, y, eps=radius * Fraction(999, 1000), queries=3000)
    assert inside.any.count("1") == 0
    assert inside.forwards == 3000 * len(x)
    outside = measure("rays", model, x, y, eps=radius * Fraction(11, 10), queries=3000)
    assert outside.any == outside.last == "1" * len(x)
    assert outside.forwards < 3000 * len(x) / 2
    assert sum(outside.details["queries"]) == outside.forwards


def test_rays_asks_for_decisions_only():
    model, x, y = wavy_problem()

    class Rescaled(nn.Module):
        """The same decisions with other scores."""

        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, images):
            z = self.inner(images)
            return (z - z.amax(dim=1, keepdim=True)) * 7 + z.sum(dim=1, keepdim=True) - 3

    one, _ = run("rays", model, x, y, eps="1/10", queries=300)
    other, _ = run("rays", Rescaled(), x, y, eps="1/10", queries=300)
    assert torch.equal(one.last, other.last)
    assert one.details["queries"].tolist() == other.details["queries"].tolist()
    assert ATTACKS["rays"].access == "decision"


def test_more_queries_never_lose_an_image():
    model, x, y = wavy_problem(n=40)
    found = [measure("rays", model, x, y, eps="1/8", queries=queries).any for queries in (20, 100, 600)]
    for fewer, more in zip(found, found[1:]):  # noqa: B905, RUF007
        assert all(b >= a for a, b in zip(fewer, more, strict=True))
    assert found[0] != found[1] != found[2]


@pytest.mark.parametrize("name", ["rays", "spsa"])
def test_a_shard_in_batches_is_the_shard_at_once(name):
    model, x, y = wavy_problem(n=24)
    few = {"queries": 300} if name == "rays" else {"steps": 8, "samples": 20}
    whole = measure(name, model, x, y, eps="1/20", **few)
    assert measure(name, model, x, y, eps="1/20", batch=5, **few) == whole
    assert {"0", "1"} == set(whole.any)


@pytest.mark.parametrize("name", ["rays", "spsa"])
def test_a_search_on_black_images_with_two_classes_stays_inside(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval().requires_grad_(False)
    x = torch.stack([torch.zeros(toys.SHAPE), torch.ones(toys.SHAPE)])
    y = model(x).argmax(dim=1)
    few = {"queries": 200} if name == "rays" else {"steps": 5, "samples": 10}
    for eps in ("0", "1/10", "1"):
        result, _ = run(name, model, x, y, eps=eps, **few)
        assert LINF.verify(x, result.last, float(Fraction(eps))).all()
        assert result.last.amin() >= 0
        assert result.last.amax() <= 1
    assert torch.equal(run(name, model, x, y, eps="0", **few)[0].last, x)


# --- spsa ------------------------------------------------------------------------------------------------------------


def draws(n, blocks, shape=toys.SHAPE, step=1):
    x = torch.zeros(n, *shape)
    _, ctx = context_on(toys.tiny_net(), x, access="score", sha256=toys.TOY_SHA256)
    return [ctx.noise(f"step:{step}:{block}") for block in range(blocks)]


def test_the_signs_are_fair_and_independent_between_bits_pixels_and_examples():
    signs = rademacher(draws(64, 1, (1, 16, 16))[0], BITS)
    assert signs.shape == (64, BITS, 1, 16, 16)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    each = signs.double().transpose(0, 1).flatten(1)  # (bits, examples * pixels)
    assert each.mean(dim=1).abs().max() < 5 / math.sqrt(each.shape[1])
    assert (each @ each.T / each.shape[1] - torch.eye(BITS)).abs().max() < 5 / math.sqrt(each.shape[1])
    rows = signs.double().flatten(1)  # (examples, bits * pixels)
    assert (rows @ rows.T / rows.shape[1] - torch.eye(64)).abs().max() < 5 / math.sqrt(rows.shape[1])


def test_the_estimate_is_the_gradient_of_a_linear_function_plus_noise_of_the_right_size():
    n, samples = 200, 128
    weight = torch.randn(64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = torch.rand(n, *toys.SHAPE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    blocks = [block.double() for block in draws(n, samples // BITS)]
    found = estimate(lambda a, _: a.flatten(1) @ weight, x, torch.zeros(n).long(), blocks, samples, 0.01, 4096)
    # Each estimate of coordinate i is w_i plus a sum over the others of +-w_j.
    deviation = ((weight.square().sum() - weight.square()) / samples).sqrt()
    scores = (found.flatten(1) - weight) / deviation
    assert scores.abs().max() < 5.5
    assert abs(float(scores.mean())) < 5 / math.sqrt(scores.numel())
    assert (scores.mean(dim=0) * math.sqrt(n)).abs().max() < 5
    assert abs(float(scores.square().mean()) - 1) < 0.06


@pytest.mark.parametrize("samples", [1, 15, 16, 40])
def test_the_estimate_is_a_loop_over_the_directions(samples):
    model = Wavy().eval().requires_grad_(False)
    x = torch.rand(3, *toys.SHAPE, generator=torch.Generator().manual_seed(4))
    y = torch.tensor([0, 1, 2])
    blocks = draws(3, -(-samples // BITS))
    found = estimate(lambda a, b: margin(model(a), b), x, y, blocks, samples, 0.01, 7)
    for row in range(3):
        total = torch.zeros(toys.SHAPE, dtype=torch.float64)
        for sample in range(samples):
            level = np.floor((blocks[sample // BITS][row].double().numpy() + 1) / 2 * 2**16).astype(np.int64)
            v = torch.from_numpy(np.where((level // 2 ** (sample % BITS)) % 2 == 1, 1.0, -1.0)).float()
            z = [model((x[row] + side * 0.01 * v).unsqueeze(0))[0].tolist() for side in (1, -1)]
            label = int(y[row])
            up, down = (a[label] - max(a[:label] + a[label + 1 :]) for a in z)
            total += (up - down) / 0.02 * v
        assert (found[row] - total / samples).abs().max() < 2e-4 * max(1.0, float(found[row].abs().max()))


class Slab(nn.Module):
    """Linear, so that the gradient never vanishes, and with a margin that the ball does not reach."""

    def __init__(self, reach):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, generator=torch.Generator().manual_seed(2)))
        self.reach = reach

    def forward(self, x):
        score = (x.flatten(1) * self.weight).sum(dim=1) + self.reach
        return torch.stack([score / 2, -score / 2], dim=1)


def test_the_iterates_are_those_of_adam_on_the_estimates():
    model = Slab(1000.0).eval().requires_grad_(False)
    x = torch.rand(4, *toys.SHAPE, generator=torch.Generator().manual_seed(4))
    y = torch.zeros(4, dtype=torch.int64)
    eps, steps, samples = Fraction(3, 100), 12, 20
    shown = []

    def watched(images):
        shown.append(images.clone())
        return model(images)

    _, ctx = context_on(model, x, access="score", sha256=toys.TOY_SHA256)
    params = {**ATTACKS["spsa"].params, "steps": steps, "samples": samples}
    ATTACKS["spsa"].run(watched, x, y, ThreatModel(kind="linf", eps=eps), ctx=ctx, **params)
    iterates = [images for images in shown if len(images) == 4]
    assert len(iterates) == 1 + steps
    for row in range(4):
        point = nn.Parameter(x[row : row + 1].clone())
        adam = torch.optim.Adam([point], lr=0.01)
        for step in range(1, steps + 1):
            blocks = [ctx.noise(f"step:{step}:{block}")[row : row + 1] for block in range(2)]
            value = lambda a, b: margin(model(a), b)  # noqa: E731
            point.grad = estimate(value, point.detach(), y[row : row + 1], blocks, samples, 0.01, 4096)
            adam.step()
            with torch.no_grad():
                point.clamp_(x[row : row + 1] - float(eps), x[row : row + 1] + float(eps)).clamp_(0, 1)
            assert (point - iterates[step][row]).abs().max() < 2e-5
    assert all(LINF.verify(x, images, float(eps)).all() for images in iterates)
    moved = (iterates[-1] - x).abs().flatten(1).amax(dim=1)
    assert (moved > float(eps) - 1e-6).all()  # so that the ball was felt
    asked = [images for images in shown if len(images) != 4]
    assert max(float((images.view(2, 4, -1, *toys.SHAPE) - x[:, None]).abs().max()) for images in asked) <= 0.0401


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_how_many_images_are_asked_at_once_changes_nothing(chunk):
    model, x, y = wavy_problem()
    few = {"steps": 6, "samples": 20}
    whole, oracle = run("spsa", model, x, y, eps="1/8", **few)
    some, other = run("spsa", model, x, y, eps="1/8", chunk=chunk, **few)
    assert torch.equal(some.last, whole.last)
    assert some.details["queries"].tolist() == whole.details["queries"].tolist()
    assert other.forwards == oracle.forwards
    largest = []
    attack = ATTACKS["spsa"]
    _, ctx = context_on(model, x, access="score", sha256=toys.TOY_SHA256)
    threat = ThreatModel(kind="linf", eps=Fraction(1, 8))
    attack.run(
        lambda a: largest.append(len(a)) or model(a), x, y, threat, ctx=ctx, **{**attack.params, **few, "chunk": chunk}
    )
    assert max(largest) <= max(chunk, len(x))


def test_spsa_spends_what_it_says_and_stops_where_it_succeeds():
    model, x, y = wavy_problem(n=40)
    steps, samples = 10, 20
    judged = measure("spsa", model, x, y, eps="1/8", steps=steps, samples=samples)
    spent = judged.details["queries"]
    assert judged.forwards == sum(spent)
    assert judged.backwards == 0
    for queries, broken in zip(spent, judged.any, strict=True):
        assert (queries - 1) % (2 * samples + 1) == 0
        assert queries <= 1 + steps * (2 * samples + 1)
        assert broken == "1" or queries == 1 + steps * (2 * samples + 1)
    result, _ = run("spsa", model, x, y, eps="1/8", steps=steps, samples=samples)
    kept = unbroken(model, x, y, result)
    assert torch.equal(result.last[kept], x[kept])
    assert 0 < int(kept.sum()) < len(x)
    mistakes = model(x).argmax(dim=1) != y
    assert torch.equal(result.last[mistakes], x[mistakes])
    assert {spent[row] for row in mistakes.nonzero().squeeze(1).tolist()} == {1.0}


def test_spsa_wins_outside_the_radius_of_a_linear_model_and_never_inside():
    model, x, y, radius = toys.linear_problem("linf")
    few = {"steps": 30, "samples": 128}
    assert measure("spsa", model, x, y, eps=radius * Fraction(999, 1000), **few).any.count("1") == 0
    assert measure("spsa", model, x, y, eps=radius * Fraction(12, 10), **few).any == "1" * len(x)


def test_spsa_asks_without_gradients():
    oracle = Oracle(toys.tiny_net(), "score")
    with pytest.raises(AccessDenied):
        oracle(torch.zeros(1, *toys.SHAPE, requires_grad=True))
    assert ATTACKS["spsa"].access == "score"


# --- what users may get wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("rays", {"queries": 0}),
        ("rays", {"tolerance": 0.0}),
        ("spsa", {"steps": 0}),
        ("spsa", {"samples": 0}),
        ("spsa", {"chunk": 0}),
        ("spsa", {"delta": 0.0}),
    ],
)
def test_senseless_parameters_are_refused(name, wrong):
    model, x, y = wavy_problem(n=2)
    with pytest.raises(UsageError, match=next(iter(wrong))):
        run(name, model, x, y, eps="1/10", **wrong)
