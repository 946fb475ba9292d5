"""Every flag, the network or the attack that raises it, and the ordinary one that does not: real runs on the digits.

`pytest -s -k table` prints the table.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from harness.registry.discovery import load
from harness.registry.registry import Provider, Registry
from harness.results import audit
from harness.running.entry import find_plugins
from harness.types import Attack, Defense, Result, StandIn
from support.bench import bench_toy, report_of_run
from support.networks import Turned
from support.plugins import Offers

BOARD = Path(__file__).parents[3] / "leaderboards" / "digits-linf" / "weights"


@functools.cache
def means() -> torch.Tensor:
    images, labels = load_digits(return_X_y=True)
    pixels, classes = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    return torch.stack([pixels[classes == k].mean(dim=0) for k in range(10)])


# Networks. `Ordinary` is the base of all: right on 90 % of the digits, with gradients that tell the truth.


class Ordinary(nn.Module):
    """The nearest mean of the ten digits, as one linear layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.layer.weight.data, self.layer.bias.data = 10 * means(), -5 * means().square().sum(dim=1)

    def forward(self, x):
        return self.layer(x.flatten(1))


def on_grid(x):
    """Which images (n, 1, 1, 1) are as scanned: multiples of a sixteenth everywhere."""
    return ((16 * x).round() - 16 * x).abs().flatten(1).amax(dim=1).lt(1e-3).view(-1, 1, 1, 1)


class Backwards(Ordinary):
    """Its gradient points the other way."""

    def forward(self, x):
        return super().forward(Turned.apply(x))


class TrueAtTheStart(Ordinary):
    """Its gradient tells the truth at scanned images only: one step is all that it helps."""

    def forward(self, x):
        return super().forward(torch.where(on_grid(x), x, Turned.apply(x)))


class TurnedAtTheStart(Ordinary):
    """Its gradient points the other way at scanned images: robust to one step, and to nothing else."""

    def forward(self, x):
        return super().forward(torch.where(on_grid(x), Turned.apply(x), x))


class BatchStatistics(Ordinary):
    """Takes the mean of the batch away, as batch statistics at test time do."""

    def forward(self, x):
        return super().forward(x - x.mean(dim=0, keepdim=True) + means().mean(dim=0).view(1, 1, 8, 8))


class WithoutGradient(Ordinary):
    """A forward under no_grad: no attack with gradients runs at all."""

    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class Steep(Ordinary):
    """Logits times 1e4: the cross-entropy has no gradient where the image is right, the margin has."""

    def forward(self, x):
        return 1e4 * super().forward(x)


class Corner(Ordinary):
    """Knows images that a whole budget of 1/5 was added to or taken from everywhere, and takes it back."""

    def forward(self, x):
        part = (16 * x) % 1
        low, high = (part - 0.2).abs() < 0.01, (part - 0.8).abs() < 0.01
        moved = low.float() - high.float()
        known = (low | high | (x == 0) | (x == 1)).flatten(1).float().mean(dim=1) > 0.98
        return super().forward(torch.where(known.view(-1, 1, 1, 1), x - 0.2 * moved, x))


class LuckyStart(Ordinary):
    """Has a gradient only where the first pixel, black in every digit, is brighter: after half of all starts."""

    def forward(self, x):
        return super().forward(torch.where(x[:, :1, :1, :1] > 0, x, x.detach()))


class Noisy(Ordinary):
    def forward(self, x):
        return super().forward(x) + 0.1 * torch.randn(len(x), 10)


class Probabilities(Ordinary):
    def forward(self, x):
        return super().forward(x).softmax(dim=1)


class Told(Ordinary):
    def forward(self, x, labels=None):
        return super().forward(x)


class Purifier(Ordinary):
    """Improves its input by a gradient step of its own."""

    def forward(self, x):
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(super().forward(point).logsumexp(dim=1).sum(), point)
        return super().forward(x + 0.01 * gradient.sign())


# Attacks that do not keep to the rules.


def claims_all(model, x, y, threat):
    """Says of each image that it is broken, by nothing to speak of."""
    return Result(last=x, any=(x + 1e-4).clamp(0, 1))


def far_outside(model, x, y, threat):
    return (x + 2 * float(threat.eps)).clamp(0, 1)


ATTACKS = (
    Attack(name="claims_all", run=claims_all, threats=("linf",)),
    Attack(name="far_outside", run=far_outside, threats=("linf",)),
)

STEPS = ("fgsm", "pgd-10", "pgd-20", "pgd-40", "pgd-100", "cw_inf-20", "cw_inf-100")
AUTOATTACK = "aa_standard[steps=5,targets=2,queries=300,restarts_l1=1,targets_l1=1]"
SQUARE = "square[queries=300]"
SLOW = ("pgd_l2[steps=100,step=1/1000]", "pgd_l2[steps=1000,step=1/1000]")


@dataclass(frozen=True)
class Run:
    """What is run: a network as a defense of its own, or a defense by name, under attacks.

    `more`: fields of the defense. `asked`: what else is asked for, as `limit`. `fails`: some cell gets no number.
    """

    network: Callable[[], nn.Module] | str = Ordinary
    attacks: tuple[str, ...] = STEPS
    more: dict = field(default_factory=dict)
    asked: dict = field(default_factory=dict)
    fails: bool = False

    def __str__(self):
        network = self.network if isinstance(self.network, str) else self.network.__name__
        declared = "".join(f" {name}" for name in self.more)
        return f"{network}{declared} under {', '.join(self.attacks)}"


def weights(pattern):
    (found,) = BOARD.glob(pattern)
    return str(found)


BARE = StandIn(name="bare", build=lambda network: Ordinary(), knowledge="static")
KNOWN = StandIn(name="known", build=lambda network: Ordinary(), knowledge="adaptive")
FORTY = {"limit": 40}
OVERFITTING = {"analyses": ["overfitting"], "limit": 40}

PLANTED = {
    "as_published": Run(attacks=("ddn_tpap",)),
    "attack_fallback": Run(attacks=("fgsm", "far_outside"), fails=True),
    "batch_dependent": Run(BatchStatistics, ("fgsm",), asked=FORTY),
    "blackbox_wins": Run(Backwards, ("pgd-100", AUTOATTACK), asked=FORTY),
    "co_detected": Run(TurnedAtTheStart, ("fgsm", "pgd-20")),
    "co_missing": Run("fgsm_at", ("fgsm",), asked=OVERFITTING | {"weights": weights("fgsm_at-*")}),
    "dynamic": Run(Purifier, ("fgsm",)),
    "eps_floor": Run(Backwards, ("fgsm",)),
    "false_claims": Run(attacks=("claims_all",)),
    "limited": Run(attacks=("fgsm",), asked=FORTY),
    "losses_disagree": Run(Steep, ("pgd-20", "cw_inf-20")),
    "no_adaptive": Run(attacks=("fgsm",), more={"gated": True}),
    "not_monotone_steps": Run(Corner, ("pgd-10", "pgd-40")),
    "out_of_range": Run(attacks=("fwa_tpap",), asked={"limit": 10}),
    "prediction_gated": Run(attacks=("fgsm", "fgsm@known"), more={"gated": True, "stand_ins": (KNOWN,)}),
    "probability_outputs": Run(Probabilities, ("fgsm",)),
    "restarts_matter": Run(LuckyStart, ("pgd-20", "pgd-20[restarts=5]")),
    "robust_ge_clean": Run(Backwards, ("pgd-10",)),
    "single_step_wins": Run(TrueAtTheStart, ("fgsm", "pgd-20")),
    "static_set": Run(attacks=("fgsm@bare",), more={"stand_ins": (BARE,)}),
    "steps_matter": Run(attacks=SLOW, asked=FORTY),
    "stochastic": Run(Noisy, ("fgsm",), asked=FORTY),
    "train_labels_at_test": Run(Told, ("fgsm",)),
    "transfer_wins": Run(Backwards, ("pgd-20", "pgd-20@bare"), more={"stand_ins": (BARE,)}),
    "unbounded_attack": Run(attacks=("sta",), asked=FORTY),
    "under_reach": Run(attacks=("pgd-10[step=1/100]",)),
    "weak_protocol": Run(attacks=("fgsm",), more={"mandatory": ("pgd-100",)}),
    "zero_gradients": Run(WithoutGradient, ("fgsm", "pgd-10"), fails=True),
}
"""Flag -> what raises it. A new flag needs a line here."""

EVERYTHING = Run(attacks=(*STEPS, SQUARE, AUTOATTACK, "pgd_l2", "deepfool"), more={"mandatory": ("pgd-100",)})
"""The ordinary network under all that the flags compare."""

HONEST = {
    "blackbox_wins": Run(attacks=("pgd-100", AUTOATTACK, SQUARE), asked=FORTY),
    "co_missing": Run(
        "tpap[strength=3/10]",
        ("fgsm",),
        asked=OVERFITTING | {"weights": weights("tpap-*"), "arch": "digits_net[width=32]"},
    ),
    "no_adaptive": PLANTED["prediction_gated"],
    "restarts_matter": Run(attacks=("pgd-20", "pgd-20[restarts=5]"), asked={"threats": ["linf:1/20"]}),
    "steps_matter": Run(attacks=("pgd_l2[steps=100]", "pgd_l2[steps=1000]"), asked=FORTY),
    "transfer_wins": Run(attacks=("pgd-20", "pgd-20@bare"), more={"stand_ins": (BARE,)}),
}
"""Flag -> its honest neighbour, where that is another than `EVERYTHING`."""


@pytest.fixture(scope="module")
def flags_of(tmp_path_factory):
    """The flags of a run: flag -> evidence."""
    seen = {}

    def flags(one):
        if id(one) not in seen:
            seen[id(one)] = raised(one, tmp_path_factory.mktemp("run"))
        return seen[id(one)]

    return flags


def raised(one, folder):
    asked, planted = dict(one.asked), []
    name = one.network
    if not isinstance(name, str):
        name = name.__name__.lower()
        planted = [Defense(name=name, load=lambda data: one.network(), **one.more)]
    offered = load(Provider("planted", "planted", "1.0"), lambda: Offers(*planted, *ATTACKS))
    registry = Registry([*find_plugins().loaded, offered])
    outcome = bench_toy(folder, registry, defenses=[name], attacks=list(one.attacks), dataset="digits", **asked)
    assert bool(outcome.failures) == one.fails, outcome.failures
    (found,) = report_of_run(outcome).flags.values()
    return found


@pytest.mark.parametrize("flag", audit.MEANING)
def test_it_rises_where_it_is_planted_and_not_beside_it(flag, flags_of):
    assert flag in PLANTED, "a flag without a planted network"
    assert flag in flags_of(PLANTED[flag])
    assert flag not in flags_of(HONEST.get(flag, EVERYTHING))


def test_an_ordinary_network_raises_nothing_at_all(flags_of):
    assert flags_of(EVERYTHING) == {}


def test_no_plant_is_left_of_a_flag_that_is_gone():
    assert set(PLANTED) == set(audit.MEANING)
    assert set(HONEST) <= set(audit.MEANING)


def test_the_table_has_both_columns(flags_of):
    lines = []
    for flag in audit.MEANING:
        plant, neighbour = PLANTED[flag], HONEST.get(flag, EVERYTHING)
        lines.append(
            (flag, str(plant), flags_of(plant)[flag], str(neighbour), ", ".join(flags_of(neighbour)) or "none")
        )
    assert all(all(line) for line in lines)
    print(f"\n{'flag':22} {'raised by':52} {'evidence':52} {'not by':36} flags of that one")
    for flag, plant, evidence, neighbour, others in lines:
        print(f"{flag:22} {plant[:50]:52} {evidence[:50]:52} {neighbour[:34]:36} {others}")
