"""The variants of harness_gradient against foolbox, torchattacks, SciPy, closed forms and brute force."""

import csv
import functools
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.api import UsageError
from harness.evaluation.context import AttackContext
from harness.ops import norm
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.planning.selection import groups
from harness.registry.discovery import discover
from harness.registry.names import resolve
from harness.types import ThreatModel
from harness_gradient import harness_attacks
from harness_gradient.balls import offsets, project_l2, unit
from harness_gradient.published import CIFAR_DEVIATIONS
from harness_gradient.targets import objective, target_classes
from harness_gradient.transfer import diversify, gaussian, kernel_size, smooth
from support.attacks import (
    Crafted,
    Times,
    context_on,
    conv_net,
    crafted,
    images_at_the_border,
    labels_of,
    misclassified,
    resolved,
    unit_noise,
)
from support.measure import KINDS

ATTACKS = {attack.name: attack for attack in harness_attacks()}
VARIANTS = ("pgd_l2", "pgd_t-40", "pgd_grid-40", "pgd_rescaled-40", "pgd_eot-40", "mi_fgsm", "dim", "ti_dim")
PUBLISHED = ("fgsm_ss", "bim_ss", "fgsm_rs", "cw_inf_20_batchsum", "mi_fgsm_tpap")
N = 16  # a power of two, so that the mean and the sum of the losses have gradients of the same bits, scaled
EPS, STEP = Fraction(1, 4), Fraction(1, 16)


@functools.cache
def net(channels: int = 1, size: int = 8, classes: int = 5, seed: int = 0) -> nn.Module:
    return conv_net((channels, size, size), classes, seed)


class Bands(nn.Module):
    """Class 0 nearly everywhere, others in narrow bands: steps jump over them, and step size and target matter."""

    def __init__(self, frequency: float = 1.0) -> None:
        super().__init__()
        self.direction = nn.Parameter(frequency * torch.randn(64, 3, generator=torch.Generator().manual_seed(0)))
        self.eval().requires_grad_(False)

    def forward(self, x):
        waves = torch.sin(x.flatten(1) @ self.direction)
        return 10 * torch.cat([torch.full_like(waves[:, :1], 0.95), waves], dim=1)


class Linear(nn.Module):
    """Two classes; class 1 wins along `weight` (c, h, w)."""

    def __init__(self, weight: torch.Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias
        self.eval().requires_grad_(False)

    def forward(self, x):
        score = (x * self.weight).flatten(1).sum(dim=1) + self.bias
        return torch.stack([-score / 2, score / 2], dim=1)


class InTurn(nn.Module):
    """Answers with one model after the other, over and over."""

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        self.models, self.asked = nn.ModuleList(models), 0

    def forward(self, x):
        self.asked += 1
        return self.models[(self.asked - 1) % len(self.models)](x)


class Silent(nn.Module):
    """The answers of a model, with gradients that are exactly zero, or NaN."""

    def __init__(self, model: nn.Module, nan: bool = False) -> None:
        super().__init__()
        self.model, self.nan = model, nan

    def forward(self, x):
        nothing = 0 * x.flatten(1).sum(dim=1, keepdim=True)
        return self.model(x.detach()) + (nothing.sqrt() if self.nan else nothing)


@functools.cache
def images(model: nn.Module, shape: tuple[int, int, int] = (1, 8, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that touch 0 and 1, labelled by the model, one in eight wrongly."""
    x = images_at_the_border(N, shape)
    return x, labels_of(model, x)


def inner(shape: tuple[int, int, int] = (1, 8, 8), n: int = N) -> torch.Tensor:
    """Images so far inside [0, 1] that no budget of 1/4 leaves it."""
    return 0.4 + 0.2 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(2))


def run(name, model, x, y, *, eps=EPS, **params) -> Crafted:
    """Call an attack the way the harness does, with a step of 1/16 where the dataset's is asked for."""
    given = {key: params.pop(key) for key in ("noise", "examples", "surrogate") if key in params}
    attack = ATTACKS[name]
    values = resolved(attack, resolve("attack", name, attack.params, params), STEP)
    kind = attack.threats[0]
    threat = ThreatModel(kind=kind, eps=None if kind == "unbounded" else eps)
    return crafted(attack, model, x, y, threat, values, **given)


def context(x: torch.Tensor) -> AttackContext:
    return context_on(net(), x)[1]


def wrong(model, x, y) -> list[bool]:
    return misclassified(model, x, y).tolist()


def foolbox_pgd(foolbox, model, x, y, steps, *, norm="linf", eps=EPS, step=STEP, start=None, targets=None, loss=None):
    """foolbox's PGD from `start` (n, c, h, w), against `loss(logits, y or targets)` (n,) instead of cross-entropy."""
    import eagerpy

    kinds = {"linf": "LinfProjectedGradientDescentAttack", "l2": "L2ProjectedGradientDescentAttack"}

    class Attack(getattr(foolbox.attacks, kinds[norm])):
        def get_random_start(self, x0, epsilon):
            return eagerpy.astensor(start)

        def get_loss_fn(self, model, labels):
            if loss is None:
                return super().get_loss_fn(model, labels)
            return lambda inputs: eagerpy.astensor(loss(model(inputs).raw, labels.raw).sum())

    attack = Attack(abs_stepsize=float(step), steps=steps, random_start=start is not None)
    criteria = foolbox.criteria
    criterion = criteria.Misclassification(y) if targets is None else criteria.TargetedMisclassification(targets)
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack.run(bounded, x, criterion, epsilon=float(eps))


def worst_of(model, y, ends: list[torch.Tensor]) -> torch.Tensor:
    """For each image the first of the ends that is misclassified, else the first end; one image at a time."""
    chosen = ends[0].clone()
    for row, label in enumerate(y.tolist()):
        chosen[row] = next((end[row] for end in ends if model(end)[row].argmax() != label), ends[0][row])
    return chosen


# --- what exists stays as it was ------------------------------------------------------------------------------------


def test_the_digits_board_was_measured_with_the_parameters_that_attacks_have_today():
    board = Path(__file__).parents[2] / "leaderboards" / "digits-linf" / "records.jsonl"
    seen = set()
    for line in board.read_text().splitlines():
        identity = json.loads(line).get("identity", {})
        if identity.get("attack_origin") != "harness_gradient" or identity["attack"] not in ATTACKS:
            continue
        attack = ATTACKS[identity["attack"]]
        assert identity["params"].keys() == attack.params.keys(), attack.name
        assert identity["attack_revision"] == attack.revision, attack.name
        seen.add(attack.name)
    assert {"clean", "fgsm", "bim", "iter_ll10", "pgd-100", "cw_inf-100"} <= seen


@pytest.mark.parametrize(("name", "plain"), [("pgd_rescaled-40", "pgd-40"), ("pgd_eot-40", "pgd-40")])
def test_variants_switched_off_are_the_engine_bit_for_bit(name, plain):
    x, y = images(Bands())
    off = {"logits": "plain", "eot": 1}
    ours, engine = run(name, Bands(), x, y, **off), run(plain, Bands(), x, y)
    assert torch.equal(ours.last, engine.last)
    assert torch.equal(ours.any, engine.any)
    assert (ours.oracle.forwards, ours.oracle.backwards) == (engine.oracle.forwards, engine.oracle.backwards)
    assert not torch.equal(ours.last, ours.any)


# --- suites ----------------------------------------------------------------------------------------------------------


def members(suite: str) -> dict[str, dict]:
    return {name: params for name, attack in ATTACKS.items() for group, params in groups(attack) if group == suite}


def test_suites():
    family = [f"{loss}-{steps}" for loss in ("pgd", "cw_inf") for steps in (10, 20, 40, 100)]
    assert set(members("all")) == {"clean", "fgsm", "bim", "iter_ll10", *family, "mi_fgsm", "ti_dim"}
    assert set(members("transfer")) == {"dim", "ti_dim"}
    assert set(members("l2")) == {"pgd_l2"}
    assert all(ATTACKS[name].cost <= 40 for name in members("fast"))
    assert not {group for name in PUBLISHED for group, _ in groups(ATTACKS[name])} & {"all", "linf", "fast"}
    assert all(ATTACKS[name].as_published == (name in PUBLISHED) for name in ATTACKS)
    cheapest_first = sorted(ATTACKS.values(), key=lambda attack: attack.cost)
    assert [attack.name for attack in cheapest_first[:2]] == ["clean", "fgsm"]
    assert all(attack.cost < 1000 for attack in ATTACKS.values())


def test_suites_of_papers_have_the_printed_settings():
    assert members("paper:tpap") == {
        "clean": {}, "fgsm": {}, "pgd-20": {"step": Fraction(3, 1000)}, "pgd-100": {"step": Fraction(7, 10000)},
        "mi_fgsm_tpap": {},
    }  # fmt: skip
    assert members("paper:ancra") == {
        "clean": {}, "fgsm_rs": {}, "pgd-40": {"step": Fraction(7, 1000)}, "cw_inf_20_batchsum": {},
    }  # fmt: skip
    assert set(members("paper:simple-structure")) == {"clean", "fgsm_ss", "bim_ss"}


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "svhn"])
@pytest.mark.parametrize(("suite", "others"), [
    ("paper:tpap", {"fwa_tpap": "wasserstein_unclamped:8/255", "ddn_tpap": "l2:1/2", "cw_l2_advertorch10": "l2:1/2",
                    "sta_tpap": "unbounded", "clean": "none"}),
    ("paper:ancra", {"clean": "none"}),
])  # fmt: skip
def test_suites_of_papers_run_at_the_budgets_of_their_scripts(dataset, suite, others):
    """TPAP, TEST_other_attack.py: 8/255 for all linf attacks and FWA; TPAP_SVHN/ has 8/255 and 0.031, never 12/255."""
    cells = plan(Request(defenses=["raw"], attacks=[suite], dataset=dataset), discover()).cells
    found = {cell.attack: str(cell.threat) for cell in cells}
    assert {name: threat for name, threat in found.items() if threat != "linf:8/255"} == others
    assert len(found) - len(others) == {"paper:tpap": 5, "paper:ancra": 4}[suite]


@pytest.mark.parametrize(("dataset", "eps"), [("mnist", "3/10"), ("svhn", "12/255"), ("cifar10", "8/255")])
def test_suites_of_aalp_run_at_the_printed_budget_of_each_dataset(dataset, eps):
    cells = plan(Request(defenses=["raw"], attacks=["paper:aalp-v2"], dataset=dataset), discover()).cells
    assert {str(cell.threat) for cell in cells} == {"none", f"linf:{eps}"}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_suites_of_aalp_have_every_attack_of_its_tables(version, shared):
    printed = set()
    for table in (shared / "papers").glob(f"aalp_{version}_*.csv"):
        with table.open(encoding="utf-8") as lines:
            printed |= {row["attack"] for row in csv.DictReader(lines) if row["metric"] == "accuracy"}
    ours = {"pgd": "pgd-", "cw": "cw_inf-"}
    translated = {
        next((ours[kind] + name.removeprefix(kind) for kind in ours if name.startswith(kind)), name) for name in printed
    }
    suite = members(f"paper:aalp-{version}")
    assert set(suite) == translated
    assert all(params == ({"kappa": 50} if name.startswith("cw") else {}) for name, params in suite.items())


# --- momentum --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16)])
@pytest.mark.parametrize("step", [None, Fraction(1, 12)])
def test_mi_fgsm_is_torchattacks_mi_fgsm(torchattacks, shape, step):
    model = net(shape[0], shape[1])
    x, y = images(model, shape)
    ours = run("mi_fgsm", model, x, y, **({} if step is None else {"step": step}))
    alpha = float(EPS) / 10 if step is None else float(step)
    theirs = torchattacks.MIFGSM(model, eps=float(EPS), alpha=alpha, steps=10, decay=1.0)(x, y)
    assert torch.equal(ours.last, theirs)
    forgetful = torchattacks.MIFGSM(model, eps=float(EPS), alpha=alpha, steps=10, decay=0.0)(x, y)
    assert not torch.equal(forgetful, theirs)  # the momentum matters
    assert (ours.oracle.forwards, ours.oracle.backwards) == (10 * N, 10 * N)


def test_mi_fgsm_keeps_the_first_broken_iterate(torchattacks):
    model = Bands()
    x, y = images(model)
    how = {"eps": float(EPS), "alpha": float(EPS) / 10, "decay": 1.0}
    points = [x, *(torchattacks.MIFGSM(model, steps=steps, **how)(x, y) for steps in range(1, 10))]
    expected = x.clone()
    for row, label in enumerate(y.tolist()):
        expected[row] = next((point[row] for point in points if model(point)[row].argmax() != label), x[row])
    found = run("mi_fgsm", model, x, y)
    assert torch.equal(found.any, expected)
    assert wrong(model, found.any, y) != wrong(model, found.last, y)


@pytest.mark.parametrize("nan", [False, True])
def test_one_useless_gradient_stops_torchattacks_mi_fgsm_and_not_ours(torchattacks, nan):
    x, y = inner(), torch.zeros(N, dtype=torch.long)
    model = Linear(torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(5)), bias=-10.0)

    def hiccup():
        return InTurn(model, model, Silent(model, nan), *[model] * 7)

    theirs = torchattacks.MIFGSM(hiccup(), eps=float(EPS), alpha=float(EPS) / 10, steps=10)(x, y)
    sign = model.weight.sign()
    assert torch.allclose(theirs, x + 2 / 10 * float(EPS) * sign)  # frozen after two of ten steps
    ours = run("mi_fgsm", hiccup(), x, y).last
    assert torch.allclose(ours, x + float(EPS) * sign)


# --- transfer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [3, 7, 15])
def test_ti_dim_without_diversity_is_torchattacks_ti_fgsm(torchattacks, kernel):
    model = net(3, 16)
    x, y = images(model, (3, 16, 16))
    ours = run("ti_dim", net(3, 16, seed=9), x, y, surrogate=model, probability=0.0, kernel=kernel)
    theirs = torchattacks.TIFGSM(
        model, eps=float(EPS), alpha=float(EPS) / 10, steps=10, decay=1.0, len_kernel=kernel, diversity_prob=0.0
    )(x, y)
    assert (ours.last - theirs).abs().amax() <= 2e-7
    plain = torchattacks.MIFGSM(model, eps=float(EPS), alpha=float(EPS) / 10, steps=10)(x, y)
    assert not torch.equal(plain, theirs)  # the kernel matters


@pytest.mark.parametrize("name", ["dim", "ti_dim"])
def test_transfer_attacks_see_the_surrogate_only(name):
    target, surrogate = net(seed=3), net()
    x, y = images(surrogate)
    crafted = run(name, target, x, y, surrogate=surrogate)
    assert list(crafted.asked) == [f"step:{done}" for done in range(10)]
    assert (crafted.oracle.forwards, crafted.oracle.backwards) == (0, 0)
    other = run(name, net(seed=4), x, y, surrogate=surrogate)
    assert torch.equal(crafted.last, other.last)
    assert not torch.equal(crafted.last, run(name, target, x, y, surrogate=net(seed=5)).last)
    quiet = {"probability": 0.0} | ({"kernel": 1} if name == "ti_dim" else {})
    plain = run(name, target, x, y, surrogate=surrogate, **quiet).last
    assert torch.equal(plain, run("mi_fgsm", surrogate, x, y).last)
    assert not torch.equal(plain, crafted.last)


def test_transfer_attacks_need_a_surrogate_and_ask_no_target_for_gradients():
    for name, attack in ATTACKS.items():
        transfers = name in ("dim", "ti_dim")
        assert attack.needs == (("surrogate",) if transfers else ())
        assert attack.access == ("decision" if transfers or name == "clean" else "gradient")


@pytest.mark.parametrize("name", ["dim", "ti_dim"])
def test_transfer_attacks_climb_away_from_the_true_or_the_predicted_labels(name):
    surrogate = net()
    x, y = images(surrogate)
    predicted = surrogate(x).argmax(dim=1)
    assert not torch.equal(y, predicted)
    true = run(name, net(seed=3), x, y, surrogate=surrogate).last
    parity = run(name, net(seed=3), x, y, surrogate=surrogate, labels="predicted").last
    assert torch.equal(parity, run(name, net(seed=3), x, predicted, surrogate=surrogate).last)
    assert not torch.equal(parity, true)


@pytest.mark.parametrize("name", ["dim", "ti_dim", "pgd_l2", "pgd_t-40", "pgd_grid-40", "mi_fgsm"])
def test_the_result_of_an_example_does_not_depend_on_its_place_in_the_batch(name):
    model = net()
    x, y = images(model)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(9))
    how = {"surrogate": net(seed=7), "eps": Fraction(1, 8)}
    straight = run(name, model, x, y, **how).last
    shuffled = run(name, model, x[order], y[order], examples=order.tolist(), **how).last
    assert torch.equal(shuffled, straight[order])


def test_a_random_target_does_not_depend_on_the_place_in_the_batch():
    model = net()
    x, y = images(model)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(9))
    straight = run("pgd_t-40", model, x, y, target="random").last
    shuffled = run("pgd_t-40", model, x[order], y[order], examples=order.tolist(), target="random").last
    assert torch.equal(shuffled, straight[order])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 12, 20)])
@pytest.mark.parametrize("pad", [0.0, 0.5])
def test_diversity_is_nearest_resizing_and_padding_by_torch(shape, pad):
    n = 64
    stream = torch.Generator().manual_seed(3)
    x = torch.rand(n, *shape, generator=stream)
    uniform = torch.rand(n, 4, generator=stream)
    found = diversify(x, uniform, 0.7, 330 / 299, pad)
    changed = 0
    for row, (coin, size, top, left) in enumerate(uniform.tolist()):
        expected = x[row : row + 1]
        if coin < 0.7:
            changed += 1
            full = [math.ceil(Fraction(330, 299) * side) for side in shape[1:]]
            drawn = [side + math.floor(size * (whole - side)) for side, whole in zip(shape[1:], full, strict=True)]
            free = [whole - side for side, whole in zip(drawn, full, strict=True)]
            before = [math.floor(share * (room + 1)) for share, room in zip((top, left), free, strict=True)]
            after = [room - some for some, room in zip(before, free, strict=True)]
            padding = [before[1], after[1], before[0], after[0]]
            large = F.pad(F.interpolate(expected, size=drawn, mode="nearest"), padding, value=pad)
            assert list(large.shape[2:]) == full
            expected = F.interpolate(large, size=shape[1:], mode="nearest")
        assert torch.equal(found[row : row + 1], expected), row
    assert n // 2 < changed < n
    assert sum(not torch.equal(a, b) for a, b in zip(found, x, strict=True)) > changed // 3


def test_diversity_enlarges_32_pixels_to_36_and_299_to_330():
    for length, full in ((32, 36), (299, 330), (8, 9), (28, 31)):
        x = torch.ones(400, 1, length, 4)
        uniform = torch.rand(400, 4, generator=torch.Generator().manual_seed(4))
        kept = diversify(x, uniform, 1.0, 330 / 299, 0.0)[:, 0].amax(dim=2).sum(dim=1) / length
        # As many pixels show the image as its enlargement covers of the padded one.
        assert abs(kept.min() - length / full) <= 1 / length, length
        assert abs(kept.max() - (full - 1) / full) <= 1 / length, length


def test_the_smoothing_window_is_the_outer_product_of_normal_densities():
    stats = pytest.importorskip("scipy.stats")
    for size, nsig in ((3, 3.0), (11, 3.0), (15, 3.0), (15, 2.0)):
        density = stats.norm.pdf(np.linspace(-nsig, nsig, size))
        expected = np.outer(density, density) / np.outer(density, density).sum()
        assert np.abs(gaussian(size, nsig).numpy() - expected).max() <= 1e-15
    assert [kernel_size(height) for height in (8, 28, 32, 96, 224, 299)] == [3, 3, 3, 5, 11, 15]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 12)])
def test_smoothing_is_the_convolution_of_every_channel_by_scipy(shape):
    signal = pytest.importorskip("scipy.signal")
    gradient = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    window = gaussian(5, 3.0)
    found = smooth(gradient, window.float())
    for image, smoothed in zip(gradient.numpy(), found.numpy(), strict=True):
        for channel, answer in zip(image, smoothed, strict=True):
            assert np.abs(signal.convolve2d(channel, window.numpy(), mode="same") - answer).max() <= 1e-6


def test_an_even_kernel_is_refused():
    x, y = images(net())
    with pytest.raises(UsageError, match="odd"):
        run("ti_dim", net(), x, y, surrogate=net(), kernel=4)


# --- l2 --------------------------------------------------------------------------------------------------------------


def l2_noise(x: torch.Tensor) -> dict[str, torch.Tensor]:
    normal = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    return {"start:0": normal, "start:0:radius": unit_noise(7, x)}


def l2_start(x: torch.Tensor, noise: dict[str, torch.Tensor], eps: float) -> torch.Tensor:
    """Uniform in the ball: a normal direction, and a radius whose d-th power is uniform; one image at a time."""
    begin = x.clone()
    for row in range(len(x)):
        direction = noise["start:0"][row].double()
        share = (noise["start:0:radius"][row].flatten()[0].double() + 1) / 2
        radius = share ** (1 / direction.numel())
        begin[row] = (x[row].double() + eps * radius * direction / direction.square().sum().sqrt()).float()
    return begin.clamp(0, 1)


@pytest.mark.parametrize("steps", [1, 40])
def test_pgd_l2_is_foolbox_l2_pgd_from_that_start(foolbox, steps):
    model = net()
    x, y = images(model)
    eps, step, noise = Fraction(1), Fraction(1, 8), l2_noise(x)
    begin = l2_start(x, noise, 1.0)
    assert (norm(begin - x, 2) > 0.3).all()
    ours = run("pgd_l2", model, x, y, steps=steps, eps=eps, step=step, noise=noise)
    theirs = foolbox_pgd(foolbox, model, x, y, steps, norm="l2", eps=eps, step=step, start=begin)
    assert (ours.last - theirs).abs().amax() <= 2e-5
    assert wrong(model, ours.last, y) == wrong(model, theirs, y)
    assert steps == 1 or 0 < sum(wrong(model, theirs, y)) < N


@pytest.mark.parametrize("start", ["none", "uniform"])
def test_pgd_l2_is_torchattacks_pgd_l2_from_that_start(torchattacks, monkeypatch, start):
    model = net()
    x, y = images(model)
    noise = l2_noise(x)
    radius = ((noise["start:0:radius"].flatten(1)[:, 0].double() + 1) / 2) ** (1 / 64)
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self: self.copy_(noise["start:0"]))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(radius.view(self.shape)))
    theirs = torchattacks.PGDL2(model, eps=1.0, alpha=0.125, steps=20, random_start=start == "uniform")(x, y)
    monkeypatch.undo()
    ours = run("pgd_l2", model, x, y, steps=20, eps=Fraction(1), step=Fraction(1, 8), noise=noise, start=start)
    assert (ours.last - theirs).abs().amax() <= 2e-5


def test_pgd_l2_on_a_linear_model_ends_where_the_weights_point():
    weight = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(5))
    x, y = inner((3, 8, 8)), torch.zeros(N, dtype=torch.long)
    found = run("pgd_l2", Linear(weight, bias=-20.0), x, y, eps=Fraction(1, 4), step=Fraction(1, 4)).last
    assert (found - (x + 0.25 * weight / weight.square().sum().sqrt())).abs().amax() <= 1e-6


def test_the_l2_start_is_uniform_in_the_ball():
    n = 2000
    x = torch.zeros(n, 1, 2, 3)
    drawn = offsets("l2", context(x), 0).double().flatten(1)
    radius = norm(drawn, 2)
    filled = radius.pow(6).sort().values  # the share of the ball's volume within that radius
    assert (filled - torch.linspace(0, 1, n, dtype=torch.float64)).abs().amax() < 0.045
    assert radius.amax() <= 1 + 1e-6
    direction = drawn / radius.unsqueeze(1)
    assert direction.mean(dim=0).abs().amax() < 0.08
    assert (direction.T @ direction / n - torch.eye(6, dtype=torch.float64) / 6).abs().amax() < 0.03
    assert abs(direction.pow(4).mean() - 3 / 48) < 0.005  # on the sphere; directions into a cube's corners have less
    both = torch.corrcoef(torch.stack([filled * 0 + radius, *drawn.abs().T / radius]))
    assert both[0, 1:].abs().amax() < 0.15  # the radius does not come from the bits of a direction
    assert not torch.equal(drawn, offsets("l2", context(x), 1).double().flatten(1))


def test_the_l2_projection_is_exact_on_large_images():
    stream = torch.Generator().manual_seed(0)
    x = torch.rand(8, 3, 224, 224, generator=stream)
    for eps in (1e-3, 0.5, 30.0):
        point = project_l2(x, eps)(x + eps * torch.randn(x.shape, generator=stream))
        assert KINDS["l2"].verify(x, point, eps).all()
        assert ((point >= 0) & (point <= 1)).all()
    inside = project_l2(inner(), 1.0)(inner() + 0.01)
    assert torch.equal(inside, inner() + 0.01)


def test_directions_have_length_one_whatever_the_size_of_the_gradient():
    gradient = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([1e-36, 1e-20, 1.0, 1e20, 1e36]).view(-1, 1, 1, 1)
    found = unit(sizes * gradient)
    assert (found - gradient / gradient.square().sum().sqrt()).abs().amax() <= 1e-6
    assert torch.equal(unit(torch.zeros(1, 1, 4, 4)), torch.zeros(1, 1, 4, 4))
    broken = gradient.clone()
    broken[0, 0, 0, 0] = float("nan")
    assert torch.isfinite(unit(broken)).all()


# --- targets ---------------------------------------------------------------------------------------------------------


def ranked(model, x, y) -> torch.Tensor:
    """The other classes of each image, the likeliest first (n, k - 1)."""
    logits = model(x).tolist()
    return torch.tensor([
        sorted((k for k in range(len(z)) if k != label), key=lambda k, z=z: -z[k])
        for z, label in zip(logits, y.tolist(), strict=True)
    ])  # fmt: skip


def gap(y):
    """How far the target is below the true class: foolbox descends it."""
    return lambda logits, target: logits.gather(1, y[:, None])[:, 0] - logits.gather(1, target[:, None])[:, 0]


@pytest.mark.parametrize("loss", ["margin", "ce"])
@pytest.mark.parametrize("most", [1, 2, 9])
def test_each_target_is_the_worst_of_separate_targeted_runs_of_foolbox(foolbox, loss, most):
    model = Bands()
    x, y = images(model)
    how = {"eps": Fraction(1, 16), "step": Fraction(1, 40)}
    noise = unit_noise(3, x)
    start = x + float(how["eps"]) * noise
    own = gap(y) if loss == "margin" else None
    ends = [
        foolbox_pgd(foolbox, model, x, y, 12, start=start, targets=target, loss=own, **how)
        for target in ranked(model, x, y).unbind(dim=1)[:most]
    ]
    ours = run("pgd_t-40", model, x, y, steps=12, loss=loss, targets=most, noise={"start:0": noise}, **how)
    assert torch.equal(ours.last, worst_of(model, y, ends))
    if most > 1:
        assert not torch.equal(ours.last, ends[0])  # a less likely class succeeds where the likeliest does not


def test_a_class_out_of_reach_hides_no_other_class_from_targets():
    class Decoy(nn.Module):
        """Class 1 comes near and never passes class 0; class 2 is far below and passes it on another way."""

        def forward(self, x):
            bright, dark = x[:, 0, :4].flatten(1).mean(dim=1), 1 - x[:, 0, 4:].flatten(1).mean(dim=1)
            zero = torch.zeros_like(bright)
            return torch.stack([zero, -0.1 - 0.1 / (1 + bright.exp()), -1 + 2 * dark - 2 * bright], dim=1)

    x = torch.full((4, 1, 8, 8), 0.5) + 0.01 * torch.arange(4).view(-1, 1, 1, 1)
    y = torch.zeros(4, dtype=torch.long)
    assert not any(wrong(Decoy(), x, y))
    how = {"eps": Fraction(2, 5), "step": Fraction(1, 25)}
    untargeted, targeted = run("cw_inf-40", Decoy(), x, y, **how), run("pgd_t-40", Decoy(), x, y, **how)
    assert not any(wrong(Decoy(), untargeted.last, y) + wrong(Decoy(), untargeted.any, y))
    assert all(wrong(Decoy(), targeted.last, y))


def test_with_two_classes_the_only_target_is_the_margin():
    model = net(classes=2)
    x, y = images(model)
    how = {"eps": Fraction(1, 32), "step": Fraction(1, 128)}
    targeted, margin = run("pgd_t-40", model, x, y, **how), run("cw_inf-40", model, x, y, **how)
    assert torch.equal(targeted.last, margin.last)
    assert torch.equal(targeted.any, margin.any)
    assert 0 < sum(wrong(model, margin.last, y)) < N


def test_targets_never_are_the_true_class_and_random_ones_are_uniform():
    n, k = 3000, 5
    stream = torch.Generator().manual_seed(0)
    logits, y = torch.randn(n, k, generator=stream), torch.randint(0, k, (n,), generator=stream)
    ctx = context(torch.zeros(n, 1, 1, 1))
    drawn = target_classes(logits, y, "random", 9, ctx).squeeze(1)
    assert (drawn != y).all()
    shift = torch.bincount((drawn - y) % k, minlength=k)
    assert shift[0] == 0
    assert ((shift[1:] - n / 4).abs() < 5 * math.sqrt(n * 3 / 16)).all()
    least = target_classes(logits, y, "least_likely", 9, ctx).squeeze(1).tolist()
    each = target_classes(logits, y, "each", 9, ctx).tolist()
    for z, label, lowest, order in zip(logits.tolist(), y.tolist(), least, each, strict=True):
        expected = sorted((c for c in range(k) if c != label), key=lambda c, z=z: -z[c])
        assert order == expected
        assert lowest == expected[-1]
    assert target_classes(logits, y, "each", 2, ctx).shape == (n, 2)
    assert target_classes(logits[:, :2], y % 2, "each", 9, ctx).squeeze(1).tolist() == (1 - y % 2).tolist()
    assert target_classes(logits[:, :2], y % 2, "random", 9, ctx).squeeze(1).tolist() == (1 - y % 2).tolist()


def test_images_that_are_broken_are_not_asked_about_again():
    model = net()
    x, y = images(model)
    how = {"steps": 5, "eps": Fraction(1, 2), "step": Fraction(1, 4)}
    first = run("pgd_t-40", model, x, y, targets=1, **how)
    left = N - sum(wrong(model, first.last, y))
    both = run("pgd_t-40", model, x, y, targets=2, **how)
    # Ranking the classes, five steps and the end of the first run; then the same for the images that are left.
    assert left < N
    assert both.oracle.forwards == N + (5 + 1) * N + (5 + 1) * left
    assert both.oracle.backwards == 5 * N + 5 * left


# --- step sizes ------------------------------------------------------------------------------------------------------


def test_the_grid_is_the_worst_of_separate_runs_of_foolbox(foolbox):
    model = Bands(frequency=4.0)
    x, y = images(model)
    eps, noise = Fraction(1, 8), unit_noise(3, x)
    start = x + float(eps) * noise
    ends = [
        foolbox_pgd(foolbox, model, x, y, 40, eps=eps, step=eps * share, start=start)
        for share in (Fraction(1, 20), Fraction(1, 10), Fraction(1, 4), Fraction(1, 2))
    ]
    ours = run("pgd_grid-40", model, x, y, eps=eps, noise={"start:0": noise})
    assert torch.equal(ours.last, worst_of(model, y, ends))
    assert sum(wrong(model, ours.last, y)) > max(sum(wrong(model, end, y)) for end in ends)
    single = run("pgd_grid-40", model, x, y, eps=eps, shares="1/4", noise={"start:0": noise})
    assert torch.equal(single.last, ends[2])


def test_any_is_the_first_broken_point_of_all_runs_of_the_grid(foolbox):
    model = Bands(frequency=4.0)
    x, y = images(model)
    eps, steps, noise = Fraction(1, 8), 12, unit_noise(3, x)
    start = x + float(eps) * noise
    expected, again = x.clone(), 0
    runs = [
        [foolbox_pgd(foolbox, model, x, y, done, eps=eps, step=eps * share, start=start) for done in range(steps + 1)]
        for share in (Fraction(1, 4), Fraction(1, 2))
    ]
    broken = [[wrong(model, point, y) for point in points] for points in runs]
    for row in range(N):
        met = [(run, done) for run in (0, 1) for done in range(steps) if broken[run][done][row]]
        if broken[0][steps][row]:  # the image leaves after the first run
            met = [(run, done) for run, done in met if run == 0]
        if met:
            expected[row] = runs[met[0][0]][met[0][1]][row]
        # A later run breaks it at another point: not at the start, which the runs share.
        again += len({run for run, _ in met}) == 2 and met[0][1] > 0
    ours = run("pgd_grid-40", model, x, y, steps=steps, shares="1/4:1/2", eps=eps, noise={"start:0": noise})
    assert torch.equal(ours.any, expected)
    assert again
    assert any(not first and later for first, later in zip(broken[0][steps], broken[1][steps], strict=True))


def test_restarts_of_a_variant_are_the_starts_of_pgd_with_restarts():
    model = Bands()
    x, y = images(model)
    how = {"eps": Fraction(1, 16), "step": Fraction(1, 40), "restarts": 4}
    ours, engine = run("pgd_eot-40", model, x, y, eot=1, **how), run("pgd-40", model, x, y, **how)
    assert torch.equal(ours.last, engine.last)
    assert not torch.equal(engine.last, run("pgd-40", model, x, y, **how | {"restarts": 1}).last)
    broken = [a or b for a, b in zip(wrong(model, ours.last, y), wrong(model, ours.any, y), strict=True)]
    assert broken == [a or b for a, b in zip(wrong(model, engine.last, y), wrong(model, engine.any, y), strict=True)]


@pytest.mark.parametrize("shares", ["", "a:b", "1/4:0", "1/0", "-1/4"])
def test_shares_that_cannot_be_read_are_refused(shares):
    x, y = images(net())
    with pytest.raises(UsageError, match="shares"):
        run("pgd_grid-40", net(), x, y, shares=shares)


@pytest.mark.parametrize("params", [{"steps": 0}, {"restarts": 0}, {"eot": 0}, {"targets": 0}])
def test_numbers_below_one_are_refused(params):
    x, y = images(net())
    with pytest.raises(UsageError, match="at least 1"):
        run("pgd_t-40", net(), x, y, **params)


# --- rescaled logits -------------------------------------------------------------------------------------------------


def test_rescaled_logits_get_gradients_where_cross_entropy_has_none():
    x, y = images(net())
    eps, step = Fraction(1, 10), Fraction(1, 40)
    loud, noise = Times(net(), 1e4), {"start:0": unit_noise(4, x)}
    start = (x + float(eps) * noise["start:0"]).clamp(0, 1)
    stalled = run("pgd-40", loud, x, y, eps=eps, step=step, noise=noise).last
    assert sum(torch.equal(a, b) for a, b in zip(stalled, start, strict=True)) >= N // 2
    moved = run("pgd_rescaled-40", loud, x, y, eps=eps, step=step, noise=noise).last
    assert not any(torch.equal(a, b) for a, b in zip(moved, start, strict=True))
    assert sum(wrong(loud, stalled, y)) < sum(wrong(loud, moved, y))


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**14])
def test_rescaled_logits_do_not_see_a_factor(factor):
    x, y = images(net())
    plain = run("pgd_rescaled-40", net(), x, y).last
    assert torch.equal(run("pgd_rescaled-40", Times(net(), factor), x, y).last, plain)


def test_the_deviation_of_rescaled_logits_is_that_of_the_classes_that_exist():
    z = 30 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) - 40
    y = torch.arange(6) % 5
    value = objective("ce", "rescaled", y, None)
    for absent in (-1e9, -1e5):
        masked = torch.cat([z, torch.full((6, 2), absent)], dim=1)
        assert torch.allclose(value(masked), value(z), rtol=1e-5)
    mixed = torch.cat([torch.cat([z[:3], z[:3, :1]], dim=1), torch.cat([z[3:], torch.full((3, 1), -1e9)], dim=1)])
    assert torch.allclose(value(mixed)[3:], value(z)[3:], rtol=1e-5), "row by row"


def test_the_rescaled_objective_is_cross_entropy_of_the_quotient_without_a_gradient_through_the_divisor():
    stream = torch.Generator().manual_seed(0)
    z = (30 * torch.randn(6, 5, generator=stream, dtype=torch.float64)).requires_grad_(True)
    y = torch.randint(0, 5, (6,), generator=stream)
    value = objective("ce", "rescaled", y, None)(z)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    for row, label, found, slope in zip(z.tolist(), y.tolist(), value.tolist(), gradient.tolist(), strict=True):
        deviation = np.std(row, ddof=1)
        scaled = np.array(row) / deviation
        shares = np.exp(scaled) / np.exp(scaled).sum()
        assert found == pytest.approx(-math.log(shares[label]))
        assert slope == pytest.approx(list((shares - np.eye(5)[label]) / deviation))
    flat = torch.zeros(1, 5, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(objective("ce", "rescaled", y[:1], None)(flat).sum(), flat)[0]).all()


# --- random models ---------------------------------------------------------------------------------------------------


class Wrong(nn.Module):
    """Class 1 for every image, and a gradient that is zero."""

    def forward(self, x):
        return torch.tensor([0.0, 1.0]) + 0 * x.flatten(1).sum(dim=1, keepdim=True)


@pytest.mark.parametrize(("answers", "counts"), [((0, 1, 0), False), ((0, 1, 1), True)])
def test_a_lucky_draw_is_no_success_and_a_majority_is(answers, counts):
    x, y = inner(), torch.zeros(N, dtype=torch.long)
    right = Linear(torch.zeros(1, 8, 8), bias=-5.0)
    model = InTurn(*(Wrong() if answer else right for answer in answers))
    found = run("pgd_eot-40", model, x, y, steps=2, eot=3)
    assert (found.oracle.forwards, found.oracle.backwards) == (6 * N, 6 * N)
    assert bool((found.any != x).any()) == counts
    start = (x + float(EPS) * context(x).noise("start:0")).clamp(0, 1)
    assert torch.equal(found.any, start if counts else x)
    once = run("pgd_eot-40", model, x, y, steps=3, eot=1)
    assert (once.any != x).flatten(1).any(dim=1).all()


def test_draws_that_are_tied_are_no_majority():
    x, y = inner(), torch.zeros(N, dtype=torch.long)
    tied = InTurn(Wrong(), Linear(torch.zeros(1, 8, 8), bias=-5.0))
    assert torch.equal(run("pgd_eot-40", tied, x, y, steps=3, eot=2).any, x)


def test_the_gradients_of_draws_are_averaged():
    x, y = inner(), torch.zeros(N, dtype=torch.long)
    stream = torch.Generator().manual_seed(0)
    weights = [torch.randn(1, 8, 8, generator=stream) for _ in range(3)]
    model = InTurn(*(Linear(weight, bias=-50.0) for weight in weights))
    how = {"steps": 1, "eot": 3, "start": "none", "loss": "margin", "step": Fraction(1, 16)}
    found = run("pgd_eot-40", model, x, y, **how).last
    total = sum(weights)
    assert (found - (x + total.sign() / 16)).abs().amax() <= 1e-6
    assert any(not torch.equal(weight.sign(), total.sign()) for weight in weights)


def test_averaging_draws_breaks_a_noisy_model_that_single_draws_do_not():
    class Noisy(nn.Module):
        """A linear model whose weights are drowned in noise that averages out."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64, generator=torch.Generator().manual_seed(5)).sign())

        def forward(self, x):
            weight = self.weight + 20 * torch.randn(64)
            score = (x.flatten(1) - 0.5) @ weight + (x.flatten(1).detach() - 0.5) @ (self.weight - weight) - 3.2
            return torch.stack([-score, score], dim=1)

    x, y = 0.5 + 0 * inner(), torch.zeros(N, dtype=torch.long)
    how = {"eps": Fraction(1, 5), "step": Fraction(1, 100), "loss": "margin", "start": "none"}
    standing = [run("pgd_eot-40", Noisy(), x, y, eot=draws, **how).last for draws in (1, 60)]
    ascent = [float(((end - x).flatten(1) @ Noisy().weight.detach()).mean()) for end in standing]
    assert ascent[1] > ascent[0] + 1.0
    with torch.no_grad():
        scores = [wrong(Noisy(), end, y) for end in standing]
    assert sum(scores[1]) > sum(scores[0])


# --- as published ----------------------------------------------------------------------------------------------------


def test_fgsm_ss_steps_by_each_channel_and_counts_zero_gradients_as_positive():
    weight = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    weight[:, :, 0] = 0
    x, y = inner((3, 4, 4)), torch.zeros(N, dtype=torch.long)
    found = run("fgsm_ss", Linear(weight, bias=-9.0), x, y)
    change = (found.last - x).double()
    for channel, deviation in enumerate((0.2023, 0.1994, 0.2010)):
        expected = torch.where(weight[channel] < 0, -1.0, 1.0) * 0.005 / deviation
        assert (change[:, channel] - expected).abs().amax() <= 1e-7
    assert change.abs().amin() > 0.0247
    assert change.abs().amax() < 0.0251
    assert ATTACKS["fgsm_ss"].threats == ("unbounded",)
    grey = run("fgsm_ss", Linear(torch.ones(1, 4, 4), bias=-9.0), x[:, :1], y).last - x[:, :1]
    assert (grey - 0.005 / np.mean(CIFAR_DEVIATIONS)).abs().amax() <= 1e-7


def test_bim_ss_takes_a_small_step_and_five_by_each_channel_in_no_ball():
    """Where there is no gradient it stays: the script has the plain sign here."""
    weight = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    weight[:, :, 0] = 0
    x, y = inner((3, 4, 4)), torch.zeros(N, dtype=torch.long)
    found = run("bim_ss", Linear(weight, bias=-9.0), x, y)
    for channel, deviation in enumerate((0.2023, 0.1994, 0.2010)):
        expected = weight[channel].sign() * (0.001 + 5 * 0.001 / deviation)
        assert ((found.last - x)[:, channel] - expected).abs().amax() <= 3e-7
    assert (found.oracle.forwards, found.oracle.backwards) == (6 * N, 6 * N)
    longer = run("bim_ss", Linear(weight, bias=-90.0), x, y, steps=60).last
    assert (longer - x).abs().amax() > 0.28
    white = torch.ones_like(x)
    at_the_edge = run("bim_ss", Linear(weight.abs(), bias=-99.0), white, y).last
    assert torch.equal(at_the_edge, white)


class Watching(nn.Module):
    """Remembers the smallest and largest pixel it was shown."""

    seen: tuple[float, float] = (0.0, 0.0)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        Watching.seen = (min(Watching.seen[0], float(x.detach().min())), max(Watching.seen[1], float(x.detach().max())))
        return self.model(x)


@pytest.mark.parametrize("name", ["fgsm_rs", "cw_inf_20_batchsum"])
def test_attacks_of_ancra_start_outside_the_box(name):
    model = Watching(net())
    x, y = images(net())
    Watching.seen = (0.0, 0.0)
    run("pgd-10", model, x, y)
    assert Watching.seen == (0.0, 1.0)
    run(name, model, x, y)
    assert Watching.seen[0] < -0.2
    assert Watching.seen[1] > 1.2


def one_step_by_hand(model, x, y, begin, eps, step):
    """The script's arithmetic: the mean of the losses, the step, the ball, the box."""
    begin = begin.clone().requires_grad_(True)
    F.cross_entropy(model(begin), y).backward()
    moved = begin.detach() + step * begin.grad.sign()
    return (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)


def test_fgsm_rs_is_one_step_of_eps_from_the_unclamped_start():
    model = net()
    x, y = images(model)
    noise, eps = unit_noise(3, x), 8 / 255
    found = run("fgsm_rs", model, x, y, eps=Fraction(8, 255), noise={"start:0": noise}).last
    assert torch.equal(found, one_step_by_hand(model, x, y, x + eps * noise, eps, eps))
    shorter = run("fgsm_rs", model, x, y, eps=Fraction(8, 255), step=Fraction(7, 1000), noise={"start:0": noise}).last
    assert torch.equal(shorter, one_step_by_hand(model, x, y, x + eps * noise, eps, 0.007))


def test_the_summed_hinge_is_foolbox_pgd_on_that_loss(foolbox):
    model = net()
    x, y = (0.3 + 0.4 * images(net())[0]), images(net())[1]
    noise, eps = unit_noise(3, x), Fraction(8, 255)
    found = run("cw_inf_20_batchsum", model, x, y, eps=eps, noise={"start:0": noise}).last

    def hinge(logits, labels):
        true = logits[range(N), labels].sum()
        others = sum(max(z[k] for k in range(len(z)) if k != label) for z, label in zip(logits, labels, strict=True))
        return -torch.relu(true - others)

    start = x + float(eps) * noise
    theirs = foolbox_pgd(foolbox, model, x, y, 20, eps=eps, step=Fraction(7, 1000), start=start, loss=hinge)
    assert torch.equal(found, theirs)


def test_the_summed_hinge_stops_every_image_once_one_is_broken_enough():
    model = Linear(torch.ones(1, 8, 8), bias=-34.0)
    x = torch.full((N, 1, 8, 8), 0.5)  # scores of -2
    y = torch.zeros(N, dtype=torch.long)
    eps = Fraction(1, 10)
    still = {"start:0": torch.zeros_like(x)}
    assert all(wrong(model, run("cw_inf_20_batchsum", model, x, y, eps=eps, noise=still).last, y))
    beside = x.clone()
    beside[0] = 1.0  # a score of 30: the sum of the margins is not positive from the first step on
    stopped = run("cw_inf_20_batchsum", model, beside, y, eps=eps, noise=still).last
    assert torch.equal(stopped, beside)
    assert sum(wrong(model, stopped, y)) == 1
    per_image = run("cw_inf-20", model, beside, y, eps=eps, step=Fraction(7, 1000), kappa=0.0).last
    assert all(wrong(model, per_image, y))
    assert ATTACKS["cw_inf_20_batchsum"].batch_coupled


def tpap_by_hand(model, x, y, eps):
    """The published recurrence, written out: 20 steps of 0.003, gradients over the mean of the whole batch."""
    point, velocity = x.clone(), torch.zeros_like(x)
    for _ in range(20):
        point.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y), point)
        velocity = velocity + gradient / torch.mean(torch.abs(gradient))
        point = point.detach() + 0.003 * torch.sign(velocity)
        point = torch.clamp(x + torch.clamp(point - x, -eps, eps), 0, 1)
    return point


def test_mi_fgsm_tpap_is_the_published_recurrence_and_couples_the_batch():
    model = net()
    x, y = images(model)
    eps = Fraction(8, 255)
    found = run("mi_fgsm_tpap", model, x, y, eps=eps).last
    assert torch.equal(found, tpap_by_hand(model, x, y, float(eps)))
    assert not torch.equal(found, run("mi_fgsm", model, x, y, eps=eps, steps=20, step=Fraction(3, 1000)).last)
    halves = [run("mi_fgsm_tpap", model, x[half], y[half], eps=eps).last for half in (slice(0, 8), slice(8, 16))]
    assert not torch.equal(torch.cat(halves), found)
    assert ATTACKS["mi_fgsm_tpap"].batch_coupled


def test_mi_fgsm_tpap_freezes_after_a_zero_gradient_of_the_whole_batch_as_published():
    x, y = inner(), torch.zeros(N, dtype=torch.long)
    model = Linear(torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(5)), bias=-10.0)
    hiccup = InTurn(model, model, Silent(model), *[model] * 17)
    found = run("mi_fgsm_tpap", hiccup, x, y, eps=Fraction(8, 255)).last
    assert torch.allclose(found, x + 0.006 * model.weight.sign())


# --- hard cases ------------------------------------------------------------------------------------------------------


class Roots(nn.Module):
    """Square roots of the pixels: gradients of black pixels are infinite or NaN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = net(channels)

    def forward(self, x):
        return self.model(x.clamp_min(0).sqrt())


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_black_pixels_with_infinite_gradients_leave_valid_images(name, channels):
    model = Roots(channels)
    x = inner((channels, 8, 8))
    x[::2, :, 2:4] = 0
    x[3] = 0
    y = model(x).argmax(dim=1)
    found = run(name, model, x, y, surrogate=model, steps=10)
    kind = ATTACKS[name].threats[0]
    for point in (found.last, found.any):
        if point is not None:
            assert torch.isfinite(point).all()
            assert ((point >= 0) & (point <= 1)).all()
            assert KINDS[kind].verify(x, point, float(EPS)).all()
    assert (found.last != x).flatten(1).any(dim=1).sum() >= N // 2


@pytest.mark.parametrize("name", [*VARIANTS, "fgsm_rs", "cw_inf_20_batchsum", "mi_fgsm_tpap"])
def test_no_budget_gives_the_image_back_bit_for_bit(name):
    model = net()
    x, y = images(model)
    found = run(name, model, x, y, eps=Fraction(0), surrogate=net(seed=7))
    assert torch.equal(found.last, x)
