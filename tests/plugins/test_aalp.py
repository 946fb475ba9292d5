"""harness_aalp against autograd and against sections 7 and 8 of the method sheet, written out sample by sample."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.api import InnerAttack
from harness.conformance import toys
from harness.networks import Classifier
from harness.registry.names import default_value
from harness_aalp import harness_defenses
from harness_aalp.guided_dropout import contribution, keep_mask
from harness_aalp.step import matching
from harness_baselines import harness_defenses as baselines
from support.training import PreparedContext, toy_recipe, training_context

DEFENSES = {defense.name: defense for defense in [*harness_defenses(), *baselines()]}
B, D, K = 6, 13, 3


class Small(Classifier):
    """Batch norm and dead features before a linear head; remembers the features it last handed over."""

    stage_names = ("layer1",)

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Flatten(), nn.Linear(64, D), nn.BatchNorm1d(D), nn.ReLU())
        self.head = nn.Linear(D, K)
        self.seen: list[torch.Tensor] = []

    def features(self, x):
        found = self.layer1(x)
        if found.requires_grad:
            found.retain_grad()
        self.seen.append(found)
        return found


def small(seed: int = 0) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Small()
        with torch.no_grad():
            model.head.weight.mul_(4)
    return model.train()


def attacked_batch(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    x = torch.rand(B, *toys.SHAPE, generator=stream)
    x_adv = (x + 0.6 * (2 * torch.rand(x.shape, generator=stream) - 1)).clamp(0, 1)
    return x, torch.tensor([0, 1, 2, 0, 1, 1]), x_adv


def loss_of(name, model, x, y, ctx, **given) -> torch.Tensor:
    params = {key: default_value(value) for key, value in DEFENSES[name].params.items()}
    assert given.keys() <= params.keys()
    return DEFENSES[name].step(model, x, y, ctx, **{**params, **given})


# --- the loss, by hand -----------------------------------------------------------------------------------------------


def softmax(z: torch.Tensor) -> list[torch.Tensor]:
    powers = [torch.exp(value - z.max().detach()) for value in z]
    return [power / sum(powers) for power in powers]


def hand_contribution(features, logits, labels, weight, of="loss") -> list[list[float]]:
    """|slope * A|, the slope being dCE/dA of the mean cross-entropy, or that of the true logit, class by class."""
    found, w = [], weight.tolist()
    for a, z, label in zip(features.tolist(), logits, labels, strict=True):
        p = [float(value) for value in softmax(z.detach())]
        residual = [(p[k] - (k == label)) / len(labels) if of == "loss" else float(k == label) for k in range(K)]
        slope = [sum(residual[k] * w[k][j] for k in range(K)) for j in range(D)]
        found.append([abs(slope[j] * a[j]) for j in range(D)])
    return found


def hand_mask(scores: list[list[float]], rows: str = "both") -> list[float]:
    """The better half by the mean over the rows that count; what is equal goes in the order of the features."""
    counted = {"both": scores, "clean": scores[: len(scores) // 2], "adv": scores[len(scores) // 2 :]}[rows]
    mean = [sum(row[j] for row in counted) / len(counted) for j in range(D)]
    best = sorted(range(D), key=lambda j: (-mean[j], j))[: math.ceil(D / 2)]
    return [float(j in best) for j in range(D)]


def hand_loss(
    model, x, y, x_adv, *, version, alpha=1.0, beta=0.6, gd=True, sw=True, reduction="mean", classification="mean",
    gd_scale=1.0, gd_rows="both", gd_per="batch", gd_of="loss", partner=None,
) -> tuple[torch.Tensor, list[list[float]] | None]:  # fmt: skip
    """Sections 7 and 8 in loops; everything detached there is a Python number here."""
    labels = [*y.tolist(), *y.tolist()]
    features = model.layer1(torch.cat([x, x_adv]))
    weight, bias = model.head.weight, model.head.bias
    logits = [weight @ a + bias for a in features]
    confidence = [float(softmax(logits[i].detach())[labels[i]]) for i in range(B)]
    mask = None
    if gd:
        scores = hand_contribution(features, logits, labels, weight, gd_of)
        if gd_per == "batch":
            mask = [hand_mask(scores, gd_rows)] * (2 * B)
        else:
            mask = [hand_mask([scores[i], scores[B + i]], gd_rows) for i in range(B)] * 2
        logits = [weight @ (torch.tensor(m) * a * gd_scale) + bias for m, a in zip(mask, features, strict=True)]
    ce = [-torch.log(softmax(z)[label]) for z, label in zip(logits, labels, strict=True)]
    loss = sum(ce) / (2 * B) if classification == "mean" else sum(ce[:B]) / B + sum(ce[B:]) / B
    for i in range(B):
        squares = [(logits[i][k] - logits[B + i][k]) ** 2 for k in range(K)]
        pair = sum(squares) / (K if reduction == "mean" else 1)
        loss = loss + alpha * (confidence[i] if sw else 1.0) * pair / B
    if version == 1 and sw:
        u = [(logits[i] + logits[B + i]) / 2 for i in range(B)]
        for i, j in enumerate(partner):
            cosine = sum(u[i] * u[j]) / (sum(u[i] ** 2).sqrt() * sum(u[j] ** 2).sqrt())
            loss = loss + beta * (1 if labels[i] == labels[j] else -1) * (1 - cosine) / B
    return loss, mask


CASES = [
    {"version": 2},
    {"version": 2, "gd": False},
    {"version": 2, "sw": False},
    {"version": 2, "gd": False, "sw": False},
    {"version": 2, "alpha": 0.25},
    {"version": 2, "reduction": "sum"},
    {"version": 2, "classification": "sum"},
    {"version": 2, "gd_scale": 2.0},
    {"version": 2, "gd_rows": "clean"},
    {"version": 2, "gd_rows": "adv"},
    {"version": 2, "gd_per": "sample"},
    {"version": 2, "gd_per": "sample", "gd_rows": "clean"},
    {"version": 2, "gd_of": "logit"},
    {"version": 1},
    {"version": 1, "gd": False},
    {"version": 1, "sw": False},
    {"version": 1, "beta": 0.1, "alpha": 2.0},
    {"version": 1, "reduction": "sum", "classification": "sum", "gd_scale": 2.0},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: ",".join(f"{k}={v}" for k, v in case.items()))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_and_its_gradient_are_those_of_the_method_sheet(case, seed):
    model, (x, y, x_adv) = small(seed), attacked_batch(seed + 1)
    torch.manual_seed(11)
    partner = torch.randperm(B).tolist()
    twin = copy.deepcopy(model)
    expected, _ = hand_loss(twin, x, y, x_adv, **case, partner=partner)
    expected.backward()
    torch.manual_seed(11)
    found = loss_of("aalp", model, x, y, PreparedContext(x_adv), **case)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4), name


def test_the_cases_of_the_loss_test_are_different_losses():
    found = set()
    for case in CASES:
        losses = []
        for seed in range(4):
            x, y, x_adv = attacked_batch(seed)
            loss, _ = hand_loss(small(seed), x, y, x_adv, **case, partner=[1, 0, 3, 4, 5, 2])
            losses.append(round(loss.item(), 6))
        found.add(tuple(losses))
    # Only version 1 without sample weighting is version 2 without it: Matching ALP is part of the weighting.
    assert len(found) == len(CASES) - 1


@pytest.mark.parametrize(("ablation", "same_as"), [("aalp_gd", {"sw": False}), ("aalp_sw", {"gd": False})])
@pytest.mark.parametrize("version", [1, 2])
def test_the_ablations_are_aalp_with_one_part(ablation, same_as, version):
    x, y, x_adv = attacked_batch()
    losses = []
    for name, given in ((ablation, {}), ("aalp", same_as)):
        torch.manual_seed(3)
        losses.append(loss_of(name, small(), x, y, PreparedContext(x_adv), version=version, **given))
    assert torch.equal(*losses)
    if ablation == "aalp_sw" and version == 1:
        torch.manual_seed(3)
        assert not torch.equal(losses[0], loss_of(ablation, small(), x, y, PreparedContext(x_adv), version=2))


@pytest.mark.parametrize("n", [32, 29])
def test_without_its_parts_aalp_is_adversarial_logit_pairing(n):
    part = toys.toy_part(n=n)
    recipe = toy_recipe(inner=InnerAttack(steps=3))
    ctx = training_context(recipe, step=0.05, train=part, validation=part)
    x, y = part.batch(slice(0, n), ctx.device)
    found = []
    for name, given in (("aalp", {"gd": False, "sw": False}), ("alp", {"weight": 1.0})):
        model = toys.tiny_net().train()
        torch.manual_seed(5)
        loss = loss_of(name, model, x, y, ctx, **given)
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_the_confidence_carries_no_gradient():
    model, (x, y, x_adv) = small(), attacked_batch()
    twin = copy.deepcopy(model)
    case = {"version": 2, "gd": False, "alpha": 1000.0}
    loss_of("aalp", model, x, y, PreparedContext(x_adv), **case).backward()
    with_gradient = twin.head(twin.features(torch.cat([x, x_adv])))
    clean, adversarial = with_gradient.chunk(2)
    weight = clean.softmax(1).gather(1, y[:, None])[:, 0]
    pair = (clean - adversarial).square().mean(1)
    classification = F.cross_entropy(with_gradient, y.repeat(2))
    for detached in (True, False):
        twin.zero_grad()
        confidence = weight.detach() if detached else weight
        (classification + 1000.0 * (confidence * pair).mean()).backward(retain_graph=True)
        same = torch.allclose(model.head.weight.grad, twin.head.weight.grad, rtol=1e-4, atol=1e-3)
        assert same == detached


def test_the_defaults_are_those_of_the_ambiguity_ledger():
    ledger = {
        "version": 2, "alpha": 1.0, "beta": 0.6, "gd": True, "sw": True, "reduction": "mean", "classification": "mean",
        "gd_rows": "both", "gd_per": "batch", "gd_ties": "rank", "gd_scale": 1.0, "gd_of": "loss",
    }  # fmt: skip
    for name, parts in (("aalp", {}), ("aalp_gd", {"sw": False}), ("aalp_sw", {"gd": False})):
        assert {key: default_value(value) for key, value in DEFENSES[name].params.items()} == ledger | parts
    for name in ("raw_gd", "pgd_at_gd"):
        own = {key: default_value(value) for key, value in DEFENSES[name].params.items()}
        assert own == {key: ledger[key] for key in ("gd_per", "gd_ties", "gd_scale", "gd_of")}


# --- Guided Dropout --------------------------------------------------------------------------------------------------


def head_problem(dtype, n=8, d=9, k=4, seed=0):
    stream = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=stream).relu().to(dtype)
    head = nn.Linear(d, k).to(dtype)
    with torch.no_grad():
        head.weight.copy_(torch.randn(k, d, generator=stream))
        head.bias.copy_(torch.randn(k, generator=stream))
    return features, head, torch.randint(0, k, (n,), generator=stream)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of", ["loss", "logit"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_contribution_is_autograds(dtype, of, seed):
    features, head, labels = head_problem(dtype, seed=seed)
    features.requires_grad_(True)
    logits = head(features)
    loss = (
        nn.CrossEntropyLoss()(logits, labels)
        if of == "loss"
        else sum(z[y] for z, y in zip(logits, labels, strict=True))
    )
    (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
    before = logits.detach().clone()
    found = contribution(features, logits, labels, head.weight, of=of)
    assert found.dtype == dtype
    assert not found.requires_grad
    assert torch.allclose(found, (gradient * features).detach().abs(), atol=1e-7, rtol=1e-5 if of == "logit" else 0)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("d", [1, 2, 7, 8, 64])
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_exactly_the_better_half_is_kept(d, per):
    scores = torch.rand(6, d, generator=torch.Generator().manual_seed(d))
    mask = keep_mask(scores, per=per)
    assert mask.shape == ((1, d) if per == "batch" else (6, d))
    assert set(mask.flatten().tolist()) <= {0.0, 1.0}
    assert (mask.sum(dim=1) == math.ceil(d / 2)).all()
    if per == "batch":
        mean = scores.double().mean(dim=0).tolist()
        kept = [value for value, keep in zip(mean, mask[0].tolist(), strict=True) if keep]
        dropped = [value for value, keep in zip(mean, mask[0].tolist(), strict=True) if not keep]
        assert min(kept) >= max(dropped, default=0.0)


def test_ties_keep_the_first_features():
    assert keep_mask(torch.ones(2, 5)).tolist() == [[1, 1, 1, 0, 0]]
    assert keep_mask(torch.tensor([[1.0, 3, 1, 1, 3, 1], [1, 3, 1, 1, 3, 1]])).tolist() == [[1, 1, 0, 0, 1, 0]]
    assert keep_mask(torch.zeros(2, 1001)).tolist() == [[1.0] * 501 + [0.0] * 500]


def test_with_most_features_dead_the_live_ones_are_kept():
    scores = torch.zeros(4, 9)
    scores[:, 3], scores[:, 8] = 0.5, 0.1
    assert keep_mask(scores).tolist() == [[1, 1, 1, 1, 0, 0, 0, 0, 1]]
    # The literal formula of version 1: the median is 0, so every dead feature gets half.
    assert keep_mask(scores, ties="half").tolist() == [[0.5, 0.5, 0.5, 1, 0.5, 0.5, 0.5, 0.5, 1]]


@pytest.mark.parametrize("d", [4, 5])
def test_ties_half_is_the_formula_of_version_1(d):
    scores = torch.rand(4, d, generator=torch.Generator().manual_seed(0))
    mean = scores.mean(dim=0).tolist()
    median = sorted(mean)[(d - 1) // 2]  # the lower middle element, a library median
    literal = [(math.copysign(1, r - median) * (r != median) + 1) / 2 for r in mean]
    assert keep_mask(scores, ties="half").tolist() == [literal]
    assert literal.count(0.5) == 1


def test_rows_choose_whose_contribution_counts():
    clean, adversarial = torch.tensor([[9.0, 0, 1, 2], [9, 0, 1, 2]]), torch.tensor([[0.0, 9, 2, 1], [0, 9, 2, 1.5]])
    scores = torch.cat([clean, adversarial])
    assert keep_mask(scores, rows="clean").tolist() == [[1, 0, 0, 1]]
    assert keep_mask(scores, rows="adv").tolist() == [[0, 1, 1, 0]]
    assert keep_mask(scores, rows="both").tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("rows", ["both", "clean", "adv"])
def test_one_mask_for_each_sample_is_the_same_on_both_branches(rows):
    scores = torch.rand(10, 8, generator=torch.Generator().manual_seed(2))
    clean, adversarial = keep_mask(scores, rows=rows, per="sample").chunk(2)
    assert torch.equal(clean, adversarial)
    assert len({tuple(row) for row in clean.tolist()}) > 1
    for i, row in enumerate(clean.tolist()):
        counted = {"both": scores[i] + scores[5 + i], "clean": scores[i], "adv": scores[5 + i]}[rows].tolist()
        best = sorted(range(8), key=lambda j, counted=counted: -counted[j])[:4]
        assert row == [float(j in best) for j in range(8)]


def test_dropped_features_and_their_columns_take_no_gradient():
    model, (x, y, x_adv) = small(), attacked_batch()
    _, (mask, *_) = hand_loss(copy.deepcopy(model), x, y, x_adv, version=2)
    loss_of("aalp", model, x, y, PreparedContext(x_adv)).backward()
    dropped = [j for j in range(D) if not mask[j]]
    kept = [j for j in range(D) if mask[j]]
    (features,) = model.seen  # one pass of the backbone for the union of clean and adversarial
    assert features.shape == (2 * B, D)
    assert len(dropped) == D // 2
    # No gradient through the mask: a differentiable mask would reach the dropped columns through the scores.
    assert (model.head.weight.grad[:, dropped] == 0).all()
    assert (features.grad[:, dropped] == 0).all()
    live = [j for j in kept if bool((features[:, j] > 0).any())]
    assert (model.head.weight.grad[:, live].abs().sum(dim=0) > 0).all()


@pytest.mark.parametrize("name", ["aalp", "pgd_at_gd"])
def test_guided_dropout_is_off_when_the_network_is_attacked_and_deployed(name):
    model, (x, y, x_adv) = small(), attacked_batch()
    asked = []

    class Watching(PreparedContext):
        def perturb(self, model, x, y, loss=None, **changes):
            asked.append(model(x).detach())
            return super().perturb(model, x, y)

    twin = copy.deepcopy(model)
    loss_of(name, model, x, y, Watching(x_adv))
    assert torch.equal(asked[0], twin(x))
    assert DEFENSES[name].wrap is None


# --- Guided Dropout alone --------------------------------------------------------------------------------------------


def hand_single(model, x, y, *, gd_per="batch", gd_ties="rank", gd_scale=1.0, gd_of="loss") -> torch.Tensor:
    """Section 7.2 on one batch of one kind of images: the mean cross-entropy of the trimmed logits, row by row."""
    features, weight, bias = model.layer1(x), model.head.weight, model.head.bias
    scores = hand_contribution(features, [weight @ a + bias for a in features], y.tolist(), weight, gd_of)
    loss = 0
    for i, a in enumerate(features):
        rows = scores if gd_per == "batch" else [scores[i]]
        mean = [sum(row[j] for row in rows) / len(rows) for j in range(D)]
        median = sorted(mean)[(D - 1) // 2]
        halves = [1.0 if r > median else 0.5 if math.isclose(r, median, rel_tol=1e-6) else 0.0 for r in mean]
        mask = halves if gd_ties == "half" else hand_mask([mean])
        z = weight @ (a * torch.tensor(mask) * gd_scale) + bias
        loss = loss - torch.log(softmax(z)[y[i]]) / len(y)
    return loss


SINGLE = [
    {},
    {"gd_per": "sample"},
    {"gd_ties": "half"},
    {"gd_scale": 2.0},
    {"gd_of": "logit"},
    {"gd_per": "sample", "gd_of": "logit", "gd_scale": 2.0},
]


@pytest.mark.parametrize("name", ["raw_gd", "pgd_at_gd"])
@pytest.mark.parametrize("case", SINGLE, ids=lambda case: ",".join(f"{k}={v}" for k, v in case.items()))
@pytest.mark.parametrize("n", [B, 3])
def test_guided_dropout_alone_trains_the_trimmed_network(name, case, n):
    model, (x, y, x_adv) = small(), attacked_batch()
    x, y, x_adv = x[:n], y[:n], x_adv[:n]
    twin = copy.deepcopy(model)
    expected = hand_single(twin, x if name == "raw_gd" else x_adv, y, **case)
    expected.backward()
    found = loss_of(name, model, x, y, PreparedContext(x_adv), **case)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for (which, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4), which
    assert len(model.seen) == 1  # one pass of the backbone, over the images of the loss alone
    assert torch.equal(model.layer1[2].running_mean, twin.layer1[2].running_mean)


def test_the_cases_of_guided_dropout_alone_are_different_losses():
    x, y, _ = attacked_batch()
    losses = [hand_single(small(), x, y, **case).item() for case in SINGLE]
    plain = loss_of("raw", small(), x, y, PreparedContext(x)).item()
    assert min(abs(a - b) for i, a in enumerate([plain, *losses]) for b in [plain, *losses][:i]) > 1e-4


def test_an_ablation_and_guided_dropout_alone_choose_the_same_features():
    """Without pairing, `aalp` of two equal halves is `raw_gd`: one code trims for all."""
    model, (x, y, _) = small(), attacked_batch()
    alone = loss_of("raw_gd", copy.deepcopy(model), x, y, PreparedContext(x))
    paired = loss_of("aalp", copy.deepcopy(model), x, y, PreparedContext(x))
    assert alone.item() == pytest.approx(paired.item(), rel=1e-6)


# --- Matching ALP ----------------------------------------------------------------------------------------------------


def test_matching_of_self_pairs_is_zero(monkeypatch):
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: torch.arange(n))
    assert matching(z, z + 0.5, torch.arange(5)).abs() <= 1e-6


def test_matching_reaches_both_ends_of_its_range_and_no_further(monkeypatch):
    u = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 2.0, -0.5]])
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: torch.arange(n).flip(0))
    assert matching(u, u, torch.tensor([1, 1])).item() == pytest.approx(2)
    assert matching(u, u, torch.tensor([0, 1])).item() == pytest.approx(-2)
    stream = torch.Generator().manual_seed(0)
    for _ in range(50):
        z, y = 10 * torch.randn(8, 3, generator=stream), torch.randint(0, 3, (8,), generator=stream)
        assert -2 - 1e-6 <= matching(z, -z.flip(0), y) <= 2 + 1e-6
