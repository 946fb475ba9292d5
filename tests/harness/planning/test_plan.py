"""Planning: names to cells, budgets and steps resolved, runs shared, what does not apply said."""

from dataclasses import replace
from fractions import Fraction

import pytest

from harness.api import Attack, hookimpl
from harness.errors import HarnessError, NothingSelected, UnknownName, UsageError
from harness.planning.budgets import asked_threat
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.registry.discovery import discover
from harness.types import Dataset, ThreatModel
from support.plugins import toy_registry

REGISTRY = discover()
TOYS = toy_registry()


ALL = [
    "clean", "gaussian", "uniform", "fgsm", "bim", "iter_ll10", "pgd-10", "pgd-20", "pgd-40", "pgd-100", "cw_inf-10",
    "cw_inf-20", "cw_inf-40", "cw_inf-100", "mi_fgsm", "ti_dim", "deepfool", "ddn",
    "cw_l2[c0=0.1,iterations=100,lr=0.05,searches=5]", "aa_standard", "square", "sta", "sta_b", "fwa", "nst_b",
    "rays[queries=2000]",
]  # fmt: skip
"""What `all` means on ten classes, by decision."""


def planned(registry=REGISTRY, **kwargs):
    return plan(Request(**{"defenses": ["aalp"], "attacks": ["all"], **kwargs}), registry)


def test_all_is_one_member_of_each_family_and_shares_prefix_runs():
    groups = [[cell.attack for cell in group] for group in planned().groups]
    assert sorted(attack for group in groups for attack in group) == sorted(ALL)
    assert ["pgd-10", "pgd-20", "pgd-40", "pgd-100"] in groups
    assert ["cw_inf-10", "cw_inf-20", "cw_inf-40", "cw_inf-100"] in groups
    assert [(skip.attack, skip.reason) for skip in planned().skips] == [
        ("aa_few_class", "needs at most 4 classes, digits has 10")
    ]


@pytest.mark.parametrize(
    ("dataset", "eps", "step"),
    [
        ("digits", Fraction(1, 5), Fraction(1, 50)),
        ("mnist", Fraction(3, 10), Fraction(1, 100)),
        ("svhn", Fraction(12, 255), Fraction(3, 255)),
        ("cifar10", Fraction(8, 255), Fraction(2, 255)),
    ],
)
def test_budgets_and_steps_are_the_papers(dataset, eps, step):
    (cell,) = planned(dataset=dataset, attacks=["pgd-40"]).cells
    assert cell.threat == ThreatModel(kind="linf", eps=eps)
    assert cell.params["step"] == step


def test_a_threat_replaces_the_budget_of_its_own_kind_and_the_step_follows():
    cells = planned(attacks=["pgd-10", "clean"], threats=["linf:8/255,linf:0.1"]).cells
    assert [(c.attack, str(c.threat)) for c in cells] == [
        ("clean", "none"), ("pgd-10", "linf:8/255"), ("pgd-10", "linf:1/10"),
    ]  # fmt: skip
    assert cells[1].params["step"] == Fraction(8, 2550)
    with pytest.raises(UsageError, match="none of the selected attacks works under l2"):
        planned(attacks=["pgd-10"], threats=["l2:1"])
    assert len(planned(attacks=["pgd-10"], threats=["linf:1/5", "linf:0.2"]).cells) == 1


def test_parameters_in_brackets_make_another_cell_and_defaults_do_not():
    cells = planned(attacks=["pgd-10", "pgd-10[restarts=3]", "pgd-10[restarts=1]"]).cells
    assert [c.attack for c in cells] == ["pgd-10", "pgd-10[restarts=3]"]
    subjects = planned(defenses=["aalp", "aalp[version=2]", "aalp[version=1]"]).subjects
    assert [s.defense for s in subjects] == ["aalp", "aalp[version=1]"]


def test_other_parameters_are_not_shared():
    groups = planned(attacks=["pgd-10", "pgd-20[restarts=2]", "bim"]).groups
    assert [len(group) for group in groups] == [1, 1, 1]


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        ({"defenses": ["aapl"]}, UnknownName, "Did you mean: aalp"),
        ({"attacks": ["pdg-10"]}, UnknownName, "pgd-10"),
        ({"dataset": "mnst"}, UnknownName, "mnist"),
        ({"arch": "lenet"}, UnknownName, "lenet5"),
        ({"recipe": "slow"}, UsageError, "no recipe 'slow' for aalp on digits; there are: quick"),
        ({"threats": ["linf:8"]}, UsageError, "linf:8/255"),
        ({"threats": ["linf:x"]}, UsageError, "no threat model"),
        ({"threats": ["l0"]}, UsageError, "has no l0 budget"),
        ({"threats": ["lfin:1/5"]}, UnknownName, "linf"),
        ({"limit": -1}, UsageError, "--limit"),
        ({"limit": 1.5}, UsageError, "--limit"),
        ({"limit": float("nan")}, UsageError, "--limit"),
        ({"defenses": [""]}, NothingSelected, "at least one defense"),
        ({"attacks": ["pgd-10[steps=0]"]}, UsageError, "must be at least 1"),
        ({"defenses": ["aalp[version=3]"]}, UsageError, "must be one of 2, 1"),
        ({"defenses": ["aalp[verson=1]"]}, UsageError, "Its parameters: version"),
        ({"attacks": ["pgd-10[steps=ten]"]}, UsageError, "steps"),
        ({"dataset": "folder"}, UsageError, "folder:PATH"),
        ({"dataset": "digits:x"}, UsageError, "--dataset digits"),
        ({"defenses": ["aalp", "raw"], "weights": "w"}, UsageError, "--weights"),
        ({"defenses": ["zz*"]}, NothingSelected, "matched 0 of"),
    ],
)
def test_every_mistake_is_named_before_any_work(request_, kind, message):
    with pytest.raises(kind, match=None) as error:
        planned(**request_)
    assert message in str(error.value)
    assert isinstance(error.value, HarnessError)


def test_what_does_not_apply_is_skipped_with_its_reason():
    found = planned(TOYS, defenses=["plain"], dataset="toy")
    assert [(skip.attack, skip.reason) for skip in found.skips] == [("needs_many", "needs 50 classes, toy has 4")]
    with pytest.raises(NothingSelected, match="needs 50 classes"):
        planned(TOYS, defenses=["plain"], dataset="toy", attacks=["needs_many"])


def test_weights_given_need_no_recipe_and_take_the_recipes_network():
    (subject,) = planned(weights="x.safetensors").subjects
    assert subject.recipe is None
    assert subject.arch == "digits_net"
    assert planned(arch="digits_net[width=24]").subjects[0].arch_params == {"width": 24}


def test_a_claimed_member_of_a_group_is_skipped_with_its_claimants():
    class Plugin:
        @hookimpl
        def harness_attacks(self):
            return [Attack(name="one_step", run=lambda model, x, y, threat: x, threats=("linf",))]

    found = plan(Request(defenses=["plain"], dataset="toy"), toy_registry(Plugin()))
    (skip,) = [skip for skip in found.skips if skip.attack == "one_step"]
    assert "dist-toys" in skip.reason
    assert "dist-other0" in skip.reason
    qualified = plan(Request(defenses=["plain"], dataset="toy", attacks=["other0/one_step"]), toy_registry(Plugin()))
    assert [cell.attack for cell in qualified.cells] == ["other0/one_step"]
    alone = plan(Request(defenses=["plain"], dataset="toy", attacks=["toys/one_step", "one_step"]), TOYS)
    assert [cell.attack for cell in alone.cells] == ["one_step"]


def test_budgets_of_255ths_are_written_as_papers_write_them():
    texts = ["linf:12/255", "linf:8/255", "linf:1/5", "linf:0.3", "linf:0.031", "linf:5/255", "l2:1/2"]
    shown = ["linf:12/255", "linf:8/255", "linf:1/5", "linf:3/10", "linf:31/1000", "linf:5/255", "l2:1/2"]
    assert [str(ThreatModel.parse(text)) for text in texts] == shown
    assert all(ThreatModel.parse(str(ThreatModel.parse(text))) == ThreatModel.parse(text) for text in texts)


def test_a_located_dataset_shows_its_last_part_only():
    found = planned(dataset="folder:/some/where/cats.zip", defenses=["raw"])
    assert (found.dataset_name, found.location) == ("folder:cats", "/some/where/cats.zip")


@pytest.mark.parametrize(("kind", "farthest"), [("l2", 8), ("l1", 64), ("l0", 64), ("linf", 1)])
def test_a_budget_that_every_image_is_inside_of_is_refused(kind, farthest):
    """On 8x8 images a black one and a white one are sqrt(64), 64, 64 and 1 apart."""
    spec = REGISTRY.get(Dataset, "digits").spec
    assert asked_threat(f"{kind}:{farthest}", spec, REGISTRY).eps == farthest
    with pytest.raises(UsageError, match=r"every image would be inside|did you mean"):
        asked_threat(f"{kind}:{farthest + 1}", spec, REGISTRY)
    assert asked_threat(f"{kind}:{farthest}", replace(spec, shape=None), REGISTRY), "a shape that only loading tells"
