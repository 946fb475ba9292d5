"""Alignment and exclusion against a count pair by pair with NumPy, on features that are the pixels themselves."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from harness.conformance import toys
from harness.data.dataset import LoadedPart, split_sha256
from harness.errors import NotApplicable
from harness.networks import Classifier
from harness.types import Split
from harness_ancra import distances
from support.analyses import analysis_context, quantities
from support.peers import PlannedAttack

PARAMS = {"attack": "pgd-10", "steps": 4, "step": 0.5}
EPS = 0.1


class Pixels(Classifier):
    """Features are the pixels; the head prefers the class whose pixel is the brightest."""

    stage_names = ()

    def __init__(self, classes=3):
        super().__init__()
        self.head = nn.Linear(4, classes, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(classes, 4))

    def features(self, x):
        return x.flatten(1)


class Peers:
    def __init__(self, craft):
        self.craft, self.asked = PlannedAttack(craft), []

    def attack(self, name, threat=None):
        self.asked.append(name)
        return self.craft

    def budget(self, kind):
        assert kind == "linf"
        return EPS


def context(n=14, classes=3, network=None, labels=None, craft=lambda model, x, y, examples: 1 - x):
    stream = np.random.default_rng(0)
    pixels = stream.integers(60, 190, (n, 1, 2, 2), dtype=np.uint8)
    split = Split(pixels=pixels, labels=stream.integers(0, classes, n) if labels is None else np.array(labels))
    network = (network or Pixels(classes)).eval().requires_grad_(False)
    return analysis_context(network, LoadedPart(split, split_sha256(split)), peers=Peers(craft))


def value(found, name):
    return found[name]["value"]


def cosine(a, b):
    return 1 - float(a @ b / np.sqrt((a @ a) * (b @ b)))


def length(a, b):
    return float(np.sqrt(((a - b) ** 2).sum()))


def targeted(x, target):
    """The closed form of descent on a linear model of pixels: the target's pixel up by eps, the other classes' down."""
    signs = np.array([1 if place == target else -1 if place < 3 else 0 for place in range(4)])
    return np.clip(x + EPS * signs, 0, 1)


@pytest.mark.parametrize(("kind", "measure"), [("cosine", cosine), ("l2", length)])
def test_every_pair_is_measured(kind, measure):
    ctx = context()
    found = quantities("feature_distances", ctx, **PARAMS)
    assert ctx.peers.asked == ["pgd-10"]
    x, y = (one.numpy().reshape(14, -1).squeeze() for one in ctx.images())
    x = x.astype(float)
    couples = list(itertools.combinations(range(14), 2))
    aims = [(int(label) + row % 2 + 1) % 3 for row, label in enumerate(y)]
    expected = {
        "alignment": [measure(a, 1 - a) for a in x],
        "exclusion": [measure(x[i], x[j]) for i, j in couples if y[i] != y[j]],
        "within": [measure(x[i], x[j]) for i, j in couples if y[i] == y[j]],
        "exclusion_attacked": [
            measure(a, targeted(b, aim)) for a, own in zip(x, y, strict=True)
            for b, aim in zip(x, aims, strict=True) if aim == own
        ],
    }  # fmt: skip
    for name, values in expected.items():
        for what, number in {
            "mean": np.mean(values), "min": np.min(values), "max": np.max(values), "variance": np.var(values),
        }.items():  # fmt: skip
            quantity = found[f"{name}_{kind}_{what}"]
            assert quantity["n"] == len(values)
            assert quantity["value"] == pytest.approx(number, rel=1e-4, abs=1e-7), f"{name} {what}"
        if kind == "cosine":
            counts, edges = np.histogram(values, bins=20, range=(0, 2))
            seen = [value(found, f"{name}_cosine_from_{edge:.1f}") for edge in edges[:-1]]
            assert seen == pytest.approx(100 * counts / len(values))
    ratio = np.mean(expected["alignment"]) / np.mean(expected["exclusion"])
    assert value(found, f"{kind}_ratio") == pytest.approx(ratio, rel=1e-4)


def test_targets_are_other_classes_and_all_of_them():
    y = torch.arange(5).repeat(40)
    found = distances.targets(y, list(range(200)), 5)
    assert not (found == y).any()
    counts = torch.zeros(5, 5, dtype=torch.long).index_put_((y, found), torch.ones(200, dtype=torch.long), True)
    assert (counts > 0).sum() == 20
    assert distances.targets(torch.tensor([0, 1]), [0, 7], 2).tolist() == [1, 0]


def test_pieces_change_nothing():
    values = torch.rand(1000, dtype=torch.float64) * 1e-3 + 1.5
    whole, pieces = distances.Spread("cosine"), distances.Spread("cosine")
    whole.add(values)
    for piece in values.split([1, 0, 700, 299]):
        pieces.add(piece)
    told = [{name: q.value for name, q in spread.quantities().items()} for spread in (whole, pieces)]
    assert told[0] == pytest.approx(told[1], rel=1e-9)
    assert told[0]["variance"] == pytest.approx(float(values.var(correction=0)), rel=1e-9)


def test_one_label_leaves_no_pair_of_classes():
    found = quantities("feature_distances", context(labels=[1] * 14), **PARAMS)
    assert found["exclusion_l2_mean"] == {"value": None, "n": 0, "unit": "l2"}
    assert value(found, "cosine_ratio") is None
    assert found["within_l2_mean"]["n"] == 14 * 13 / 2


def test_an_attack_that_changes_nothing_leaves_all_aligned():
    found = quantities("feature_distances", context(craft=lambda model, x, y, examples: x), **PARAMS)
    assert value(found, "alignment_l2_max") == 0
    assert value(found, "l2_ratio") == 0
    assert value(found, "alignment_cosine_from_0.0") == 100


def test_other_networks_do_not_apply():
    with pytest.raises(NotApplicable, match="penultimate features"):
        quantities("feature_distances", context(network=nn.Sequential(nn.Flatten(), nn.Linear(4, 3))), **PARAMS)
    with pytest.raises(NotApplicable, match="no other class"):
        quantities("feature_distances", context(classes=1), **PARAMS)


def test_reverse_attention_is_looked_at_through_its_mask():
    """The features of ANCRA's network are those that its head sees."""
    from harness_ancra.reverse_attention import extend

    network = extend(toys.tiny_net(), shape=toys.SHAPE, classes=4)
    test = toys.toy_part(n=12, seed=5)
    ctx = analysis_context(
        network.eval().requires_grad_(False), test, peers=Peers(lambda model, x, y, examples: 1 - x)
    )  # fmt: skip
    found = quantities("feature_distances", ctx, **PARAMS)
    x, _ = ctx.images()
    expected = (network.features(x).double() - network.features(1 - x).double()).norm(dim=1)
    assert value(found, "alignment_l2_mean") == pytest.approx(float(expected.mean()))
