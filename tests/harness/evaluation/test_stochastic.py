"""Random defenses: the majority of fresh predictions decides, attacks may average, records stay what they were."""

import csv
import io
import math

import pytest
import torch
from torch import nn

import harness_gradient
from harness.api import Defense, Result
from harness.conformance import check_defense, toys
from harness.evaluation.judge import Judge
from harness.leaderboard.tables import wide
from harness.leaderboard.tidy import tidy
from harness.results.rows import rows
from harness.types import ThreatModel
from support.bench import bench_toy
from support.measure import measured, planted
from support.plugins import Offers, plain_step, toy_registry


class Scripted(nn.Module):
    """Once armed, wrong about everything in the first of every eleven predictions, as many as it is told."""

    def __init__(self):
        super().__init__()
        self.network, self.wrong, self.calls = toys.tiny_net(), 0, 0

    def forward(self, x):
        self.calls += 1
        logits = self.network(x)
        return logits.roll(1, dims=1) if (self.calls - 1) % 11 < self.wrong else logits


@pytest.mark.parametrize("wrong", [0, 1, 5, 6, 11])
def test_more_than_half_of_the_passes_decide(wrong):
    x, _ = toys.images()
    y = toys.tiny_net()(x).argmax(dim=1)
    model = Scripted()
    judge = Judge(model, 4, toys.SHAPE, votes=11)
    model.wrong, model.calls = wrong, 0
    assert judge.misclassified(x, y, len(x)).tolist() == [wrong >= 6] * len(x)
    assert model.calls == 11


def test_passes_are_fresh_and_each_image_has_its_own_majority():
    """Against the binomial distribution, within four standard errors of 2,000 images."""

    class Coin(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = toys.tiny_net()

        def forward(self, x):
            logits = self.network(x)
            return torch.where(torch.rand(len(x), 1) < 0.3, logits.roll(1, dims=1), logits)

    x = toys.images(n=16)[0].repeat(125, 1, 1, 1)
    y = toys.tiny_net()(x).argmax(dim=1)
    torch.manual_seed(0)
    shares = [float(Judge(Coin(), 4, toys.SHAPE, votes=n).misclassified(x, y, 500).float().mean()) for n in (1, 11)]
    majority = sum(math.comb(11, k) * 0.3**k * 0.7 ** (11 - k) for k in range(6, 12))
    for share, expected in zip(shares, (0.3, majority), strict=True):
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 2000))


class Jittered(nn.Module):
    """Answers about its image with noise on it."""

    def __init__(self, network, size=0.6):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x):
        return self.network(x + self.size * torch.randn_like(x))


def lucky(model, x, y, threat, *, ctx):
    """Asks about one image until it is wrong once, and reports that as a break."""
    point = (x + 1e-3).clamp(0, 1)
    fell = torch.zeros(len(x), dtype=torch.bool)
    for _ in range(40):
        fell |= model(point).argmax(dim=1) != y
    return Result(last=point, any=torch.where(fell.view(-1, 1, 1, 1), point, x))


def voted(run, passes, model):
    x, _ = toys.images(n=48)
    y = model.network(x).argmax(dim=1)
    judge = Judge(model, 4, toys.SHAPE, votes=passes)
    return measured(planted(run), judge, x, y, ThreatModel.parse("linf:1/20"), {}, sha256=toys.TOY_SHA256)


def test_a_lucky_pass_breaks_nothing():
    once, often = (voted(lucky, passes, Jittered(toys.tiny_net(), 0.2)) for passes in (1, 101))
    assert once.any.count("1") > 5, "one pass may be wrong when the judge looks, too"
    assert often.any.count("1") < once.any.count("1") / 2
    assert often.flags["false_claims"] > 24


# From plan to table.


JITTERED = Offers(
    Defense(name="jittered", step=plain_step, wrap=Jittered, stochastic=True, adaptive=("pgd_eot-40[steps=10]",)),
    Defense(name="twice", step=plain_step, wrap=Jittered, stochastic=True, votes=3),
)
PLANNED = toy_registry(harness_gradient, JITTERED)
ATTACKS = ["unchanged", "pgd-40[steps=10]", "random_signs", "adaptive"]


def bench(folder, attacks=ATTACKS, defenses=("jittered",), limit=120):
    asked = {"attacks": list(attacks), "defenses": list(defenses), "threats": ["linf:1/5"], "limit": limit}
    return bench_toy(folder, PLANNED, **asked)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return bench(tmp_path_factory.mktemp("run"))


def robust(found, attack):
    (row,) = rows(found.records)
    return next(cell for cell in row.cells.values() if cell.attack == attack).robust.count("1")


def test_the_suite_of_a_random_defense_includes_who_averages(outcome):
    knowledge = {r["identity"]["attack"]: r["identity"]["knowledge"] for r in outcome.records}
    assert knowledge["pgd_eot-40[steps=10]"] == "adaptive"
    assert knowledge["pgd-40[steps=10]"] == "static"


def test_averaging_over_draws_beats_following_one(outcome):
    assert robust(outcome, "pgd_eot-40[steps=10]") < robust(outcome, "pgd-40[steps=10]") < robust(outcome, "unchanged")


def test_the_protocol_stands_in_the_identity_and_in_every_table(outcome):
    assert {r["identity"]["passes"] for r in outcome.records} == {11}
    found = rows(outcome.records)
    lines = [line for line in csv.DictReader(io.StringIO(tidy(found))) if line["attack"] != "worst case"]
    assert {line["passes"] for line in lines} == {"11"}
    table = wide(found)
    assert "n=120 passes=11" in table
    assert "- passes=11: broken is what more than half of 11 fresh predictions get wrong" in table
    assert "11 passes decide" in table


def test_another_number_of_passes_is_another_record_and_both_are_told(tmp_path):
    found = bench(tmp_path, ["random_signs"], ["jittered", "twice"])
    assert sorted({r["identity"]["passes"] for r in found.records}) == [3, 11]


def test_records_repeat_whatever_ran_before(tmp_path, outcome):
    by_key = {r["key"]: r for r in outcome.records}
    torch.manual_seed(99)
    torch.rand(1000)
    alone = bench(tmp_path, ["pgd-40[steps=10]"])
    assert len(alone.records) == 1
    assert all(by_key[r["key"]] == r for r in alone.records), "alone as in company"
    torch.rand(7)
    rest = bench(tmp_path, list(reversed(ATTACKS)))
    assert (rest.computed, rest.reused) == (3, 1)
    assert all(by_key[r["key"]] == r for r in rest.records)


# Contracts.


def contract_states(defense):
    return {result.name: (result.state, result.detail) for result in check_defense(defense)}


RANDOM = {"name": "planted", "step": plain_step, "wrap": Jittered}


@pytest.mark.parametrize(("planted", "contract", "words"), [
    (Defense(**RANDOM), "random as declared", "declare stochastic=True"),
    (Defense(**RANDOM | {"wrap": None}, stochastic=True, adaptive=("x",)), "random as declared", "passes are equal"),
    (Defense(**RANDOM, stochastic=True, adaptive=("x",), votes=10), "random as declared", "make them odd"),
    (Defense(**RANDOM, stochastic=True), "adaptive attacks are named", "average over its draws"),
])  # fmt: skip
def test_what_is_random_must_say_so_and_be_attacked_so(planted, contract, words):
    state, detail = contract_states(planted)[contract]
    assert state == "failed"
    assert words in detail


def test_an_honest_random_defense_passes():
    found = contract_states(Defense(**RANDOM, stochastic=True, adaptive=("aa_rand",)))
    assert found["random as declared"][0] == found["adaptive attacks are named"][0] == "passed"
    assert "failed" not in {state for state, _ in found.values()}


def test_a_defense_that_acts_in_one_of_ten_passes_must_say_so():
    class Seldom(Jittered):
        def forward(self, x):
            return self.network(x + (torch.rand(()) < 0.1) * torch.randn_like(x))

    torch.manual_seed(0)
    state, detail = contract_states(Defense(**RANDOM | {"wrap": Seldom}))["random as declared"]
    assert (state, "declare stochastic=True" in detail) == ("failed", True)
