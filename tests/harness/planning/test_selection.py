"""From names, groups and globs to attacks, and from attacks to the budgets, bounds and surrogates of their cells."""

import dataclasses
import itertools
from fractions import Fraction

import pytest

from harness.api import FROM_DATASET, Architecture, Attack, Dataset, Defense, InnerAttack, Recipe, ThreatKind
from harness.conformance import toys
from harness.errors import NothingSelected, UnknownName, UsageError
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.planning.selection import groups, select_attacks
from harness.planning.subjects import DEFENSE_OWN_NETWORK
from support.bench import bench_toy, plan_toy
from support.plugins import RECIPE, Offers, load_toy, one_step, plain_step, toy_registry


def nothing(model, x, y, threat, **params):
    return x


def attack(name, **kwargs):
    return Attack(**{"name": name, "run": nothing, "threats": ("linf",), **kwargs})


def registry(*specs):
    return toy_registry(Offers(*specs))


def selected(texts, *specs):
    return select_attacks(texts, registry(*specs))


def names(texts, *specs):
    return [chosen.name for chosen in selected(texts, *specs)[0]]


def planned(*specs, **kwargs):
    return plan_toy(registry(*specs), **kwargs)


# Groups


WALK = attack(
    "walk", params={"steps": 40, "restarts": 1}, groups=("plain", "suite[steps=5]", "deep[steps=9,restarts=3]")
)
JUMP = attack("jump", groups=("suite",))


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["suite"], {"walk[steps=5]": {"steps": 5, "restarts": 1}, "jump": {}}),
        (["plain"], {"walk": {"steps": 40, "restarts": 1}}),
        (["deep"], {"walk[restarts=3,steps=9]": {"steps": 9, "restarts": 3}}),
        (["deep[restarts=1]"], {"walk[steps=9]": {"steps": 9, "restarts": 1}}),
        (["plain,walk", "walk[steps=40]"], {"walk": {"steps": 40, "restarts": 1}}),
        (["suite,walk[steps=5]"], {"walk[steps=5]": {"steps": 5, "restarts": 1}, "jump": {}}),
        (["deep[steps=2]"], {"walk[restarts=3,steps=2]": {"steps": 2, "restarts": 3}}),
    ],
)  # fmt: skip
def test_a_group_gives_its_members_with_the_parameters_they_have_there(texts, wanted):
    chosen, skips = selected(texts, WALK, JUMP)
    assert {found.name: found.params for found in chosen} == wanted
    assert not skips


def test_every_attack_is_in_the_widest_group_with_its_defaults():
    assert {"walk", "jump", "one_step"} <= set(names(["extended"], WALK, JUMP))
    assert groups(WALK)[-1] == ("extended", {})
    assert [name for name, _ in groups(attack("lonely"))] == ["extended"]


def test_an_attack_may_be_twice_in_a_group_with_other_parameters():
    twice = attack("walk", params={"steps": 40}, groups=("suite[steps=5]", "suite[steps=9]", "suite[steps=40]"))
    assert names(["suite"], twice) == ["walk[steps=5]", "walk[steps=9]", "walk"]


def test_parameters_of_a_group_that_an_attack_does_not_have_are_named():
    wrong = attack("walk", params={"steps": 40}, groups=("suite[stpes=5]",))
    with pytest.raises(UsageError, match="attack 'walk' has no parameter 'stpes'"):
        selected(["suite"], wrong)
    assert set(names(["walk", "one_step"], wrong)) == {"walk", "one_step"}


def test_cells_of_a_group_carry_its_parameters():
    (cell,) = planned(WALK, attacks=["suite"]).cells
    assert (cell.attack, cell.params) == ("walk[steps=5]", {"steps": 5, "restarts": 1})


def test_a_group_that_cannot_be_read_harms_its_own_plugin_only():
    assert names(["one_step"], attack("wrong", groups=("suite[steps",))) == ["one_step"]


# Order


@pytest.mark.parametrize("order", list(itertools.permutations(("cheap", "middle", "dear"))))
def test_the_cheapest_attack_comes_first_however_it_was_asked_for(order):
    specs = [attack("dear", cost=500), attack("middle", cost=20), attack("cheap", cost=1)]
    assert names(list(order), *specs) == ["cheap", "middle", "dear"]
    assert [cell.attack for cell in planned(*specs, attacks=list(order)).cells] == ["cheap", "middle", "dear"]


def test_attacks_of_one_price_keep_the_order_in_which_they_were_named():
    specs = [attack(name, cost=7) for name in "abc"]
    assert names(["c", "a", "b"], *specs) == ["c", "a", "b"]


# Aliases


def test_an_alias_resolves_to_the_name_with_parameters_and_without_doubles():
    real = attack("aa_real", params={"n": 2}, aliases=("auto", "auto-attack"))
    assert names(["auto"], real) == ["aa_real"]
    assert names(["auto,aa_real,auto-attack"], real) == ["aa_real"]
    assert names(["auto[n=5]"], real) == ["aa_real[n=5]"]
    with pytest.raises(UnknownName):
        names(["autos"], real)


def test_records_say_the_real_name(tmp_path):
    found = registry(Attack(name="aa_real", run=one_step, threats=("linf",), params={}, aliases=("auto",)))
    outcome = bench_toy(tmp_path, found, attacks=["auto", "aa_real"], limit=20)
    assert [record["identity"]["attack"] for record in outcome.records] == ["aa_real"]
    asked = bench_toy(tmp_path, found, attacks=["aa_real"], limit=20)
    assert (asked.computed, asked.reused) == (0, 1)


def test_a_name_comes_before_an_alias_of_the_same_letters():
    specs = [attack("real"), attack("other", aliases=("real",))]
    assert names(["real"], *specs) == ["real"]


def test_an_alias_of_a_name_that_is_offered_twice_is_as_unusable_as_the_name():
    twice = toy_registry(*(Offers(attack("same", aliases=("nick",))) for _ in range(2)))
    with pytest.raises(UsageError, match="provided twice"):
        select_attacks(["nick"], twice)


def test_an_alias_that_two_attacks_claim_is_unusable():
    both = registry(*(attack(name, aliases=("nick",)) for name in ("a", "b")))
    assert both.clashes()
    with pytest.raises(UsageError, match="twice"):
        select_attacks(["nick"], both)


# Defects


BAD = attack("bad", defect="its loss is constant", groups=("suite",), aliases=("worse",))


def test_a_defective_attack_asked_for_by_name_is_an_error_with_the_reason():
    with pytest.raises(UsageError, match=r"'bad'.*never runs: its loss is constant"):
        selected(["one_step", "bad"], BAD)
    with pytest.raises(UsageError, match="its loss is constant"):
        selected(["bad[n=1]"], BAD)


@pytest.mark.parametrize("asked", ["worse", "other0/bad"])
def test_under_another_of_its_names_too(asked):
    with pytest.raises(UsageError, match="its loss is constant"):
        selected(["one_step", asked], BAD)


@pytest.mark.parametrize("text", ["suite", "extended", "b*"])
def test_a_defective_member_is_left_out_with_the_reason(text):
    chosen, skips = selected([text, "jump"], BAD, JUMP)
    assert "bad" not in [found.name for found in chosen]
    assert "jump" in [found.name for found in chosen]
    assert [(skip.defense, skip.attack, skip.reason) for skip in skips] == [
        ("every defense", "bad", "its loss is constant")
    ]


def test_nothing_but_defects_is_nothing():
    with pytest.raises(NothingSelected, match="bad: its loss is constant"):
        planned(BAD, attacks=["suite"])


# Classes


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({}, None),
        ({"min_classes": 4, "max_classes": 4}, None),
        ({"min_classes": 5}, "needs 5 classes, toy has 4"),
        ({"max_classes": 3}, "needs at most 3 classes, toy has 4"),
        ({"max_classes": 5}, None),
    ],
)
def test_bounds_on_classes_make_a_skip_with_the_reason(bounds, reason):
    found = planned(attack("bound", **bounds), attacks=["bound", "one_step"])
    assert [skip.reason for skip in found.skips] == ([reason] if reason else [])
    assert ("bound" in [cell.attack for cell in found.cells]) == (reason is None)


def toy_dataset(name="other", **kwargs):
    given = {"classes": 4, "shape": toys.SHAPE, "budgets": {"linf": Fraction(1, 20)}, "recipes": (RECIPE,)}
    return Dataset(**{"name": name, "load": load_toy, **given, **kwargs})


def test_bounds_are_unknown_where_only_loading_tells_the_classes():
    specs = [attack("bound", min_classes=50, max_classes=60), toy_dataset(classes=None)]
    assert [cell.attack for cell in planned(*specs, attacks=["bound"], dataset="other").cells] == ["bound"]


# Budgets


def kind(name, **kwargs):
    return ThreatKind(name=name, distance=lambda *_: None, verify=lambda *_: None, **kwargs)


def threats(*specs, **kwargs):
    return [str(cell.threat) for cell in planned(*specs, attacks=["bound"], **kwargs).cells]


@pytest.mark.parametrize(
    ("minimal", "kinds", "wanted"),
    [
        (False, ("linf", "l2"), "linf:1/20"),
        (False, ("l2", "linf"), "linf:1/20"),
        (False, ("l1", "l2"), "l2:1/2"),
        (False, ("l1", "l2", "linf"), "linf:1/20"),
        (True, ("l2", "linf"), "l2:1/2"),
        (True, ("linf", "l2"), "linf:1/20"),
        (True, ("l1", "l2", "linf"), "l2:1/2"),
        (True, ("l0", "unbounded", "l2"), "unbounded"),
        (False, ("l0", "unbounded"), "unbounded"),
    ],
)
def test_an_attack_takes_the_datasets_kind_and_a_minimal_one_its_own_first(minimal, kinds, wanted):
    assert threats(attack("bound", minimal=minimal, threats=kinds)) == [wanted]


def test_without_a_budget_there_is_no_cell():
    found = planned(attack("bound", threats=("l1", "l0")), attacks=["bound", "one_step"])
    assert [(skip.attack, skip.reason) for skip in found.skips] == [
        ("bound", "toy has no budget for l1 or l0; give one with --threat")
    ]
    assert threats(attack("bound", threats=("l1", "l0")), threats=["l0:5"]) == ["l0:5"]


@pytest.mark.parametrize("minimal", [True, False])
def test_a_threat_given_takes_the_place_of_the_default(minimal):
    spec = attack("bound", minimal=minimal, threats=("l2", "linf"))
    assert threats(spec, threats=[DATASET_BUDGET]) == [DATASET_BUDGET]
    assert threats(spec, threats=[DATASET_BUDGET, "l2:3"]) == [DATASET_BUDGET, "l2:3"]


def test_a_kind_may_share_the_budget_of_another_and_its_own_comes_first():
    shared = kind("l2_raw", budget_of="l2", box=False)
    spec = attack("bound", threats=("l2_raw",), params={"step": "dataset"})
    (cell,) = planned(shared, spec, attacks=["bound"]).cells
    assert (str(cell.threat), cell.params) == ("l2_raw:1/2", {"step": Fraction(1, 8)})
    assert threats(shared, spec, threats=["l2_raw"]) == ["l2_raw:1/2"]
    assert threats(shared, spec, threats=["l2_raw:2"]) == ["l2_raw:2"]
    budgets = {"linf": Fraction(1, 20), "l2": Fraction(1, 2), "l2_raw": Fraction(7)}
    assert threats(shared, spec, toy_dataset(budgets=budgets), dataset="other") == ["l2_raw:7"]
    (left,) = planned(
        kind("l1_raw", budget_of="l1"), attack("bound", threats=("l1_raw",)), attacks=["bound", "one_step"]
    ).skips
    assert left.reason == "toy has no budget for l1_raw; give one with --threat"


def test_the_budget_of_another_kind_is_not_replaced_through_it():
    specs = [kind("l2_raw", budget_of="l2"), attack("bound", threats=("l2_raw",)), attack("plainly", threats=("l2",))]
    found = planned(*specs, attacks=["bound", "plainly"], threats=["l2:3"])
    assert {cell.attack: str(cell.threat) for cell in found.cells} == {"bound": "l2_raw:1/2", "plainly": "l2:3"}


def test_an_unbounded_kind_needs_no_budget_and_no_step():
    free = kind("style", bounded=False)
    spec = attack("bound", threats=("style",), params={"step": "dataset", "n": 3})
    (cell,) = planned(free, spec, attacks=["bound"]).cells
    assert (str(cell.threat), cell.threat.eps, cell.params) == ("style", None, {"step": None, "n": 3})
    assert threats(free, spec, threats=["style"]) == ["style"]


def test_a_dataset_without_budgets_takes_attacks_that_need_none():
    spec = attack("bound", threats=("unbounded",))
    assert threats(spec, toy_dataset(budgets={}), dataset="other") == ["unbounded"]


@pytest.mark.parametrize(
    "text",
    ["none:1/5", "unbounded:1/5"],
)
def test_a_kind_without_budgets_takes_none(text):
    specs = [attack("still", threats=("none",)), attack("bound", threats=("unbounded",))]
    with pytest.raises(UsageError, match="budget"):
        planned(*specs, attacks=["still", "bound"], threats=[text])


# Surrogates


RAW = Defense(name="raw", step=plain_step, params={"width": 3})
TRANSFER = attack("transfer", needs=("surrogate",))
WIDE = Architecture(name="wide", build=lambda shape, classes, channels: toys.TinyNet(classes), params={"channels": 8})
SLOW = Recipe(name="slow", arch="wide[channels=16]", epochs=9, batch=8, lr=0.1, inner=InnerAttack(steps=1))


def surrogate(*specs, **kwargs):
    (cell,) = planned(RAW, TRANSFER, WIDE, *specs, attacks=["transfer"], **kwargs).cells
    return cell.subject, cell.surrogate


def test_a_surrogate_is_raw_with_the_same_network_and_recipe_and_the_next_seed():
    subject, other = surrogate(defenses=["robust[mix=2]"], train_seed=7, arch="wide[channels=32]")
    assert (other.defense, other.defense_params) == ("raw", {"width": 3})
    assert (other.arch, other.arch_params) == ("wide[channels=32]", {"channels": 32})
    assert (subject.arch, subject.recipe) == (other.arch, other.recipe)
    assert (subject.train_seed, other.train_seed) == (7, 8)
    assert other.recipe is RECIPE
    assert other.weights == ""


def test_a_surrogate_follows_the_recipe_of_its_defense():
    own = Defense(name="own", step=plain_step, recipes={"toy": (SLOW,)})
    subject, other = surrogate(own, defenses=["own"])
    assert (subject.recipe, subject.arch) == (SLOW, "wide[channels=16]")
    assert (other.recipe, other.arch, other.arch_params) == (SLOW, "wide[channels=16]", {"channels": 16})


def test_raw_itself_is_attacked_from_another_training():
    subject, other = surrogate(defenses=["raw"])
    assert dataclasses.replace(other, train_seed=0) == subject
    assert other.train_seed == 1


def test_weights_given_are_not_those_of_the_surrogate():
    subject, other = surrogate(weights="x.safetensors", arch="wide")
    assert (subject.recipe, subject.weights) == (None, "x.safetensors")
    assert (other.recipe, other.weights, other.arch) == (RECIPE, "", "wide")


def test_a_defense_with_its_own_network_gets_a_surrogate_of_the_recipes():
    loaded = Defense(name="loaded", load=lambda data: toys.tiny_net())
    subject, other = surrogate(loaded, defenses=["loaded"], train_seed=2)
    assert (subject.arch, subject.recipe) == (DEFENSE_OWN_NETWORK, None)
    assert (other.arch, other.arch_params, other.recipe, other.train_seed) == ("tiny", {}, RECIPE, 3)


def test_attacks_that_need_no_surrogate_get_none():
    assert [cell.surrogate for cell in planned(RAW, attacks=["one_step"]).cells] == [None]


def test_without_raw_a_transfer_attack_is_left_out():
    found = planned(TRANSFER, attacks=["transfer", "one_step"])
    assert [(skip.defense, skip.attack, skip.reason) for skip in found.skips] == [
        ("plain", "transfer", "it crafts on a surrogate, and no defense 'raw' is installed")
    ]
    assert [cell.attack for cell in found.cells] == ["one_step"]


def test_without_a_recipe_a_transfer_attack_is_left_out():
    loaded = Defense(name="loaded", load=lambda data: toys.tiny_net())
    specs = [RAW, TRANSFER, loaded, toy_dataset(recipes=())]
    (skip,) = planned(*specs, attacks=["transfer", "one_step"], defenses=["loaded"], dataset="other").skips
    assert skip.reason == "it crafts on a surrogate, and other has no recipe to train one"


def test_where_raw_is_claimed_twice_a_transfer_attack_is_left_out():
    twice = toy_registry(Offers(RAW, TRANSFER), Offers(RAW))
    request = Request(defenses=["plain"], dataset="toy", attacks=["transfer", "one_step"])
    assert [skip.attack for skip in plan(request, twice).skips] == ["transfer"]


# Budgets of groups


DATASET_BUDGET = "linf:1/20"
LINF = attack("walk", groups=("suite", "plain"), budgets={"suite": "linf:1/3"})


@pytest.mark.parametrize(
    ("attacks", "threats", "wanted"),
    [
        (["suite"], [], ["linf:1/3"]),
        (["plain"], [], [DATASET_BUDGET]),
        (["walk"], [], [DATASET_BUDGET]),
        (["suite"], ["linf:1/4"], ["linf:1/4"]),
        (["suite,walk"], [], ["linf:1/3", DATASET_BUDGET]),
        (["walk,suite"], ["linf:1/4"], ["linf:1/4"]),
    ],
)
def test_a_group_may_have_a_budget_and_the_users_comes_before_it(attacks, threats, wanted):
    cells = planned(LINF, attacks=attacks, threats=threats).cells
    assert [(cell.attack, str(cell.threat)) for cell in cells] == [("walk", threat) for threat in wanted]


def test_a_budget_that_is_the_datasets_makes_no_second_cell():
    own = attack("walk", groups=("suite",), budgets={"suite": DATASET_BUDGET})
    assert [str(cell.threat) for cell in planned(own, attacks=["suite,walk"]).cells] == [DATASET_BUDGET]


def test_a_step_follows_the_budget_of_its_group():
    own = attack("walk", params={"step": FROM_DATASET}, groups=("suite",), budgets={"suite": "linf:1/10"})
    (asked,), (alone,) = (planned(own, attacks=[name]).cells for name in ("suite", "walk"))
    assert asked.params["step"] == 2 * alone.params["step"]


@pytest.mark.parametrize("budgets", [{"suite": "l2:1"}, {"other": "linf:1/5"}, {"suite": "linf:x"}])
def test_a_budget_that_an_attack_cannot_use_harms_its_own_plugin_only(budgets):
    wrong = attack("walk", groups=("suite",), budgets=budgets)
    assert names(["one_step"], wrong) == ["one_step"]
    with pytest.raises(UnknownName):
        names(["walk"], wrong)
