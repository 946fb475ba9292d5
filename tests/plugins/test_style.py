"""harness_style against torch.optim.SGD on one image at a time, with the features taken from the layers by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from harness.api import NotApplicable, UsageError
from harness.conformance import toys
from harness.data.dataset import LoadedPart
from harness.evaluation.context import AttackContext, Supplies
from harness.networks import Classifier
from harness.types import Split, ThreatModel
from harness_style import harness_attacks
from harness_style.choice import style_images
from support.attacks import context_on, images_at_the_border
from support.measure import LINF, measured

ATTACKS = {attack.name: attack for attack in harness_attacks()}
EPS = Fraction(1, 20)
CLASSES = 3


class Stages(Classifier):
    """Convolution stages under given names, on grey 8x8 images, with features large enough to pull pixels far."""

    def __init__(self, names: tuple[str, ...], classes: int = CLASSES) -> None:
        super().__init__()
        self.stage_names = names
        for place, name in enumerate(names):
            before, after = (1 if place == 0 else 4 + place - 1), 4 + place
            stage = nn.Sequential(nn.Conv2d(before, after, 3, 1 + (place == 2), 1), nn.Softplus())
            self.add_module(name, stage)
        self.head = nn.Linear(4 + len(names) - 1, classes)

    def features(self, x):
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3))


RESNET = ("stem", "layer1", "layer2", "layer3", "layer4")
DIGITS = ("layer1", "layer2", "layer3")
COMPARED = {RESNET: (1, 4), DIGITS: (0, 2), ("only",): (0, 0)}
"""Stage names -> which of them must be compared."""


def staged_net(names=RESNET, classes=CLASSES, factor=6.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Stages(names, classes)
    with torch.no_grad():
        for name in names:
            model.get_submodule(name)[0].weight.mul_(factor if name != "stem" else 1.0)
    return model.eval().requires_grad_(False)


def part(counts=(20, 30, 10)):
    stream = np.random.default_rng(0)
    labels = stream.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    pixels = stream.integers(0, 256, (len(labels), *toys.SHAPE), dtype=np.uint8)
    return LoadedPart(Split(pixels=pixels, labels=labels), "cd" * 32)


TRAIN = part()


def images_in_turn(n=6, classes=CLASSES):
    """Images with many pixels at 0 and 1, so that unclamped steps leave the range."""
    x = images_at_the_border(n, toys.SHAPE, beyond=0.3)
    return x, torch.arange(n) % classes


def context_with_training_images(model, x, *, examples=None, seed=0, train=TRAIN):
    return context_on(model, x, seed=seed, sha256=toys.TOY_SHA256, examples=examples, train=train)


def run(name, model, x, y, *, eps=EPS, examples=None, seed=0, train=TRAIN, **params):
    attack = ATTACKS[name]
    threat = ThreatModel(kind=attack.threats[0], eps=eps if name == "nst_b" else None)
    oracle, ctx = context_with_training_images(model, x, examples=examples, seed=seed, train=train)
    return attack.run(oracle, x, y, threat, ctx=ctx, **{**attack.params, **params})


def by_sgd(model, image, style, steps=10, eps=None):
    """Every point of torch.optim.SGD on one image (1, c, h, w), projected to the ball where there is a budget."""

    def compared(point):
        outputs = []
        for name in model.stage_names:
            point = model.get_submodule(name)(point)
            outputs.append(point)
        return [outputs[place] for place in COMPARED[model.stage_names]]

    aims = [feature.detach() for feature in compared(style)]
    point = nn.Parameter(image.clone())
    optimizer = torch.optim.SGD([point], lr=0.1, momentum=0.9, weight_decay=5e-4)
    points = []
    for _ in range(steps):
        optimizer.zero_grad()
        sum(nn.functional.mse_loss(a, b) for a, b in zip(compared(point), aims, strict=True)).backward()
        optimizer.step()
        if eps is not None:
            with torch.no_grad():
                point.copy_(torch.maximum(torch.minimum(point, image + eps), image - eps).clamp(0, 1))
        points.append(point.detach().clone())
    return points


def styles(model, x, y):
    return style_images(context_with_training_images(model, x)[1], y, CLASSES)


@pytest.mark.parametrize("names", list(COMPARED), ids=["resnet", "digits", "single"])
def test_nst_ss_is_ten_steps_of_sgd_on_each_image_and_one_clamp(names):
    model = staged_net(names)
    x, y = images_in_turn()
    found = run("nst_ss", model, x, y)
    chosen = styles(model, x, y)
    runs = [by_sgd(model, x[row : row + 1], chosen[row : row + 1]) for row in range(len(x))]
    expected = torch.cat([points[-1] for points in runs])
    assert (found - expected.clamp(0, 1)).abs().max() < 1e-5
    assert (found - x).abs().flatten(1).amax(dim=1).min() > 0.01  # all of them went somewhere
    assert (expected - expected.clamp(0, 1)).abs().max() > 0.01  # the clamp had something to do
    one = slice(int((expected - x).abs().flatten(1).sum(dim=1).argmax()), None)
    on_the_way = by_sgd(model, x[one][:1], chosen[one][:1], eps=1.0)[-1]
    assert names == ("only",) or (on_the_way - expected[one][:1].clamp(0, 1)).abs().max() > 1e-4


@pytest.mark.parametrize("names", [RESNET, DIGITS], ids=["resnet", "digits"])
def test_nst_b_is_projected_after_each_step(names):
    model = staged_net(names)
    x, y = images_in_turn()
    result = run("nst_b", model, x, y)
    chosen = styles(model, x, y)
    runs = [by_sgd(model, x[row : row + 1], chosen[row : row + 1], eps=float(EPS)) for row in range(len(x))]
    assert (result.last - torch.cat([points[-1] for points in runs])).abs().max() < 1e-5
    at_end = torch.cat([by_sgd(model, x[:1], chosen[:1])[-1]]) - x[:1]
    assert (x[:1] + at_end.clamp(-float(EPS), float(EPS)) - result.last[:1]).abs().max() > 1e-4
    first = x.clone()
    for row, points in enumerate(runs):
        broken = [point for point in points if model(point).argmax() != y[row]]
        first[row] = broken[0][0] if broken else x[row]
    assert (result.any - first).abs().max() < 1e-5
    assert LINF.verify(x, result.last, float(EPS)).all()


def test_any_keeps_what_the_last_step_lost():
    """Class 0 only close to where each image is after five steps, class 1 everywhere else."""
    model = staged_net(DIGITS, classes=2)
    x, _ = images_in_turn()
    y = torch.ones(len(x), dtype=torch.int64)
    train = part((20, 30))
    chosen = style_images(context_with_training_images(model, x, train=train)[1], y, 2)
    passed = torch.cat([by_sgd(model, x[r : r + 1], chosen[r : r + 1], 5, float(EPS))[4] for r in range(len(x))])

    class Islands(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, images):
            near = (images.unsqueeze(1) - passed).flatten(2).norm(dim=2).amin(dim=1) < 1e-3
            return 0 * self.inner(images) + torch.stack([near.float(), torch.full(near.shape, 0.5)], dim=1)

    islands = Islands()
    result = run("nst_b", islands, x, y, train=train)
    assert (islands(result.last).argmax(dim=1) == y).all()
    assert (result.any - passed).abs().max() < 1e-5
    assert (islands(result.any).argmax(dim=1) != y).all()


def test_the_style_image_is_of_another_class_and_all_are_equally_likely():
    n, counts = 6000, (20, 30, 10)
    x = torch.zeros(n, 1, 1, 2)
    y = torch.arange(n) % 3
    pixels = np.arange(sum(counts), dtype=np.uint8)[:, None, None, None].repeat(2, axis=3)
    labels = np.repeat(np.arange(3), counts).astype(np.int64)
    train = LoadedPart(Split(pixels=pixels, labels=labels), "cd" * 32)
    chosen = style_images(context_with_training_images(staged_net(), x, train=train)[1], y, 3)
    place = (chosen[:, 0, 0, 0] * 255).round().long()
    drawn = torch.from_numpy(labels)[place]
    assert not (drawn == y).any()
    for label in range(3):
        others = torch.from_numpy(np.flatnonzero(labels != label))
        found = torch.bincount(place[y == label], minlength=len(labels))[others].double()
        expected = 2000 / len(others)
        chi2 = float(((found - expected).square() / expected).sum())
        freedom = len(others) - 1
        assert abs(chi2 - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(("draw", "expected"), [(-1.0, 0), (1 - 2.0**-23, -1)])
def test_the_extreme_draws_take_the_first_and_the_last_image(draw, expected, monkeypatch):
    monkeypatch.setattr(AttackContext, "noise", lambda self, purpose: torch.full((3, *toys.SHAPE), draw))
    y = torch.arange(3)
    x = torch.zeros(3, *toys.SHAPE)
    chosen = style_images(context_with_training_images(staged_net(), x)[1], y, CLASSES)
    for row in range(3):
        others = [label for label in range(3) if label != row]
        rows = np.flatnonzero(TRAIN.split.labels == others[expected])
        assert torch.equal(chosen[row], torch.from_numpy(TRAIN.split.pixels[rows[expected]]).float() / 255)


def test_the_style_image_depends_on_the_seed_and_the_example_only():
    model = staged_net()
    x, y = images_in_turn(6)
    whole = styles(model, x, y)
    order = [4, 1, 5]
    alone = style_images(context_with_training_images(model, x[order], examples=order)[1], y[order], CLASSES)
    assert torch.equal(alone, whole[order])
    other = style_images(context_with_training_images(model, x, seed=1)[1], y, CLASSES)
    assert not torch.equal(other, whole)


@pytest.mark.parametrize("name", ["nst_ss", "nst_b"])
def test_an_image_moves_as_if_it_were_alone(name):
    model = staged_net()
    x, y = images_in_turn(6)
    whole = run(name, model, x, y)
    whole = whole if name == "nst_ss" else whole.last
    order = [4, 1, 5]
    some = run(name, model, x[order], y[order], examples=order)
    some = some if name == "nst_ss" else some.last
    assert (some - whole[order]).abs().max() < 1e-6


def test_classes_without_training_images_are_passed_over():
    model = staged_net(classes=4)
    x, y = images_in_turn(6, classes=4)
    chosen = style_images(context_with_training_images(model, x, train=part((5, 0, 7, 0)))[1], y, 4)
    assert torch.isfinite(chosen).all()
    with pytest.raises(NotApplicable, match="one class"):
        style_images(context_with_training_images(model, x, train=part((5, 0, 0, 0)))[1], y, 4)


def test_a_model_without_stages_is_not_applicable():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).eval()
    x, y = images_in_turn()
    with pytest.raises(NotApplicable, match="stages"):
        run("nst_b", model, x, y)


def test_two_classes_and_a_wrapper_and_black_images():
    model = toys.Shifted(staged_net(DIGITS, classes=2), 5.0)
    x, y = torch.zeros(2, *toys.SHAPE), torch.tensor([0, 1])
    result = run("nst_b", model, x, y, train=part((5, 7)))
    assert LINF.verify(x, result.last, float(EPS)).all()
    assert (result.last != x).any()


def test_an_image_whose_gradient_is_not_finite_stands_still():
    class Blind(Stages):
        def features(self, x):
            bright = (x.mean(dim=(1, 2, 3), keepdim=True) > 0.9).float()
            return super().features(x / (1 - bright))

    model = staged_net(DIGITS)
    blind = Blind(DIGITS)
    blind.load_state_dict(model.state_dict())
    x, y = images_in_turn(3)
    x[1] = 0.999
    result = run("nst_b", blind.eval().requires_grad_(False), x, y)
    assert torch.isfinite(result.last).all()
    assert torch.equal(result.last[1], x[1])
    seeing = run("nst_b", model, x, y)
    assert torch.equal(result.last[[0, 2]], seeing.last[[0, 2]])


def test_judged_by_the_harness_nothing_is_refused_and_the_cost_is_counted():
    model = staged_net()
    x, y = images_in_turn(8)
    attack = ATTACKS["nst_b"]
    threat = ThreatModel(kind="linf", eps=EPS)
    judged = measured(
        attack, model, x, y, threat, attack.params, batch=8, sha256=toys.TOY_SHA256, supplies=Supplies(train=TRAIN)
    )
    assert judged.flags == {}
    # Every step looks at the features and at the answer; once, the style images, and one image for the classes.
    assert judged.forwards == 8 * 10 * 2 + 8 + 1


def test_no_step_is_refused():
    x, y = images_in_turn(2)
    with pytest.raises(UsageError, match="steps=0"):
        run("nst_ss", staged_net(), x, y, steps=0)
