"""Who knows what: attacks on stand-ins from plan to table, judged on what is deployed, and told apart in every reading.

The toy defense rounds its images, through which no gradient comes: its base is the network without rounding, its
adaptive stand-in rounds on the way forward only.
"""

import csv
import dataclasses
import io
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.api import TRAINING_EPS, Attack, Dataset, Defense, InnerAttack, Result, StandIn, hookimpl
from harness.conformance import toys
from harness.data.dataset import LoadedDataset
from harness.errors import NothingSelected, PluginError, UsageError
from harness.leaderboard.tables import reading_text, wide, worst_text
from harness.leaderboard.tidy import tidy
from harness.models.deployment import Deployer
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.reporter import Reporter
from harness.results.rows import rows
from harness.training import checkpoints
from harness.training.trainer import Trainer
from support.bench import bench_toy, plan_toy, report_of_run
from support.plugins import RECIPE, Offers, plain_step, robust_step, toy_registry
from support.records import record
from support.training import trainer

EPS, THREAT = 1 / 5, "linf:1/5"
"""Enough to break about half of the toy images."""


class Rounded(nn.Module):
    def __init__(self, network, levels, strength=0.0, through=False):
        super().__init__()
        self.network, self.levels, self.through = network, levels, through

    def forward(self, x):
        rounded = torch.round(self.levels * x) / self.levels
        return self.network(x + (rounded - x).detach() if self.through else rounded)


def straight_through(network, levels, strength):
    return Rounded(network, levels, through=True)


def climb(model, x, y, threat, *, ctx):
    """Five steps; it is told nothing of what the model is."""
    point, eps = x, float(threat.eps)
    for _ in range(5):
        point = point.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(point), y, reduction="sum"), point)
        point = (x + (point.detach() + eps / 2 * gradient.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return point


def knows(model, x, y, threat, *, ctx):
    """One step up the stand-in, kept where the deployed model falls."""
    stand_in = ctx.stand_in("bpda")
    point = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(stand_in(point), y, reduction="sum"), point)
    stepped = (x + float(threat.eps) * gradient.sign()).clamp(0, 1)
    fell = model(stepped).argmax(dim=1) != y
    return torch.where(fell.view(-1, 1, 1, 1), stepped, x)


def spoils(model, x, y, threat, *, ctx):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    return x


def spoils_inside(model, x, y, threat, *, ctx):
    """Ruins the oracle of a stand-in, which is its own copy."""
    stand_in = ctx.stand_in("bpda")
    with torch.no_grad():
        for parameter in stand_in.parameters():
            parameter.zero_()
    return x


def gated_step(model, x, y, ctx, *, levels, strength):
    return robust_step(model, x, y, ctx)


GATED = Defense(
    name="gated", step=gated_step, wrap=lambda network, **params: Rounded(network, **params),
    params={"levels": 5, "strength": TRAINING_EPS}, gated=True, adaptive=("climb@bpda", "knows"),
    stand_ins=(
        StandIn(name="base", build=lambda network, **params: network, knowledge="static", every=True),
        StandIn(name="bpda", build=straight_through),
    ),
)  # fmt: skip
UNPUBLISHED = dataclasses.replace(GATED, name="unpublished", stand_ins=(), adaptive=())


def plugin(*more):
    """The defenses above, and who attacks them."""
    linf = ("linf",)
    return Offers(
        GATED, UNPUBLISHED, *more,
        Attack(name="climb", run=climb, threats=linf, cost=10),
        Attack(name="knows", run=knows, threats=linf, only_against=("gated",), cost=2),
        Attack(name="spoils", run=spoils, threats=linf),
        Attack(name="spoils_inside", run=spoils_inside, threats=linf, only_against=("gated",)),
    )  # fmt: skip


REGISTRY = toy_registry(plugin())


def planned(defenses=("gated",), attacks=("all",), registry=REGISTRY, **kwargs):
    return plan_toy(registry, defenses=list(defenses), attacks=list(attacks), **kwargs)


def bench(folder, defenses=("gated",), attacks=("all",), registry=REGISTRY, limit=100):
    asked = {"defenses": list(defenses), "attacks": list(attacks), "limit": limit, "threats": [THREAT]}
    return bench_toy(folder, registry, **asked)


def known(plan_):
    return {cell.attack: (cell.on, cell.knowledge) for cell in plan_.cells}


def skipped(plan_):
    return {skip.attack: skip.reason for skip in plan_.skips}


# Planning.


def test_all_includes_every_stand_in_that_asks_for_it_and_who_knows_the_defense():
    assert known(planned()) == {
        "unchanged": ("", "blackbox"), "random_signs": ("", "blackbox"), "one_step": ("", "adaptive"),
        "one_step@base": ("base", "static"), "climb@bpda": ("bpda", "adaptive"), "knows": ("", "adaptive"),
    }  # fmt: skip
    assert known(planned(["plain"])) == {
        "unchanged": ("", "blackbox"), "random_signs": ("", "blackbox"), "one_step": ("", "static"),
    }  # fmt: skip


def test_without_a_published_base_an_attack_on_what_is_deployed_is_static():
    assert known(planned(["unpublished"], ["one_step"])) == {"one_step": ("", "static")}


def test_the_adaptive_group_is_what_each_defense_names():
    assert set(known(planned(attacks=["adaptive"]))) == {"climb@bpda", "knows"}
    assert set(known(planned(["gated", "plain"], ["adaptive", "unchanged"]))) == {"climb@bpda", "knows", "unchanged"}
    with pytest.raises(NothingSelected):
        planned(["plain"], ["adaptive"])


def test_an_attack_by_name_runs_where_it_is_asked_for_and_on_bases_that_ask_for_every_attack():
    assert known(planned(attacks=["climb"])) == {"climb": ("", "adaptive"), "climb@base": ("base", "static")}
    assert known(planned(attacks=["climb@bpda"])) == {"climb@bpda": ("bpda", "adaptive")}
    assert [len(group) for group in planned(attacks=["climb"]).groups] == [1, 1], "another target is another run"


def test_an_attack_that_looks_at_training_images_runs_on_bases_and_one_from_a_surrogate_does_not():
    looks = Attack(name="looks", run=climb, threats=("linf",), needs=("train_images", "features"))
    transfers = Attack(name="transfers", run=climb, threats=("linf",), needs=("surrogate",))
    raw = dataclasses.replace(UNPUBLISHED, name="raw", gated=False)
    offered = plugin(raw)
    offered.harness_attacks = hookimpl(lambda: [looks, transfers])
    assert known(planned(attacks=["looks", "transfers"], registry=toy_registry(offered))) == {
        "looks": ("", "adaptive"), "looks@base": ("base", "static"), "transfers": ("", "transfer"),
    }  # fmt: skip


def test_what_does_not_apply_is_said():
    assert skipped(planned(["plain"], ["knows", "one_step"]))["knows"] == "it is written against gated"
    found = planned(["gated", "plain"], ["climb@nowhere", "unchanged"])
    assert [(skip.defense, skip.attack, skip.reason) for skip in found.skips] == [
        ("gated", "climb@nowhere", "gated has no stand-in 'nowhere'; it has: base, bpda"),
        ("plain", "climb@nowhere", "plain has no stand-in 'nowhere'; it has: none"),
    ]


def test_a_parameter_follows_the_eps_of_the_training():
    def strength(registry=REGISTRY, name="gated", **kwargs):
        return planned([name], ["unchanged"], registry, **kwargs).subjects[0].defense_params["strength"]

    assert strength() == Fraction(1, 20), "the dataset's budget"
    other = dataclasses.replace(RECIPE, name="other", inner=InnerAttack(steps=2, eps=Fraction(1, 10)))
    own = dataclasses.replace(GATED, name="own", recipes={"toy": (other,)})
    assert strength(toy_registry(plugin(own)), "own") == Fraction(1, 10), "the recipe's"
    assert strength(toy_registry(plugin(own)), "own", recipe="toy") == Fraction(1, 20)
    assert strength(name="gated[strength=1/4]") == Fraction(1, 4), "the user's"
    assert planned(["gated"], ["unchanged"]).subjects[0].defense == "gated", "a default is no other defense"
    loose = Dataset(
        name="loose", load=None, classes=4, shape=toys.SHAPE, budgets={"l2": Fraction(1)}, recipes=(RECIPE,)
    )
    with pytest.raises(UsageError, match="give strength a number"):
        plan(Request(defenses=["gated"], attacks=["unchanged"], dataset="loose"), toy_registry(plugin(), Offers(loose)))


# Running.


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return bench(tmp_path_factory.mktemp("run"), ["gated", "plain", "unpublished"])


@pytest.fixture(scope="module")
def by_name(outcome):
    return {row.defense: row for row in rows(outcome.records)}


@pytest.fixture(scope="module")
def deployed(outcome):
    """The networks of that run, and its images."""
    data = LoadedDataset(planned().dataset, "toy", Path("data"))
    folder = outcome.run.parent / "checkpoints"
    ready = Deployer(trainer(REGISTRY, data, folder)).deploy(planned().subjects[0])
    x, y = data.part("test").batch(data.order()[:100], torch.device("cpu"))
    return ready.checkpoint, x, y


def bits(flags):
    return "".join("1" if flag else "0" for flag in flags.tolist())


def cell_of_row(row, attack):
    return next(cell for cell in row.cells.values() if cell.attack == attack)


def test_images_crafted_on_the_base_are_judged_on_what_is_deployed(by_name, deployed):
    checkpoint, x, y = deployed
    point = x.clone().requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(checkpoint.network(point), y, reduction="sum")
    moved = (x + EPS * torch.autograd.grad(loss, point)[0].sign()).clamp(0, 1)
    with torch.no_grad():
        judged = bits(checkpoint.network(torch.round(5 * moved) / 5).argmax(dim=1) != y)
        on_base = bits(checkpoint.network(moved).argmax(dim=1) != y)
    assert judged != on_base, "so that a mix-up shows"
    assert cell_of_row(by_name["gated"], "one_step@base").last == judged


def test_no_gradient_comes_through_what_is_deployed_and_one_comes_through_its_stand_in(by_name):
    blind, seeing = (cell_of_row(by_name["gated"], name).robust.count("1") for name in ("one_step", "climb@bpda"))
    assert blind == by_name["gated"].clean.count("1")
    assert seeing < blind - 5


def test_an_identity_names_the_target_and_the_knowledge(outcome):
    heads = {(r["identity"]["defense"], r["identity"]["attack"]): r["identity"] for r in outcome.records}
    head = heads["gated", "one_step@base"]
    assert (head["on"], head["knowledge"], head["gated"], head["passes"]) == ("base", "static", True, 1)
    assert heads["plain", "one_step"]["on"] == ""
    assert heads["gated", "one_step"]["params"] == head["params"]


def test_worst_cases_by_knowledge_are_counts_over_those_attacks_alone(by_name):
    row = by_name["gated"]
    for knowledge in ("static", "transfer", "blackbox", "adaptive"):
        together = [c.robust for c in row.cells.values() if c.knowledge == knowledge and c.threat == THREAT]
        expected = "".join("1" if set(column) == {"1"} else "0" for column in zip(*together, strict=True))
        assert row.worst(THREAT, knowledge) == expected
    assert row.worst(THREAT, "transfer") == ""
    whole = row.worst(THREAT).count("1")
    assert whole <= min(row.worst(THREAT, known).count("1") for known in ("static", "blackbox", "adaptive"))


def test_a_table_tells_the_readings_apart_and_who_is_who(by_name):
    found = list(by_name.values())
    table = wide(found)
    header = next(line for line in table.splitlines() if line.startswith("| Rank | Defense"))
    columns = [name.strip() for name in header.strip("|").split("|")]
    first = columns.index("Worst case, static")
    assert columns[first : first + 5] == [
        "Worst case, static", "Worst case, transfer", "Worst case, blackbox", "Worst case, adaptive",
        f"Worst case ({THREAT})",
    ], "the worst of all comes last"  # fmt: skip
    shown = {}
    for line in table.splitlines():
        cells = [text.strip() for text in line.strip("|").split("|")]
        if len(cells) == len(columns) and cells[1] in by_name:
            shown[cells[1]] = dict(zip(columns, cells, strict=True))
    assert shown["gated"]["Worst case, adaptive"] == reading_text(by_name["gated"], THREAT, "adaptive")
    assert shown["gated"]["Worst case, transfer"] == "not run"
    assert shown["unpublished"]["Worst case, adaptive"] == "no adaptive evaluation"
    assert shown["plain"]["Worst case, adaptive"] == "as static"
    assert "- adaptive attackers know the defense and attack what is deployed:" in table
    assert "knows" in next(line for line in table.splitlines() if line.startswith("- adaptive attackers"))
    assert "- static attackers follow" in table
    named = next(line for line in table.splitlines() if line.startswith("- static attackers"))
    assert "one_step@base" in named
    assert "one_step (plain, unpublished)" in named or "one_step (unpublished, plain)" in named
    assert "- blackbox attackers see answers of what is deployed only: random_signs" in table
    assert "robust accuracy" not in table


def test_readings_are_told_apart_only_where_that_matters(by_name):
    assert "Worst case, static" not in wide([by_name["plain"]])


def test_the_csv_has_one_line_for_each_kind_of_knowledge(by_name):
    lines = [
        line for line in csv.DictReader(io.StringIO(tidy(list(by_name.values())))) if line["attack"] == "worst case"
    ]
    found = {(line["defense"], line["knowledge"]): line for line in lines}
    assert set(found) == {
        ("gated", ""), ("gated", "static"), ("gated", "blackbox"), ("gated", "adaptive"), ("plain", ""),
        ("unpublished", ""), ("unpublished", "static"), ("unpublished", "blackbox"), ("unpublished", "adaptive"),
    }  # fmt: skip
    adaptive = found["gated", "adaptive"]
    row = by_name["gated"]
    assert float(adaptive["robust"]) == row.worst(THREAT, "adaptive").count("1")
    assert found["unpublished", "adaptive"]["state"] == "no adaptive evaluation"
    assert found["unpublished", "adaptive"]["robust"] == "", "never the static number"
    cells = [line for line in csv.DictReader(io.StringIO(tidy([row]))) if line["attack"] != "worst case"]
    assert {line["attack"]: line["knowledge"] for line in cells}["one_step@base"] == "static"


def test_flags_follow_from_who_attacked(by_name):
    from harness.results import audit

    gated, unpublished = audit.flags(by_name["gated"]), audit.flags(by_name["unpublished"])
    assert gated["static_set"] == "1 of 5 attacks: one_step@base"
    assert gated["prediction_gated"] == "3 of 5 attacks are adaptive"
    assert "no_adaptive" not in gated
    assert unpublished["no_adaptive"] == "no adaptive evaluation"
    assert "eps_floor" in unpublished, "rounding stops the walk"
    assert "zero_gradients" in gated


def test_a_row_that_only_failed_adaptively_has_no_adaptive_number():
    (row,) = rows([record(gated=True), record("pgd-10@base", gated=True, on="base")])
    assert reading_text(row, "linf:1/5", "adaptive") == "no adaptive evaluation"
    assert worst_text(row, "linf:1/5", {}) == "25.0 [4.6, 69.9] n=4"


# What an attack may do with a stand-in.


def test_what_a_stand_in_is_asked_counts(outcome):
    shards = [r for r in outcome.records if r["identity"]["attack"] == "knows"]
    assert [(r["outcome"]["forwards"], r["outcome"]["backwards"]) for r in shards] == [(200, 100)]
    on_stand_in = [r for r in outcome.records if r["identity"]["attack"] == "climb@bpda"]
    assert [(r["outcome"]["forwards"], r["outcome"]["backwards"]) for r in on_stand_in] == [(500, 500)]


def test_tampering_with_a_stand_in_refuses_the_shard(tmp_path):
    found = bench(tmp_path, attacks=["spoils@bpda", "climb@bpda"])
    assert [(f.attack, f.state) for f in found.failures] == [("spoils@bpda", "refused")]
    assert "modified the model (weights)" in found.failures[0].reason
    from harness.results import audit

    (row,) = rows(found.records)
    states = report_of_run(found).states
    assert "attack_fallback (spoils@bpda: refused)" in wide([row], states)
    assert "attack_fallback" not in audit.flags(row), "no record holds it"


def test_what_an_attack_does_to_its_own_copy_of_a_stand_in_reaches_nobody(tmp_path, outcome):
    found = bench(tmp_path, attacks=["spoils_inside", "climb@bpda", "knows"])
    assert not found.failures
    before = {r["key"]: r for r in outcome.records}
    after = [r for r in found.records if r["identity"]["attack"] != "spoils_inside"]
    assert after
    assert all(before[r["key"]] == r for r in after)


def test_a_stand_in_that_is_not_there_makes_the_attack_inapplicable(tmp_path):
    def asks(model, x, y, threat, *, ctx):
        return Result(last=ctx.stand_in("nobody")(x))

    planted = Attack(name="asks", run=asks, threats=("linf",))
    found = bench(tmp_path, ["gated"], ["asks", "unchanged"], toy_registry(plugin(), Offers(planted)))
    assert {(f.attack, f.state) for f in found.failures} == {
        ("asks", "not applicable"), ("asks@base", "not applicable")
    }  # fmt: skip
    assert "no stand-in 'nobody'" in found.failures[0].reason


# What is trained, and what its key rests on.


class Doubled(nn.Module):
    """A network with a second head, as a defense with auxiliary outputs trains it."""

    def __init__(self, network, shape, classes):
        super().__init__()
        self.network = network
        self.second = nn.Linear(network.head.in_features, classes)
        assert shape == toys.SHAPE

    def forward(self, x):
        features = self.network.features(x)
        return self.network.head(features) + self.second(features)


def test_what_extends_a_network_is_trained_saved_and_deployed(tmp_path):
    extended = Defense(name="doubled", step=plain_step, extend=Doubled)
    registry = toy_registry(plugin(extended))
    first = bench(tmp_path / "a", ["doubled"], ["one_step"], registry)
    torch.rand(7)
    assert bench(tmp_path / "b", ["doubled"], ["one_step"], registry).records == first.records, "its weights are seeded"
    data = LoadedDataset(planned().dataset, "toy", Path("data"))
    subject = planned(["doubled"], ["one_step"], registry).subjects[0]
    trainer = Trainer(
        registry=registry, data=data, folder=tmp_path / "a" / "checkpoints", device=torch.device("cpu"),
        reporter=Reporter(),
    )  # fmt: skip
    found = trainer.obtain(subject)
    assert found.origin == "reused"
    assert "second.weight" in found.network.state_dict()
    x, _ = toys.images()
    features = found.network.network.features(x)
    expected = features @ (found.network.network.head.weight + found.network.second.weight).T
    expected = expected + found.network.network.head.bias + found.network.second.bias
    assert torch.allclose(found.model(x), expected, atol=1e-5)


def keyed(attack_revision=1, uses=("helper",), defense_revision=1):
    helped = Defense(name="helped", step=plain_step, uses=uses)
    helper = Attack(name="helper", run=climb, threats=("linf",), revision=attack_revision)
    other = Defense(name="other", step=plain_step, revision=defense_revision)
    registry = toy_registry(Offers(helped, helper, other))
    subject = planned(["helped"], ["unchanged"], registry).subjects[0]
    data = LoadedDataset(planned().dataset, "toy", Path("data"))
    return checkpoints.identify(subject, subject.recipe, registry, data)


def test_what_a_training_uses_is_part_of_its_key():
    assert keyed() == keyed()
    assert keyed() != keyed(attack_revision=2)
    assert keyed(uses=("other",)) != keyed(uses=("other",), defense_revision=2)
    assert keyed(uses=("other",)) == keyed(uses=("other",), attack_revision=2), "only what it uses"
    assert "uses" not in keyed(uses=())


def test_what_a_training_does_not_declare_it_does_not_get(tmp_path):
    def borrows(model, x, y, ctx):
        return ctx.loss_of("plain")(model, x, y, ctx)

    for uses, failed in (((), True), (("plain",), False)):
        planted = Defense(name="borrows", step=borrows, uses=uses)
        found = bench(tmp_path / str(failed), ["borrows"], ["one_step"], toy_registry(Offers(planted)))
        assert bool(found.failures) == failed
        if failed:
            assert "add it to uses=" in found.failures[0].reason
            assert PluginError.__name__ in found.failures[0].reason
