"""The analyses behind AALP's figures against closed forms, brute force, and snapshots of the very training."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from harness.conformance import toys
from harness.conformance.analyses import UNPROTECTED
from harness.conformance.toy_training import DATASET, RECIPE, toy_context, toy_network, train_toy
from harness.errors import NotApplicable, UsageError
from harness.networks import Classifier
from harness.registry.discovery import discover
from harness.training.loop import group
from harness.training.peers import Peers as Installed
from harness_aalp import confidence_scatter, feature_contribution, grad_cam_area
from support.analyses import analysis_context, quantities
from support.tables import Peers, brighter, context_of_tables

SHARES = range(10, 100, 10)


class Pooled(Classifier):
    """One linear map, averaged, and a head: everything about its Grad-CAM is a closed form."""

    stage_names = ("layer1",)

    def __init__(self, channels=3, classes=4, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer1 = nn.Conv2d(1, channels, 1)
            self.head = nn.Linear(channels, classes)

    def features(self, x):
        return self.layer1(x).mean(dim=(2, 3))


def frozen(network):
    return network.eval().requires_grad_(False)


def context(network, n=20, craft=None, seed=5, **changes):
    """A network with toy images, under an attack that a test says."""
    return analysis_context(
        frozen(network), toys.toy_part(n=n, seed=seed), peers=Peers(craft or brighter(20)), **changes
    )


def images_of(ctx):
    x, y = ctx.images()
    return {"clean": x, "adversarial": x + 20 / 255}, y


def value(found, name):
    return found[name]["value"]


@pytest.mark.parametrize(
    ("percent", "most", "least"), [(10, 1, 1), (20, 1, 2), (50, 1, 3), (60, 2, 4), (80, 2, 4), (90, 3, 4)]
)
def test_needed_features_by_hand(percent, most, least):
    shares = torch.tensor([0.1, 0.5, 0.3, 0.1], dtype=torch.float64)
    assert feature_contribution.needed(shares, percent) == most
    assert feature_contribution.needed(shares, percent, ascending=True) == least


def test_needed_features_are_the_fewest_of_all_subsets():
    amounts = np.random.default_rng(0).dirichlet(np.ones(8))
    shares = torch.from_numpy(amounts)
    for percent in SHARES:
        enough = [
            len(chosen) for size in range(1, 9) for chosen in itertools.combinations(amounts, size)
            if sum(chosen) >= percent / 100
        ]  # fmt: skip
        assert feature_contribution.needed(shares, percent) == min(enough)


def test_equal_features_and_a_single_one_are_the_ends():
    equal, single = torch.full((10,), 0.1, dtype=torch.float64), torch.eye(10, dtype=torch.float64)[3]
    for percent in SHARES:
        assert feature_contribution.needed(equal, percent) == percent // 10, "rounding of a sum is no feature"
        assert feature_contribution.needed(equal, percent, ascending=True) == percent // 10
        assert feature_contribution.needed(single, percent) == 1
        assert feature_contribution.needed(single, percent, ascending=True) == 10
    assert feature_contribution.effective(equal) == pytest.approx(10)
    assert feature_contribution.effective(single) == pytest.approx(1)
    assert feature_contribution.gini(equal) == pytest.approx(0, abs=1e-12)
    assert feature_contribution.gini(single) == pytest.approx(0.9)


def test_gini_is_the_mean_difference_over_twice_the_mean():
    shares = np.random.default_rng(1).dirichlet(np.ones(7))
    expected = np.abs(shares[:, None] - shares[None]).mean() / (2 * shares.mean())
    assert feature_contribution.gini(torch.from_numpy(shares)) == pytest.approx(expected)


@pytest.mark.parametrize("of", ["loss", "logit"])
def test_contributions_are_those_of_each_image_by_autograd(of):
    """More images than a batch, of which the last is smaller: every image counts alike."""
    network = toys.tiny_net()
    ctx = context(network, n=270)
    found = quantities("feature_contribution", ctx, attack="pgd-7", of=of)
    assert ctx.peers.asked == ["pgd-7"]
    sides, y = images_of(ctx)
    for kind, x in sides.items():
        features = network.features(x).double().requires_grad_(True)
        logits = nn.functional.linear(features, network.head.weight.double(), network.head.bias.double())
        goal = -logits.log_softmax(1) if of == "loss" else logits
        (gradient,) = torch.autograd.grad(goal[torch.arange(len(y)), y].sum(), features)
        amounts = (gradient * features).abs().mean(dim=0).detach()
        ordered = sorted((amounts / amounts.sum()).tolist(), reverse=True)
        for percent in SHARES:
            sums = np.cumsum(ordered)
            assert value(found, f"{kind}_features_for_{percent}") == int(np.argmax(sums >= percent / 100)) + 1
            rising = np.cumsum(ordered[::-1])
            fewest = int(np.argmax(rising >= percent / 100)) + 1
            assert value(found, f"{kind}_features_for_{percent}_ascending") == fewest
        assert value(found, f"{kind}_effective_features") == pytest.approx(
            math.exp(-sum(share * math.log(share) for share in ordered if share))
        )
        assert value(found, f"{kind}_share_of_features_for_90") == pytest.approx(
            100 * value(found, f"{kind}_features_for_90") / 128
        )
    assert value(found, "features") == 128
    assert found["clean_gini"]["n"] == 270


def test_a_network_without_contribution_has_no_numbers():
    network = toys.tiny_net()
    nn.init.zeros_(network.head.weight)
    found = quantities("feature_contribution", context(network), attack="fgsm", of="loss")
    assert value(found, "clean_features_for_50") is None
    assert value(found, "adversarial_gini") is None


@pytest.mark.parametrize("name", ["feature_contribution", "grad_cam_area", "contribution_course"])
def test_a_network_without_features_does_not_apply(name):
    plain = context(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), training=toy_context(UNPROTECTED))
    asked = {
        "feature_contribution": {"of": "loss"}, "grad_cam_area": {"variant": "aalp", "sign": -1, "level": 0.5},
        "contribution_course": {"of": "loss", "every": 1},
    }[name]  # fmt: skip
    with pytest.raises(NotApplicable, match="penultimate features"):
        quantities(name, plain, attack="fgsm", **asked)


@pytest.mark.parametrize("sign", [-1, 1])
def test_aalps_map_of_a_pooled_network_is_the_closed_form(sign):
    network = Pooled()
    x, y = toys.toy_part(n=6).batch(np.arange(6), torch.device("cpu"))
    z = network.layer1(x).double()
    residual = network(x).double().softmax(1) - nn.functional.one_hot(y, 4)
    slope = residual @ network.head.weight.double() / 64
    expected = (sign * slope[:, :, None, None] * z).sum(1).clamp(min=0).detach()
    found = grad_cam_area.cam(frozen(network), x, y, variant="aalp", sign=sign)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-9)
    assert float(expected.max()) > 0


def test_the_standard_map_of_a_pooled_network_is_the_class_activation_map():
    """Zhou et al. 2016: with averaged features, Grad-CAM is the head's weights over the map, up to the pool's size."""
    network = Pooled()
    x, y = toys.toy_part(n=6).batch(np.arange(6), torch.device("cpu"))
    z = network.layer1(x).double()
    expected = torch.einsum("nc,nchw->nhw", network.head.weight.double()[y], z).clamp(min=0).detach() / 64
    found = grad_cam_area.cam(frozen(network), x, y, variant="standard", sign=-1)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-9)
    assert float(expected.max()) > 0


def test_the_map_is_that_of_the_last_stage():
    """The stages of the toy give maps of 8 x 8 and of 4 x 4."""
    found = quantities(
        "grad_cam_area", context(toys.tiny_net()), attack="fgsm", variant="aalp", sign=-1, level=0.5
    )  # fmt: skip
    assert value(found, "map_size") == 16


def test_areas_by_hand():
    size = torch.Size([2, 2])
    maps = torch.tensor([[[0, 1], [0.6, 0.5]], [[2, 2], [2, 2]], [[0, 0], [0, 0]], [[5, 7], [5, 5]]]).double()
    found = grad_cam_area.area(maps, size, 0.5)
    assert found[[0, 3]].tolist() == [0.5, 0.25], "half of the most is not above half; the least is the bottom"
    assert found[[1, 2]].isnan().all()
    assert grad_cam_area.area(maps[:1], size, 0.4).tolist() == [0.75]


def test_a_small_map_is_enlarged_linearly():
    """A step from 0 to 1, enlarged fourfold: 0, 0, 1/8, 3/8, 5/8, 7/8, 1, 1."""
    step = torch.tensor([[[0.0, 1.0]]]).double()
    found = [float(grad_cam_area.area(step, torch.Size([3, 8]), level)) for level in (0.05, 0.2, 0.5, 0.8, 0.95)]
    assert found == [6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8]


def test_areas_are_averaged_over_images_that_have_one():
    """The map is the image itself where the class has weight 1, and nothing where it has none."""
    network = Pooled(channels=1)
    with torch.no_grad():
        network.layer1.weight.fill_(1)
        network.layer1.bias.zero_()
        network.head.weight.copy_(torch.tensor([[1.0], [1.0], [0.0], [1.0]]))

    def craft(model, x, y, examples):
        marked = torch.zeros_like(x)
        marked[:, :, 0] = 1
        return marked

    ctx = context(network, n=12, craft=craft)
    found = quantities("grad_cam_area", ctx, attack="pgd-3", variant="standard", sign=-1, level=0.5)
    x, y = ctx.images()
    expected = []
    for image in x[y != 2][:, 0]:
        low, high = image.min(), image.max()
        expected.append(float(((image - low) / (high - low) > 0.5).double().mean()))
    assert ctx.peers.asked == ["pgd-3"]
    assert value(found, "adversarial_area") == pytest.approx(100 / 8)
    assert found["clean_area"] == {"value": pytest.approx(100 * np.mean(expected)), "n": 9, "unit": "%"}
    assert value(found, "clean_flat_maps") == value(found, "adversarial_flat_maps") == pytest.approx(25)
    assert value(found, "smaller_when_attacked") == pytest.approx(100 * np.mean(np.array(expected) > 1 / 8))
    assert value(found, "map_size") == 64


CONFIDENCES = [(0.95, 0.9), (0.91, 0.4), (0.55, 0.5), (0.3, 0.6), (0.35, 0.2)]
"""Of class 0 among two: right and right, right and wrong, right and wrong (a tie is class 0), wrong and so on."""


def scatter_of(confidences, **params):
    rows = [[math.log(p), math.log(1 - p)] for side in zip(*confidences, strict=True) for p in side]
    ctx = context_of_tables(rows, [0] * len(confidences), len(confidences))
    return quantities("confidence_scatter", ctx, **{"attack": "pgd-10", "points": 0, **params})


def test_the_cloud_by_hand():
    found = scatter_of(CONFIDENCES)
    x, y = (100 * np.array(side) for side in zip(*CONFIDENCES, strict=True))
    assert value(found, "all_distance") == pytest.approx(np.abs(x - y).mean(), rel=1e-5)
    assert value(found, "all_near_diagonal") == pytest.approx(40)
    assert value(found, "all_below_diagonal") == pytest.approx(80)
    assert value(found, "all_correlation") == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-5)
    assert found["inconsistent_distance"] == {"value": pytest.approx(51, rel=1e-5), "n": 1, "unit": "points"}
    assert value(found, "inconsistent_correlation") is None
    assert found["wrong_when_clean_near_diagonal"] == {"value": 0.0, "n": 2, "unit": "%"}


def test_bins_cover_every_image_and_have_numpys_quantiles():
    drawn = np.random.default_rng(2).uniform(0.01, 0.99, (120, 2))
    found = scatter_of([tuple(pair) for pair in drawn])
    x, y = 100 * drawn.T
    for low in range(0, 100, 10):
        inside = y[(x >= low) & (x < low + 10)]
        name = f"clean_{low:02d}_to_{low + 10}"
        assert value(found, f"{name}_images") == len(inside)
        for quantile in (10, 50, 90):
            assert value(found, f"{name}_attacked_q{quantile}") == pytest.approx(
                np.percentile(inside, quantile), rel=1e-4
            )
    assert sum(value(found, f"clean_{low:02d}_to_{low + 10}_images") for low in range(0, 100, 10)) == 120


def test_full_confidence_is_in_the_last_bin_and_empty_bins_have_no_quantile():
    ctx = context_of_tables([[1e4, 0.0], [1e4, 0.0]], [0], 1)
    found = quantities("confidence_scatter", ctx, attack="pgd-10", points=0)
    assert value(found, "clean_90_to_100_images") == 1
    assert value(found, "clean_90_to_100_attacked_q50") == 100
    assert value(found, "clean_00_to_10_attacked_q50") is None
    assert value(found, "consistent_correlation") is None


def test_points_are_told_image_by_image():
    found = scatter_of(CONFIDENCES, points=2)
    told = {name: value(found, name) for name in found if name.startswith("image_")}
    assert told == {
        "image_00000_clean": pytest.approx(95, rel=1e-5), "image_00000_attacked": pytest.approx(90, rel=1e-5),
        "image_00001_clean": pytest.approx(91, rel=1e-5), "image_00001_attacked": pytest.approx(40, rel=1e-5),
    }  # fmt: skip


def test_correlation_needs_two_columns_that_vary():
    one = torch.tensor([1.0, 2.0, 3.0])
    assert confidence_scatter.correlation(one, 5 - 2 * one) == pytest.approx(-1)
    assert confidence_scatter.correlation(one, torch.ones(3)) is None
    assert confidence_scatter.correlation(one[:1], one[:1]) is None


@pytest.fixture(scope="module")
def training():
    """The saved states of a toy training, and what an analysis of its network is handed."""
    states = []
    network = frozen(train_toy(UNPROTECTED, states)[2])
    test = toys.toy_part(n=48, seed=5)
    peers = Installed(
        registry=discover(), dataset=DATASET, data_sha256=test.sha256, seed=0, uses=None,
        network_of=lambda name, eps: network, train=toys.toy_part,
    )  # fmt: skip
    ctx = analysis_context(
        network, test, peers=peers, training=toy_context(UNPROTECTED), step=UNPROTECTED.step,
        untrained=partial(toy_network, UNPROTECTED),
    )  # fmt: skip
    return states, ctx


def at_epoch(training, epoch):
    """What an analysis is handed of the network as it was after an epoch."""
    states, ctx = training
    network = toys.tiny_net()
    network.load_state_dict(group(states[epoch - 1].tensors, "model"))
    return analysis_context(frozen(network), ctx.test, peers=ctx.peers)


BATCHES = 96 // RECIPE.batch


def test_the_course_of_contributions_is_measured_on_the_networks_on_the_way(training):
    found = quantities("contribution_course", training[1], every=BATCHES, attack="pgd-10", of="loss")
    for epoch in range(1, RECIPE.epochs + 1):
        then = at_epoch(training, epoch)
        own = quantities("feature_contribution", then, attack="pgd-10", of="loss")
        own |= quantities("grad_cam_area", then, attack="pgd-10", variant="aalp", sign=-1, level=0.5)
        suffix = f"_at_step_{epoch * BATCHES:06d}"
        seen = {name.removesuffix(suffix): q for name, q in found.items() if name.endswith(suffix)}
        assert {"clean_features_for_90", "adversarial_effective_features", "clean_area"} <= set(seen)
        assert {name: own[name] for name in seen} == seen
    assert value(found, "same_weights") == 1
    assert value(found, "steps") == RECIPE.epochs * BATCHES


def test_the_last_network_is_looked_at_whatever_the_distance(training):
    found = quantities("contribution_course", training[1], every=10000, attack="fgsm", of="loss")
    looks = {name[-6:] for name in found if "_at_step_" in name}
    assert looks == {f"{RECIPE.epochs * BATCHES:06d}"}
    found = quantities("pairing_course", training[1], every=2, attack="fgsm")
    assert {name[-3:] for name in found if "_at_epoch_" in name} == {"002", "003"}


def test_the_course_of_pairing_puts_images_where_they_end(training):
    found = quantities("pairing_course", training[1], every=1, attack="pgd-10")
    x, y = training[1].images()
    logits = {}
    for epoch in range(1, RECIPE.epochs + 1):
        then = at_epoch(training, epoch)
        x_adv = then.attack("pgd-10")(then.model, x, y, list(range(48)))
        logits[epoch] = then.model(x).double(), then.model(x_adv).double()
    right, still = (one.argmax(1) == y for one in logits[RECIPE.epochs])
    members = {"consistent": right & still, "inconsistent": right & ~still}
    assert all(chosen.any() for chosen in members.values()), "a training in which something is left to see"
    robust = {}
    for epoch, (clean, attacked) in logits.items():
        for name, chosen in members.items():
            expected = ((clean - attacked)[chosen] ** 2).mean().item()
            assert value(found, f"{name}_alp_loss_at_epoch_{epoch:03d}") == pytest.approx(expected, rel=1e-6)
        losses = [-one.log_softmax(1)[torch.arange(48), y].mean().item() for one in (clean, attacked)]
        assert value(found, f"loss_at_epoch_{epoch:03d}") == pytest.approx(sum(losses), rel=1e-6)
        robust[epoch] = 100 * (attacked.argmax(1) == y).double().mean().item()
        assert value(found, f"adversarial_accuracy_at_epoch_{epoch:03d}") == pytest.approx(robust[epoch])
        clean_accuracy = 100 * (clean.argmax(1) == y).double().mean().item()
        assert value(found, f"clean_accuracy_at_epoch_{epoch:03d}") == pytest.approx(clean_accuracy)
    first = min(epoch for epoch, accuracy in robust.items() if accuracy >= 0.95 * robust[RECIPE.epochs])
    assert value(found, "epochs_to_95_percent") == first
    assert value(found, "same_weights") == 1


@pytest.mark.parametrize("name", ["pairing_course", "contribution_course"])
def test_a_course_needs_a_training_and_a_distance(training, name):
    asked = {"attack": "fgsm", **({"of": "loss"} if name == "contribution_course" else {})}
    with pytest.raises(NotApplicable, match="weights were given"):
        quantities(name, at_epoch(training, 1), every=1, **asked)
    with pytest.raises(UsageError, match="every=0 must be at least 1"):
        quantities(name, training[1], every=0, **asked)
